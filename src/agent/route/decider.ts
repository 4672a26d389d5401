import type { Logger } from '../../telemetry/log.js';
import type { Counter } from '../../telemetry/metrics.js';
import type { Dataplane, Notice, Offer, Verdict } from '../dataplane/dataplane.js';
import type { Change, Store } from '../store/store.js';
import { TABLE } from '../store/tables.js';
import { decide, internalError } from './decide.js';
import type { Reason } from './decision.js';
import { Groups } from './groups.js';
import { HeldOffers, namesReadBy } from './held-offers.js';
import type { Self, World } from './observed.js';
import type { ReadFilter } from './read-filter.js';

export interface DeciderParts {
  readonly dataplane: Dataplane;
  readonly store: Store;
  /** Knows what was read; the store asks it. */
  readonly filter: ReadFilter;
  readonly self: Self;
  readonly log: Logger;
  /** Decisions by reason. */
  readonly decisions: Counter;
  /** Connections are refused instead of waiting for names: too many of their pod do. */
  readonly overLimit: Counter;
  /** A decision was made by what is known of this name, or waits for it; `changed` is to follow. */
  wantedName(host: string): void;
  /** A connection waits for these identities' certificates. */
  wanted(identities: readonly string[]): void;
  accessLog(lines: Uint8Array): void;
}

/**
 * Between store and engine: answers the engine's offers from the newest snapshot, and tells it what a change has made
 * doubtful. A decision that needs a name nobody has looked up yet is made when it has been; others do not wait for it.
 * No exception of a decision gets out: it becomes a refusal that is counted and logged.
 */
export class Decider {
  readonly groups: Groups;
  readonly #world: World;
  readonly #held = new HeldOffers();

  constructor(readonly parts: DeciderParts) {
    this.groups = new Groups(parts.store, parts.self);
    this.#world = {
      snapshot: parts.store,
      usable: (spec) => this.groups.usable(spec),
      namesIn: (spec) => this.groups.namesIn(spec),
    };
  }

  /** Connections that wait for a look-up. */
  get held(): number {
    return this.#held.size;
  }

  /** From now on offers are answered. */
  start(): void {
    this.parts.dataplane.onWork(() => this.#work());
    this.#work();
  }

  /** The store has changed: edits groups first, then drops the flows that may be wrong now. */
  changed(change: Change): void {
    this.groups.apply(change);
    this.#tell([...change.reads, TABLE.failure()]);
    const waited = this.#held.takeFor(change.names);
    if (waited.length > 0) this.#answer(waited);
  }

  #work(): void {
    const { dataplane } = this.parts;
    const work = dataplane.take();
    if (work.wantedCertificates.length > 0) this.parts.wanted(work.wantedCertificates);
    if (work.offers.length > 0) this.#answer(work.offers);
    if (work.accessLog.length > 0) this.parts.accessLog(work.accessLog);
    for (const notice of work.notices) this.#note(notice);
  }

  #answer(offers: readonly Offer[]): void {
    const wanted = new Set<string>();
    const verdicts = offers.flatMap((offer) => this.#decide(offer, wanted) ?? []);
    this.#tell([]);
    if (verdicts.length > 0) this.parts.dataplane.answer(verdicts);
    for (const host of wanted) this.parts.wantedName(host);
  }

  /** Undefined when the answer has to wait. */
  #decide(offer: Offer, wanted: Set<string>): Verdict | undefined {
    const verdict = this.#verdict(offer);
    const names = namesReadBy(verdict);
    for (const name of names) wanted.add(name);
    if (verdict.because === PENDING) {
      if (this.#held.hold(offer, names)) return undefined;
      this.parts.overLimit.inc();
    }
    this.parts.filter.answered(verdict.reads);
    this.parts.decisions.inc({ direction: offer.direction, because: verdict.because });
    return verdict;
  }

  #verdict(offer: Offer): Verdict {
    try {
      return decide(offer, this.#world, this.parts.self);
    } catch (error) {
      this.parts.log.error({ error, offer }, 'a decision failed; the connection is refused');
      return internalError(offer, this.parts.store.version);
    }
  }

  #tell(reads: Change['reads']): void {
    const { dataplane, store } = this.parts;
    const edits = this.groups.take();
    if (edits.puts.length > 0) dataplane.putGroups(edits.puts);
    const affected = this.parts.filter.affected([...reads, ...edits.reads]);
    if (affected.length > 0) dataplane.invalidate(store.version, affected);
    if (edits.removals.length > 0) dataplane.removeGroups(edits.removals);
  }

  #note({ level, code, message }: Notice): void {
    this.parts.log[level]({ code }, message);
  }
}

const PENDING: Reason = 'name-pending';
