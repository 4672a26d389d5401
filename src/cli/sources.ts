import { readdir, readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import type { Source } from '../lab/api.js';

/** The texts behind `-f`: files, the YAML and JSON files of directories (not of those below), or standard input. */
export async function readSources(paths: readonly string[]): Promise<readonly Source[]> {
  return (await Promise.all(paths.map(readPath))).flat();
}

async function readPath(path: string): Promise<readonly Source[]> {
  if (path === '-') return [{ name: 'standard input', text: await text(process.stdin) }];
  const found = await stat(path).catch(() => undefined);
  if (found === undefined) throw new Error(`${path}: there is no such file or directory`);
  if (!found.isDirectory()) return [{ name: path, text: await readFile(path, 'utf8') }];
  const names = (await readdir(path)).filter((name) => /^[^.].*\.(ya?ml|json)$/.test(name)).sort();
  if (names.length === 0) throw new Error(`${path}: there is no .yaml, .yml or .json file in it`);
  return await Promise.all(
    names.map(async (name) => ({ name: join(path, name), text: await readFile(join(path, name), 'utf8') })),
  );
}
