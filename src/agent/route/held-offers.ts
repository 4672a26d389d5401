import type { Offer, Verdict } from '../dataplane/dataplane.js';

/** Connections whose decision waits for a look-up of a name. */
export class HeldOffers {
  readonly #offers = new Map<number, Held>();
  readonly #ofPod = new Map<string, number>();

  get size(): number {
    return this.#offers.size;
  }

  /**
   * Whether the offer may wait for one of `names`; not when too many of its pod do already. A live connection always
   * may: it would be cut off else.
   */
  hold(offer: Offer, names: readonly string[]): boolean {
    const held = this.#ofPod.get(offer.pod) ?? 0;
    if (!this.#offers.has(offer.id)) {
      if (held >= MAX_HELD_PER_POD && !offer.rejudge) return false;
      this.#ofPod.set(offer.pod, held + 1);
    }
    this.#offers.set(offer.id, { offer, names });
    return true;
  }

  /** Those that waited for one of `names`, to be decided again. */
  takeFor(names: ReadonlySet<string>): Offer[] {
    if (names.size === 0 || this.#offers.size === 0) return [];
    const taken = [...this.#offers.values()].filter((held) => held.names.some((name) => names.has(name)));
    for (const { offer } of taken) this.#remove(offer);
    return taken.map(({ offer }) => offer);
  }

  #remove({ id, pod }: Offer): void {
    this.#offers.delete(id);
    const left = (this.#ofPod.get(pod) ?? 1) - 1;
    if (left === 0) this.#ofPod.delete(pod);
    else this.#ofPod.set(pod, left);
  }
}

interface Held {
  readonly offer: Offer;
  readonly names: readonly string[];
}

/** The names that a decision looked at. */
export function namesReadBy({ reads }: Pick<Verdict, 'reads'>): string[] {
  return reads.filter(({ table }) => table === 'name').map(({ key }) => key);
}

/** Of the connections for which a pod may wait (`maxPendingPerPod`), so many may wait for names. */
const MAX_HELD_PER_POD = 64;
