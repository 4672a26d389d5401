import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readFileSync, renameSync } from 'node:fs';
import { homedir } from 'node:os';
import { join, resolve } from 'node:path';
import { run } from '../../src/lib/command.js';

export interface HelmCase {
  readonly namespace: string;
  readonly values?: Readonly<Record<string, unknown>>;
  /** As after `--set`. */
  readonly set?: readonly string[];
}

export interface HelmAnswer {
  /** By path of the template. */
  readonly texts?: Readonly<Record<string, string>>;
  readonly error?: string;
}

/** What Helm itself makes of `chart`, case by case. Helm's library is built once, outside the tree; undefined without Go. */
export async function renderWithHelm(
  chart: string,
  cases: readonly HelmCase[],
): Promise<readonly HelmAnswer[] | undefined> {
  const program = await helmProgram();
  if (program === undefined) return undefined;
  const rendered = await run(program, [chart], { input: JSON.stringify(cases), timeoutMs: 60_000 });
  if (!rendered.ok) throw new Error(rendered.error);
  return JSON.parse(rendered.value) as readonly HelmAnswer[];
}

async function helmProgram(): Promise<string | undefined> {
  const version = await run('go', ['version']);
  if (!version.ok) return undefined;
  const key = createHash('sha256').update(version.value);
  for (const file of ['go.mod', 'go.sum', 'main.go']) key.update(readFileSync(join(SOURCE, file)));
  const directory = join(process.env.XDG_CACHE_HOME ?? join(homedir(), '.cache'), 'meltemi/helm');
  const program = join(directory, key.digest('hex').slice(0, 16));
  if (existsSync(program)) return program;
  mkdirSync(directory, { recursive: true });
  const part = `${program}.${process.pid}`;
  const built = await run('go', ['build', '-C', SOURCE, '-ldflags=-s -w', '-o', part, '.'], { timeoutMs: 900_000 });
  if (!built.ok) throw new Error(built.error);
  renameSync(part, program);
  return program;
}

const SOURCE = resolve(import.meta.dirname, '../../../test/support/helm');
