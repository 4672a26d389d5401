import { setImmediate } from 'node:timers/promises';
import { err, ok, type Result } from '../../../lib/result.js';
import { readYamlDocuments } from '../../../lib/yaml.js';
import {
  formatParseError,
  idOf,
  itemsOf,
  type KubernetesObject,
  parseObject,
} from '../../../model/kubernetes/object.js';

/** What one file says. */
export interface Manifest {
  readonly objects: readonly KubernetesObject[];
  /** What was read and has no effect. */
  readonly notes: readonly string[];
}

/** What is wrong with a file, a sentence each. */
export interface BadManifest {
  readonly problems: readonly string[];
  /** What stands for those of its policies that cannot be read. */
  readonly closed: readonly KubernetesObject[];
}

/**
 * Parses a file of YAML or JSON: several documents, lists unfolded. A file is good as a whole or not at all, so that
 * nobody acts on half of it. Error: everything that is wrong with it.
 */
export function parseManifest(bytes: Uint8Array): Result<Manifest, BadManifest> {
  const steps = read(bytes);
  for (;;) {
    const step = steps.next();
    if (step.done) return step.value;
  }
}

/** The same in slices of some milliseconds: whoever else needs the thread gets it in between. */
export async function parseManifestInSlices(bytes: Uint8Array): Promise<Result<Manifest, BadManifest>> {
  const steps = read(bytes);
  for (let until = performance.now() + SLICE_MS; ; ) {
    const step = steps.next();
    if (step.done) return step.value;
    if (performance.now() < until) continue;
    await setImmediate();
    until = performance.now() + SLICE_MS;
  }
}

/** A step is one object. */
function* read(bytes: Uint8Array): Generator<undefined, Result<Manifest, BadManifest>> {
  const text = decode(bytes);
  if (text === undefined) return err({ problems: ['is not UTF-8 text'], closed: [] });
  const objects: KubernetesObject[] = [];
  const notes: string[] = [];
  const problems: string[] = [];
  const closed: KubernetesObject[] = [];
  const seen = new Set<string>();
  for (const document of readYamlDocuments(text)) {
    if (!document.ok) problems.push(...document.error);
    if (!document.ok) continue;
    const { value, line } = document.value;
    for (const item of itemsOf(value)) {
      yield;
      const parsed = parseObject(item);
      if (!parsed.ok) {
        problems.push(`line ${line}: ${formatParseError(parsed.error)}`);
        if (parsed.error.closed !== undefined) closed.push(parsed.error.closed);
      } else if ('ignored' in parsed.value) {
        notes.push(`line ${line}: ${parsed.value.ignored}`);
      } else {
        const id = idOf(parsed.value.object);
        if (seen.has(id)) problems.push(`line ${line}: ${id} is in this file twice`);
        seen.add(id);
        objects.push(parsed.value.object);
      }
    }
  }
  return problems.length > 0 ? err({ problems, closed }) : ok({ objects, notes });
}

function decode(bytes: Uint8Array): string | undefined {
  try {
    return new TextDecoder('utf-8', { fatal: true }).decode(bytes);
  } catch {
    return undefined;
  }
}

const SLICE_MS = 10;
