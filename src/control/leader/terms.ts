import { BackOff } from '../../lib/back-off.js';
import type { Clock } from '../../lib/clock.js';
import type { Logger } from '../../telemetry/log.js';
import type { Counter, MetricsRegistry } from '../../telemetry/metrics.js';
import type { LeaderTask } from './leader.js';

export interface TermsOptions {
  readonly clock: Clock;
  readonly log: Logger;
  readonly metrics: MetricsRegistry;
}

/** The tasks of a leader, run from the beginning of each term to its end. Knows nothing of how terms come about. */
export class Terms {
  readonly #options: TermsOptions;
  readonly #tasks = new Set<Task>();
  readonly #failures: Counter;
  readonly #terms: Counter;
  #term: AbortController | undefined;

  constructor(options: TermsOptions) {
    const { metrics } = options;
    this.#options = options;
    this.#terms = metrics.counter('meltemi_leader_terms_total', 'Times this process became the leader.');
    this.#failures = metrics.counter('meltemi_leader_task_failures_total', 'Leader tasks that failed.', ['task']);
    metrics.gauge('meltemi_leader', 'Whether this process leads.', [], () => (this.isRunning ? 1 : 0));
  }

  get isRunning(): boolean {
    return this.#term !== undefined;
  }

  begin(): void {
    if (this.#term !== undefined) return;
    this.#term = new AbortController();
    this.#terms.inc();
    for (const task of this.#tasks) this.#start(task, this.#term.signal);
  }

  end(because: string): void {
    const term = this.#term;
    this.#term = undefined;
    term?.abort(new Error(`no longer the leader: ${because}`));
  }

  run(name: string, run: LeaderTask): () => void {
    const task: Task = { name, run, ended: new AbortController(), settled: Promise.resolve() };
    this.#tasks.add(task);
    if (this.#term !== undefined) this.#start(task, this.#term.signal);
    return () => {
      this.#tasks.delete(task);
      task.ended.abort(new Error(`${name} was ended`));
    };
  }

  /** Resolves when nothing of a former term is under way any more. */
  async settled(): Promise<void> {
    await Promise.all([...this.#tasks].map((task) => task.settled));
  }

  #start(task: Task, term: AbortSignal): void {
    const signal = AbortSignal.any([term, task.ended.signal]);
    // Never two of the same: that of a former term may still be on its way out.
    task.settled = task.settled.then(() => this.#keepRunning(task, signal));
  }

  async #keepRunning({ name, run }: Task, signal: AbortSignal): Promise<void> {
    const { clock, log } = this.#options;
    const backOff = new BackOff(RETRY_BASE_MS, RETRY_MAX_MS);
    while (!signal.aborted) {
      try {
        await run(signal);
        return;
      } catch (error) {
        if (signal.aborted) return;
        this.#failures.inc({ task: name });
        log.error({ task: name, error }, 'a task of the leader failed; trying again');
        await pause(clock, backOff.next(), signal);
      }
    }
  }
}

/** Resolves after this time, or when the signal aborts. */
export function pause(clock: Clock, delayMs: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const done = (): void => {
      cancel();
      signal.removeEventListener('abort', done);
      resolve();
    };
    const cancel = clock.schedule(delayMs, done);
    signal.addEventListener('abort', done);
    if (signal.aborted) done();
  });
}

interface Task {
  readonly name: string;
  readonly run: LeaderTask;
  readonly ended: AbortController;
  /** Of the last time it was started. */
  settled: Promise<void>;
}

const RETRY_BASE_MS = 500;
const RETRY_MAX_MS = 30_000;
