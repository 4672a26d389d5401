/**
 * Who holds a certificate under which root: needed to know when the last one under an old root is gone. A holder that
 * asks again holds the newer one only.
 */
export class Holders {
  readonly #rootOf = new Map<string, string>();
  readonly #byRoot = new Map<string, Map<string, number>>();

  record(holder: string, root: string, notAfterMs: number): void {
    const former = this.#rootOf.get(holder);
    if (former !== undefined) this.#byRoot.get(former)?.delete(holder);
    this.#rootOf.set(holder, root);
    const holders = this.#byRoot.get(root);
    if (holders === undefined) this.#byRoot.set(root, new Map([[holder, notAfterMs]]));
    else holders.set(holder, notAfterMs);
  }

  /** Holders of certificates under the root that are valid at `nowMs`, and until when the last one is. */
  under(root: string, nowMs: number): { readonly count: number; readonly untilMs: number } {
    let count = 0;
    let untilMs = 0;
    for (const notAfterMs of this.#byRoot.get(root)?.values() ?? []) {
      if (notAfterMs <= nowMs) continue;
      count++;
      untilMs = Math.max(untilMs, notAfterMs);
    }
    return { count, untilMs };
  }

  /** Forgets whose certificates have ended. */
  prune(nowMs: number): void {
    for (const holders of this.#byRoot.values()) {
      for (const [holder, notAfterMs] of holders) {
        if (notAfterMs > nowMs) continue;
        holders.delete(holder);
        this.#rootOf.delete(holder);
      }
    }
  }
}
