import type { Clock } from '../../../lib/clock.js';
import { idOf } from '../../../model/kubernetes/object.js';
import type { ObjectChange } from '../inputs.js';

/**
 * Gathers changes into transactions. A change that comes alone is applied at once; those that follow within the window
 * are applied together at its end, so that a burst costs one transaction a window and nobody waits longer than that.
 */
export class Batch {
  readonly #changes = new Map<string, ObjectChange>();
  #isHeld = true;
  #isDue = false;
  #lastMs = Number.NEGATIVE_INFINITY;
  #cancel: () => void = () => {};

  /** Holds everything back until the first `release`. */
  constructor(
    readonly apply: (changes: readonly ObjectChange[]) => void,
    readonly windowMs: number,
    readonly clock: Clock,
  ) {}

  /** Of one object only the last state counts. */
  add(changes: Iterable<ObjectChange>): void {
    for (const change of changes) this.#changes.set(idOf(change.object), change);
    this.#arrange();
  }

  /** Applies what has been gathered so far, and goes on by itself. */
  release(): void {
    this.#isHeld = false;
    this.#flush();
  }

  close(): void {
    this.#isHeld = true;
    this.#cancel();
  }

  #arrange(): void {
    if (this.#isHeld || this.#isDue || this.#changes.size === 0) return;
    this.#isDue = true;
    const waitMs = this.#lastMs + this.windowMs - this.clock.now();
    if (waitMs > 0) {
      this.#cancel = this.clock.schedule(waitMs, () => this.#flush());
    } else {
      // What has arrived in the same piece of a watch belongs together.
      const immediate = setImmediate(() => this.#flush());
      this.#cancel = () => clearImmediate(immediate);
    }
  }

  #flush(): void {
    this.#isDue = false;
    if (this.#isHeld || this.#changes.size === 0) return;
    const changes = [...this.#changes.values()];
    this.#changes.clear();
    this.#lastMs = this.clock.now();
    this.apply(changes);
  }
}
