import type { Certificate } from '../../identity/certificate.js';
import type { Clock } from '../../lib/clock.js';
import { BACK_DATE_MS } from './rotation.js';

export interface HoldersOptions {
  readonly clock: Clock;
  /** How long a certificate may live of which nothing is known. */
  readonly defaultTtlSeconds: number;
  /** Whether others sign with the same CA: then nobody knows all holders. */
  readonly isShared: boolean;
}

/**
 * Who holds a certificate, and which trust bundle came with it: needed to know when everybody has seen a step of a
 * rotation. A holder that asks again counts by its newest certificate only.
 */
export class Holders {
  readonly #holders = new Map<string, { readonly bundle: string; readonly notAfterMs: number }>();
  readonly #startedAtMs: number;
  #recorded = 0;

  constructor(readonly options: HoldersOptions) {
    this.#startedAtMs = options.clock.now();
  }

  record(holder: string, bundle: string, notAfterMs: number): void {
    this.#holders.set(holder, { bundle, notAfterMs });
    if (++this.#recorded % PRUNE_EVERY === 0) this.#prune();
  }

  /** How many hold a valid certificate, and until when the last one is valid; of those who have another bundle. */
  without(bundle: string): { readonly count: number; readonly untilMs: number } {
    const nowMs = this.options.clock.now();
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
  get count(): number {
    return this.without('').count;
  }

  /** Whether everybody who holds a certificate under these roots is known. */
  knowsAll(roots: readonly Certificate[]): boolean {
    const { isShared, clock, defaultTtlSeconds } = this.options;
    if (isShared) return false;
    const madeHere = roots.every(
      (root) => root.notBefore.getTime() + BACK_DATE_MS >= Math.floor(this.#startedAtMs / 1000) * 1000,
    );
    return madeHere || clock.now() >= this.#startedAtMs + defaultTtlSeconds * 1000;
  }

  /** When the last certificate that may be out there ends. */
  inUseUntilMs(roots: readonly Certificate[]): number {
    const { isShared, clock, defaultTtlSeconds } = this.options;
    const { untilMs } = this.without('');
    if (this.knowsAll(roots)) return untilMs;
    return Math.max(untilMs, (isShared ? clock.now() : this.#startedAtMs) + defaultTtlSeconds * 1000);
  }

  #prune(): void {
    const nowMs = this.options.clock.now();
    for (const [holder, { notAfterMs }] of this.#holders) {
      if (notAfterMs <= nowMs) this.#holders.delete(holder);
    }
  }
}

const PRUNE_EVERY = 1024;
