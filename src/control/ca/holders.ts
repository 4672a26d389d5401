/**
 * Who holds a certificate, and which trust bundle came with it: needed to know when everybody has seen a step of a
 * rotation. A holder that asks again counts by its newest certificate only.
 */
export class Holders {
  readonly #holders = new Map<string, { readonly bundle: string; readonly notAfterMs: number }>();

  record(holder: string, bundle: string, notAfterMs: number): void {
    this.#holders.set(holder, { bundle, notAfterMs });
  }

  /** How many hold a valid certificate, and until when the last one is valid; of those who have another bundle. */
  without(bundle: string, nowMs: number): { readonly count: number; readonly untilMs: number } {
    let count = 0;
    let untilMs = 0;
    for (const each of this.#holders.values()) {
      if (each.notAfterMs <= nowMs || each.bundle === bundle) continue;
      count++;
      untilMs = Math.max(untilMs, each.notAfterMs);
    }
    return { count, untilMs };
  }

  /** How many hold a valid certificate. */
  count(nowMs: number): number {
    return this.without('', nowMs).count;
  }

  /** Forgets whose certificates have ended. */
  prune(nowMs: number): void {
    for (const [holder, { notAfterMs }] of this.#holders) {
      if (notAfterMs <= nowMs) this.#holders.delete(holder);
    }
  }
}
