import type { Clock } from '../lib/clock.js';

/**
 * Lets a few in at a time, in the order in which they came. Who stays inside for too long no longer counts: somebody
 * slow must not keep the others waiting.
 */
export class Gate {
  readonly #waiting: (() => void)[] = [];
  #inside = 0;

  constructor(
    readonly places: number,
    readonly maxMs: number,
    readonly clock: Clock,
  ) {}

  /** Calls `enter` when there is room, never at once. Returns how to leave, inside or while waiting. */
  enter(enter: () => void): () => void {
    let state: 'waiting' | 'inside' | 'gone' = 'waiting';
    let cancel = () => {};
    const leave = () => {
      if (state === 'inside') {
        this.#inside--;
        this.#admit();
      }
      state = 'gone';
      cancel();
    };
    this.#waiting.push(() => {
      if (state === 'gone') return;
      state = 'inside';
      this.#inside++;
      cancel = this.clock.schedule(this.maxMs, leave);
      enter();
    });
    setImmediate(() => this.#admit());
    return leave;
  }

  #admit(): void {
    while (this.#inside < this.places) {
      const next = this.#waiting.shift();
      if (next === undefined) return;
      next();
    }
  }
}
