import type { ChildProcess } from 'node:child_process';
import { closeSync, openSync } from 'node:fs';
import { setTimeout as delay } from 'node:timers/promises';
import { BackOff } from '../lib/back-off.js';
import type { Clock } from '../lib/clock.js';
import { childrenOf, endChild, hasExited, spawnBound } from './children.js';

export interface DaemonStart {
  /** For messages. */
  readonly name: string;
  readonly argv: readonly string[];
  readonly env: NodeJS.ProcessEnv;
  readonly log: string;
  readonly clock: Clock;
  readonly onChange: () => void;
  /**
   * Whether the process `pid` has taken over from the one before it. With it, an orderly restart starts the new process
   * first, as a rollout does, and ends the old one only then, however long that takes; without, the old one ends first.
   */
  readonly hasTakenOver?: (pid: number) => Promise<boolean>;
}

/** A process of the mesh (agent, control plane) that is started again when it ends. */
export class Daemon {
  restarts = 0;
  #child: ChildProcess | undefined;
  #stopped = true;
  #cancel: () => void = () => {};
  readonly #backOff = new BackOff(200, 10_000);
  /** Replaced, and not ended yet. */
  readonly #former = new Set<ChildProcess>();

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

  /**
   * Ends the process, SIGKILL at once or SIGTERM with `graceMs`, and starts it again: at once, or before. Rejects when
   * the new one is not at work in time: the old one serves on then, and is ended as soon as it may be.
   */
  async restart(kill: boolean, graceMs: number): Promise<void> {
    const { hasTakenOver } = this.start;
    const former = this.#child;
    if (kill || hasTakenOver === undefined || former === undefined) await this.stop(kill ? 0 : graceMs);
    this.restarts += 1;
    this.run();
    if (kill || hasTakenOver === undefined || former === undefined) return;
    this.#former.add(former);
    const replaced = this.#replace(former, hasTakenOver, graceMs);
    const cancel = new AbortController();
    const late = delay(TAKE_OVER_WAIT_MS, true, { signal: cancel.signal }).catch(() => false);
    const isLate = await Promise.race([replaced.then(() => false), late]);
    cancel.abort();
    if (isLate) throw new Error(`${this.start.name}: the new process is not at work yet; the old one serves on`);
  }

  async #replace(
    former: ChildProcess,
    hasTakenOver: (pid: number) => Promise<boolean>,
    graceMs: number,
  ): Promise<void> {
    // The new process may have died and been started again meanwhile.
    while (!hasExited(former) && !(this.pid !== undefined && (await hasTakenOver(this.pid)))) await delay(POLL_MS);
    await endChild(former, graceMs);
    this.#former.delete(former);
  }

  async stop(graceMs: number): Promise<void> {
    this.#stopped = true;
    this.#cancel();
    const all = [...this.#former, ...(this.#child === undefined ? [] : [this.#child])];
    await Promise.all(all.map((child) => endChild(child, graceMs)));
  }

  /** The process and what it started: for `lab status`. */
  get pids(): readonly number[] {
    return this.pid === undefined ? [] : [this.pid, ...childrenOf(this.pid)];
  }
}

const STEADY_MS = 10_000;
const POLL_MS = 50;
const TAKE_OVER_WAIT_MS = 30_000;
