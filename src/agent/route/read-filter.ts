import type { Read } from '../dataplane/dataplane.js';

/**
 * Remembers which look-ups verdicts were made from, so that a change is not sent to an engine that has no flow for it
 * (the first answer of a control plane names every workload of the mesh). Sound because a decision and its answer are
 * one synchronous step: what was never answered cannot be cached.
 */
export class ReadFilter {
  readonly #exact = new Set<string>();
  readonly #prefixTables = new Set<string>();
  #everything = false;

  constructor(readonly limit = 200_000) {}

  get size(): number {
    return this.#exact.size;
  }

  /** A verdict with these reads is about to be answered. */
  answered(reads: readonly Read[]): void {
    for (const read of reads) {
      if (read.prefix) this.#prefixTables.add(read.table);
      else this.#exact.add(keyOf(read));
    }
    if (this.#exact.size <= this.limit) return;
    // Too many to remember: from now on all changes are sent.
    this.#exact.clear();
    this.#everything = true;
  }

  /** Whether a verdict may have been made from this look-up. */
  has(read: Read): boolean {
    if (this.#everything) return true;
    return read.prefix ? this.#prefixTables.has(read.table) : this.#exact.has(keyOf(read));
  }

  /** The changes that can matter; flows that read them are gone after it. */
  affected(reads: readonly Read[]): Read[] {
    if (this.#everything) return [...reads];
    return reads.filter((read) => (read.prefix ? this.#prefixTables.has(read.table) : this.#exact.delete(keyOf(read))));
  }
}

function keyOf(read: Read): string {
  return `${read.table}\n${read.key}`;
}
