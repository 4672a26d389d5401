import { createHash } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import type { FileVersion } from './ledger.js';
import { type BadManifest, type Manifest, parseManifestInSlices } from './manifest.js';
import { type FoundFile, signatureOf } from './tree.js';

/**
 * Reads and parses a file as it was found; `moving` when it is another by now, or gone. `known` tells what content of a
 * hash says, if that has been found out before.
 */
export async function readVersion(
  { path, signature, bytes: size }: FoundFile,
  maxBytes: number,
  known: (hash: string) => Manifest | undefined,
): Promise<FileVersion | 'moving'> {
  const bad = (hash: string, problems: readonly string[], closed: BadManifest['closed'] = []) => {
    return { signature, hash, manifest: undefined, problems, closed };
  };
  if (size > maxBytes) return bad('', [`has ${size} bytes, more than ${maxBytes}`]);
  let bytes: Uint8Array;
  try {
    bytes = await readFile(path);
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code;
    return code === 'ENOENT' ? 'moving' : bad('', [`cannot be read (${code ?? String(error)})`]);
  }
  if ((await signatureOf(path)) !== signature) return 'moving';
  const hash = createHash('sha256').update(bytes).digest('base64');
  const before = known(hash);
  if (before !== undefined) return { signature, hash, manifest: before, problems: [], closed: [] };
  const parsed = await parseManifestInSlices(bytes);
  return parsed.ok
    ? { signature, hash, manifest: parsed.value, problems: [], closed: [] }
    : bad(hash, parsed.error.problems, parsed.error.closed);
}
