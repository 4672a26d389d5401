/** Exponential delays with full jitter in the upper half: base, 2·base, 4·base … up to max, all in milliseconds. */
export class BackOff {
  #attempt = 0;

  constructor(
    readonly baseMs: number,
    readonly maxMs: number,
    readonly random: () => number = Math.random,
  ) {}

  /** The delay before the next try. */
  next(): number {
    const ceiling = Math.min(this.maxMs, this.baseMs * 2 ** Math.min(this.#attempt++, 30));
    return ceiling / 2 + (this.random() * ceiling) / 2;
  }

  /** Call after a success. */
  reset(): void {
    this.#attempt = 0;
  }
}
