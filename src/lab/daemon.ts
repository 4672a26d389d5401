import type { ChildProcess } from 'node:child_process';
import { closeSync, openSync } from 'node:fs';
import { BackOff } from '../lib/back-off.js';
import type { Clock } from '../lib/clock.js';
import { childrenOf, endChild, spawnBound } from './children.js';

export interface DaemonStart {
  /** For messages. */
  readonly name: string;
  readonly argv: readonly string[];
  readonly env: NodeJS.ProcessEnv;
  readonly log: string;
  readonly clock: Clock;
  readonly onChange: () => void;
}

/** A process of the mesh (agent, control plane) that is started again when it ends. */
export class Daemon {
  restarts = 0;
  #child: ChildProcess | undefined;
  #stopped = true;
  #cancel: () => void = () => {};
  readonly #backOff = new BackOff(200, 10_000);

  constructor(readonly start: DaemonStart) {}

  get pid(): number | undefined {
    return this.#child?.pid;
  }

  run(): void {
    this.#stopped = false;
    const { start } = this;
    const began = start.clock.now();
    const log = openSync(start.log, 'a');
    const child = spawnBound(start.argv, { stdio: ['ignore', log, log], env: start.env, detached: true });
    closeSync(log);
    this.#child = child;
    child.once('exit', () => {
      if (this.#child !== child) return;
      this.#child = undefined;
      start.onChange();
      if (this.#stopped) return;
      if (start.clock.now() - began > STEADY_MS) this.#backOff.reset();
      this.#cancel = start.clock.schedule(this.#backOff.next(), () => {
        this.restarts += 1;
        this.run();
      });
    });
    start.onChange();
  }

  /** Ends the process, SIGKILL at once or SIGTERM with `graceMs`, and starts it again at once. */
  async restart(kill: boolean, graceMs: number): Promise<void> {
    await this.stop(kill ? 0 : graceMs);
    this.restarts += 1;
    this.run();
  }

  async stop(graceMs: number): Promise<void> {
    this.#stopped = true;
    this.#cancel();
    if (this.#child !== undefined) await endChild(this.#child, graceMs);
  }

  /** The process and what it started: for `lab status`. */
  get pids(): readonly number[] {
    return this.pid === undefined ? [] : [this.pid, ...childrenOf(this.pid)];
  }
}

const STEADY_MS = 10_000;
