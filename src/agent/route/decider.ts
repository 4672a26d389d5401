import type { Logger } from '../../telemetry/log.js';
import type { Counter } from '../../telemetry/metrics.js';
import type { Dataplane, Notice, Offer, Verdict } from '../dataplane/dataplane.js';
import type { Change, Store } from '../store/store.js';
import { TABLE } from '../store/tables.js';
import { decide, internalError } from './decide.js';
import { Groups } from './groups.js';
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
  /** A connection waits for these identities' certificates. */
  wanted(identities: readonly string[]): void;
  accessLog(lines: Uint8Array): void;
}

/**
 * Between store and engine: answers the engine's offers from the newest snapshot, and tells it what a change has made
 * doubtful. No exception of a decision gets out: it becomes a refusal that is counted and logged.
 */
export class Decider {
  readonly groups: Groups;
  readonly #world: World;

  constructor(readonly parts: DeciderParts) {
    this.groups = new Groups(parts.store, parts.self);
    this.#world = { snapshot: parts.store, usable: (spec) => this.groups.usable(spec) };
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
  }

  #work(): void {
    const { dataplane } = this.parts;
    const work = dataplane.take();
    if (work.wantedCertificates.length > 0) this.parts.wanted(work.wantedCertificates);
    if (work.offers.length > 0) {
      const verdicts = work.offers.map((offer) => this.#decide(offer));
      this.#tell([]);
      dataplane.answer(verdicts);
    }
    if (work.accessLog.length > 0) this.parts.accessLog(work.accessLog);
    for (const notice of work.notices) this.#note(notice);
  }

  #decide(offer: Offer): Verdict {
    const verdict = this.#verdict(offer);
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
