import { execa } from 'execa';
import { err, ok, type Result } from './result.js';

/** Programs run to their end. The only importer of execa. */

export interface CommandOptions {
  /** Written to the program's standard input, which is closed afterwards. Default: empty. */
  input?: string;
  /** The program is killed after this long. Default 10 s. */
  timeoutMs?: number;
}

export type Run = (command: string, args: readonly string[], options?: CommandOptions) => Promise<Result<string>>;

/**
 * Runs `command` with `args` (no shell) and gives its standard output, unchanged. The error is one sentence that names
 * the command, how it ended (missing, exit code, signal, time limit) and what it said on standard error. Output beyond
 * 16 MB is an error.
 */
export const run: Run = async (command, args, options = {}) => {
  const timeoutMs = options.timeoutMs ?? DEFAULT_TIMEOUT_MS;
  const result = await execa(command, args, {
    input: options.input ?? '',
    timeout: timeoutMs,
    forceKillAfterDelay: 1_000,
    maxBuffer: MAX_OUTPUT_BYTES,
    stripFinalNewline: false,
    reject: false,
  });
  if (!result.failed) return ok(result.stdout);
  const line = [command, ...args].join(' ');
  if (result.timedOut) return err(`"${line}" did not end within ${timeoutMs} ms`);
  if (result.isMaxBuffer) return err(`"${line}" printed more than ${MAX_OUTPUT_BYTES} bytes`);
  if (result.code === 'ENOENT') return err(`"${command}" cannot be started: is the program installed?`);
  const ending =
    result.signal !== undefined
      ? `was ended by ${result.signal}`
      : result.exitCode !== undefined
        ? `failed with code ${result.exitCode}`
        : `cannot be started (${result.code ?? 'unknown cause'})`;
  const said = result.stderr.trim() || result.stdout.trim();
  return err(`"${line}" ${ending}${said === '' ? '' : `: ${said}`}`);
};

/**
 * `run` with at most `most` programs at a time; the others wait their turn, in the order of the calls. A program's time
 * limit starts with the program: many at once would take each other's time until none came to its end.
 */
export function limitRun(run: Run, most: number): Run {
  const waiting: (() => void)[] = [];
  let running = 0;
  return async (command, args, options) => {
    if (running >= most) await new Promise<void>((resolve) => waiting.push(resolve));
    else running += 1;
    try {
      return await run(command, args, options);
    } finally {
      const next = waiting.shift();
      if (next === undefined) running -= 1;
      // Whoever is next takes this place.
      else next();
    }
  };
}

const DEFAULT_TIMEOUT_MS = 10_000;
const MAX_OUTPUT_BYTES = 16 * 1024 * 1024;
