import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, openSync, readFileSync } from 'node:fs';
import { setTimeout as wait } from 'node:timers/promises';

/** A program that runs in the background, inside a network namespace, its output in a file. */
export class Background {
  static readonly #all = new Set<Background>();
  readonly #child: ChildProcess;

  private constructor(
    child: ChildProcess,
    readonly name: string,
    readonly log: string,
  ) {
    this.#child = child;
    Background.#all.add(this);
    child.once('exit', () => Background.#all.delete(this));
  }

  /** Kills whatever still runs: for a bench that is interrupted. */
  static killAll(): void {
    for (const each of Background.#all) each.#child.kill('SIGKILL');
  }

  static start(
    name: string,
    netns: string,
    command: readonly string[],
    log: string,
    env: NodeJS.ProcessEnv = {},
  ): Background {
    const output = openSync(log, 'w');
    // nsenter replaces itself with the program, so the pid is the program's.
    const child = spawn('nsenter', [`--net=${netns}`, ...command], {
      stdio: ['ignore', output, output],
      env: { ...process.env, ...env },
    });
    closeSync(output);
    return new Background(child, name, log);
  }

  get pid(): number {
    return this.#child.pid ?? 0;
  }

  get running(): boolean {
    return this.#child.exitCode === null && this.#child.signalCode === null;
  }

  /** Waits until `ready` resolves to true; throws with the end of the log when the program ends or the time is up. */
  async until(ready: () => Promise<boolean>, timeoutMs: number): Promise<void> {
    const deadline = Date.now() + timeoutMs;
    while (!(await ready())) {
      if (!this.running || Date.now() > deadline) {
        const why = this.running ? `was not ready within ${timeoutMs} ms` : 'ended';
        throw new Error(`${this.name} ${why}:\n${readFileSync(this.log, 'utf8').slice(-600)}`);
      }
      await wait(50);
    }
  }

  async stop(): Promise<void> {
    if (!this.running) return;
    this.#child.kill('SIGTERM');
    const killer = setTimeout(() => this.#child.kill('SIGKILL'), 8000);
    await once(this.#child, 'exit');
    clearTimeout(killer);
  }
}

/** CPU seconds that the processes have used so far. */
export function cpuSeconds(pids: readonly number[]): number {
  return pids.reduce((sum, pid) => {
    const stat = readProc(pid, 'stat');
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
    return sum + (Number(fields[11]) + Number(fields[12])) / TICKS_PER_SECOND;
  }, 0);
}

/** Resident memory of each process, megabytes (10^6 bytes). */
export function residentMegabytes(pids: readonly number[]): number[] {
  return pids.map((pid) => (Number(/^VmRSS:\s+(\d+)/m.exec(readProc(pid, 'status'))?.[1] ?? 0) * 1024) / 1e6);
}

function readProc(pid: number, file: string): string {
  return readFileSync(`/proc/${pid}/${file}`, 'utf8');
}

const TICKS_PER_SECOND = 100;
