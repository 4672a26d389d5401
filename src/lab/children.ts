import { type ChildProcess, type SpawnOptions, spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { setTimeout as delay } from 'node:timers/promises';

/** Processes that must not outlive the one that started them. */

/**
 * Starts a program that is killed by the kernel when this process dies, however it dies. The program is the child
 * itself: `child.pid` is its pid.
 */
export function spawnBound(argv: readonly string[], options: SpawnOptions): ChildProcess {
  const child = spawn('setpriv', ['--pdeathsig', 'KILL', '--', ...argv], { cwd: '/', ...options });
  // A spawn that fails shows as an exit; without a listener it would end this process.
  child.on('error', () => child.emit('exit', 127, null));
  return child;
}

export function hasExited(child: ChildProcess): boolean {
  return child.exitCode !== null || child.signalCode !== null || child.pid === undefined;
}

/** Resolves when the child has ended; at once when it has already. */
export async function exited(child: ChildProcess): Promise<void> {
  if (!hasExited(child)) await once(child, 'exit');
}

/** SIGTERM (by `terminate`), then after `graceMs` SIGKILL; resolves when the child has ended. */
export async function endChild(
  child: ChildProcess,
  graceMs: number,
  terminate = () => child.kill('SIGTERM'),
): Promise<void> {
  if (hasExited(child)) return;
  const gone = once(child, 'exit');
  if (graceMs > 0) {
    terminate();
    const cancel = new AbortController();
    await Promise.race([gone, delay(graceMs, undefined, { signal: cancel.signal }).catch(() => {})]);
    cancel.abort();
  }
  if (!hasExited(child)) child.kill('SIGKILL');
  await gone;
}

/** Pids of the children of a process, as this machine sees them; empty when it has none or is gone. */
export function childrenOf(pid: number): readonly number[] {
  try {
    return readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8').split(' ').filter(Boolean).map(Number);
  } catch {
    return [];
  }
}
