import type { BigIntStats } from 'node:fs';
import { readdir, realpath, stat } from 'node:fs/promises';
import { join } from 'node:path';

/** A file as the file system describes it; another signature means that it has to be read again. */
export interface FoundFile {
  readonly path: string;
  readonly signature: string;
  readonly bytes: number;
}

export interface FoundDirectory {
  readonly path: string;
  /** Another identity under the same path is another directory. */
  readonly identity: string;
}

export interface FoundTree {
  readonly files: readonly FoundFile[];
  readonly directories: readonly FoundDirectory[];
  /** What could not be looked at: path and reason. */
  readonly problems: readonly { readonly path: string; readonly problem: string }[];
}

/**
 * What is at and below `path`, in order of path; undefined when nothing is there. Links are followed, cycles are not.
 * Names that start with a dot are skipped (editors' and mounts' own), and files that end neither in .yaml nor .yml nor
 * .json.
 */
export async function lookAt(path: string, maxDepth: number): Promise<FoundTree | undefined> {
  const found: Gathered = { files: [], directories: [], problems: [] };
  if (!(await visit(path, maxDepth, [], found))) return undefined;
  found.files.sort((a, b) => (a.path < b.path ? -1 : 1));
  return found;
}

export function isManifest(path: string): boolean {
  return /\.(?:yaml|yml|json)$/.test(path);
}

export function isAtOrBelow(path: string, directory: string): boolean {
  return path.startsWith(directory) && (path.length === directory.length || path[directory.length] === '/');
}

/** The signature of a file now; undefined when it is gone. */
export async function signatureOf(path: string): Promise<string | undefined> {
  return stat(path, { bigint: true }).then(sign, () => undefined);
}

async function visit(path: string, depthLeft: number, above: readonly string[], found: Gathered): Promise<boolean> {
  try {
    const stats = await stat(path, { bigint: true });
    if (stats.isFile()) {
      if (isManifest(path)) found.files.push({ path, signature: sign(stats), bytes: Number(stats.size) });
      return true;
    }
    if (!stats.isDirectory()) return true;
    const real = await realpath(path);
    if (above.includes(real)) return true;
    if (depthLeft === 0) {
      found.problems.push({ path, problem: 'is nested too deeply' });
      return true;
    }
    found.directories.push({ path, identity: `${stats.dev}:${stats.ino}` });
    const names = (await readdir(path)).filter((name) => !name.startsWith('.'));
    await Promise.all(names.map((name) => visit(join(path, name), depthLeft - 1, [...above, real], found)));
    return true;
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code;
    if (code === 'ENOENT' || code === 'ENOTDIR') return false;
    found.problems.push({ path, problem: `cannot be read (${code ?? String(error)})` });
    return true;
  }
}

function sign(stats: BigIntStats): string {
  return `${stats.dev}:${stats.ino}:${stats.size}:${stats.mtimeNs}:${stats.ctimeNs}`;
}

interface Gathered {
  readonly files: FoundFile[];
  readonly directories: FoundDirectory[];
  readonly problems: FoundTree['problems'][number][];
}
