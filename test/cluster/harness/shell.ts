/** Programs and waiting, with errors that throw: a harness has nobody to hand them to. */
import { setTimeout as sleep } from 'node:timers/promises';
import { type CommandOptions, run } from '../../../src/lib/command.js';

/** Runs a program to its end, gives its standard output. */
export async function sh(command: readonly string[], options: CommandOptions = {}): Promise<string> {
  const [file = '', ...args] = command;
  const result = await run(file, args, { timeoutMs: 60_000, ...options });
  if (!result.ok) throw new Error(result.error);
  return result.value;
}

/** Asks until the answer is neither undefined nor false, and gives it. What `ask` throws counts as "not yet". */
export async function until<T>(
  what: string,
  ask: () => Promise<T | undefined | false> | T | undefined | false,
  { timeoutMs = 30_000, everyMs = 50 }: { timeoutMs?: number; everyMs?: number } = {},
): Promise<T> {
  const deadline = Date.now() + timeoutMs;
  let last = '';
  for (;;) {
    try {
      const answer = await ask();
      if (answer !== undefined && answer !== false) return answer;
      last = '';
    } catch (error) {
      last = error instanceof Error ? error.message : String(error);
    }
    if (Date.now() > deadline) {
      throw new Error(`waited ${timeoutMs / 1000} s until ${what}${last === '' ? '' : `: ${last}`}`);
    }
    await sleep(everyMs);
  }
}
