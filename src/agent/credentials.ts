import { readFile } from 'node:fs/promises';

/** Content of a small text file without the line end; undefined when `path` is empty. Rejects when it is not there. */
export async function readIfThere(path: string): Promise<string | undefined> {
  return path === '' ? undefined : (await readFile(path, 'utf8')).trim();
}
