import { chmodSync, lstatSync, readdirSync, readFileSync, realpathSync, rmSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { writeFileAtomically } from '../../lib/atomic-file.js';
import { type ConfFile, type Edit, isConfName } from './conf-dir.js';

/** The files of a configuration directory that a runtime reads; none when the directory is not there. */
export function readConfFiles(directory: string): ConfFile[] {
  const files: ConfFile[] = [];
  for (const name of namesIn(directory).filter(isConfName)) {
    const path = join(directory, name);
    try {
      if (!statSync(path).isFile()) continue;
      files.push({ name, text: statSync(path).size > MAX_CONF_BYTES ? '' : readFileSync(path, 'utf8') });
    } catch (error) {
      // Gone since the listing, or a link to nowhere: no runtime can read it either.
      if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
    }
  }
  return files;
}

/**
 * Makes the edits, each as a whole: a runtime that reads meanwhile sees the former file or the new. The mode stays, and
 * so does a symbolic link, whose target is written. Throws when a file cannot be written.
 */
export function applyEdits(directory: string, edits: readonly Edit[]): void {
  for (const edit of edits) {
    const path = join(directory, edit.name);
    if (edit.action === 'remove') {
      rmSync(path, { force: true });
      continue;
    }
    const { target, mode } = writtenTo(path);
    writeFileAtomically(target, edit.text, mode);
    // The mode it was made with was subject to the process's mask.
    chmodSync(target, mode);
  }
}

/** What a process left behind that was killed while it wrote in `directory`: never read by a runtime, but not ours to leave. */
export function removeLeftovers(directory: string, ofFile: (name: string) => boolean): string[] {
  const leftovers = namesIn(directory).filter((name) => {
    const original = /^(.+)\.[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\.tmp$/.exec(name)?.[1];
    return original !== undefined && ofFile(original);
  });
  for (const name of leftovers) rmSync(join(directory, name), { force: true });
  return leftovers;
}

function writtenTo(path: string): { readonly target: string; readonly mode: number } {
  const own = lstatSync(path, { throwIfNoEntry: false });
  if (own === undefined) return { target: path, mode: NEW_FILE_MODE };
  const target = own.isSymbolicLink() ? realpathSync(path) : path;
  return { target, mode: statSync(target).mode & 0o7777 };
}

function namesIn(directory: string): string[] {
  try {
    return readdirSync(directory);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return [];
    throw error;
  }
}

/** A conflist has a few hundred bytes; more is none. */
const MAX_CONF_BYTES = 1 << 20;
const NEW_FILE_MODE = 0o644;
