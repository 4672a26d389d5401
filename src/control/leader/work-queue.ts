import { BackOff } from '../../lib/back-off.js';
import type { Clock } from '../../lib/clock.js';

export interface WorkQueueOptions {
  /** Brings what a key names into order. Rejects when it could not: it is tried again later. */
  readonly work: (key: string) => Promise<void>;
  /** Hears why, each time. */
  readonly failed: (key: string, error: unknown) => void;
  readonly clock: Clock;
  /** Keys in work at the same time. */
  readonly concurrency?: number;
}

/**
 * Keys that need work, each once however often it is asked for. One that failed, or that is asked for again right after
 * it was done (somebody else undoes our work), waits longer each time.
 */
export class WorkQueue {
  readonly #options: WorkQueueOptions;
  readonly #waiting = new Set<string>();
  readonly #inWork = new Set<string>();
  readonly #keys = new Map<
    string,
    { readonly backOff: BackOff; notBeforeMs: number; doneMs: number; cancel: () => void }
  >();
  #closed = false;

  constructor(options: WorkQueueOptions) {
    this.#options = options;
  }

  /** How many are not in order. */
  get pending(): number {
    return this.#waiting.size + this.#inWork.size;
  }

  /** `isNews`: not because of what others did, but because something else is wanted now: that waits for nothing. */
  add(key: string, isNews = false): void {
    if (this.#closed) return;
    this.#waiting.add(key);
    const known = this.#keys.get(key);
    if (isNews && known !== undefined) {
      known.backOff.reset();
      known.notBeforeMs = 0;
      known.cancel();
    }
    const waitMs = (known?.notBeforeMs ?? 0) - this.#options.clock.now();
    if (known !== undefined && waitMs > 0) {
      known.cancel();
      known.cancel = this.#options.clock.schedule(waitMs, () => {
        // By the timer, not by the clock: they differ by a millisecond, and nobody would call again.
        known.notBeforeMs = 0;
        this.#pump();
      });
    }
    this.#pump();
  }

  /** It needs nothing any more. */
  forget(key: string): void {
    this.#waiting.delete(key);
    this.#keys.get(key)?.cancel();
    this.#keys.delete(key);
  }

  close(): void {
    this.#closed = true;
    for (const key of [...this.#keys.keys()]) this.forget(key);
    this.#waiting.clear();
  }

  #pump(): void {
    const { clock, concurrency = DEFAULT_CONCURRENCY } = this.#options;
    for (const key of this.#waiting) {
      if (this.#inWork.size >= concurrency) return;
      if (this.#inWork.has(key) || (this.#keys.get(key)?.notBeforeMs ?? 0) > clock.now()) continue;
      this.#waiting.delete(key);
      this.#inWork.add(key);
      void this.#do(key);
    }
  }

  async #do(key: string): Promise<void> {
    const { work, failed, clock } = this.#options;
    const state = this.#keys.get(key) ?? {
      backOff: new BackOff(BASE_MS, MAX_MS),
      notBeforeMs: 0,
      doneMs: Number.NEGATIVE_INFINITY,
      cancel: () => {},
    };
    this.#keys.set(key, state);
    try {
      await work(key);
      if (clock.now() - state.doneMs > CALM_MS) state.backOff.reset();
      state.doneMs = clock.now();
      state.notBeforeMs = clock.now() + Math.min(state.backOff.next(), MAX_REPEAT_MS);
    } catch (error) {
      if (!this.#closed) failed(key, error);
      state.notBeforeMs = clock.now() + state.backOff.next();
      if (this.#keys.get(key) === state) this.#waiting.add(key);
    }
    this.#inWork.delete(key);
    if (this.#closed) return;
    if (this.#waiting.has(key)) this.add(key);
    this.#pump();
  }
}

const DEFAULT_CONCURRENCY = 8;
const BASE_MS = 200;
const MAX_MS = 60_000;
/** Of what went well and is asked for again. */
const MAX_REPEAT_MS = 10_000;
/** Whoever needs nothing for so long starts over with short pauses. */
const CALM_MS = 120_000;
