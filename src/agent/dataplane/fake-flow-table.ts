import { parsePrefix, prefixContains } from '../../lib/ip.js';
import { type Offer, OfferField, type Read, type Verdict } from './dataplane.js';

/** The facts of one connection, as a decision may look at them. */
export type Facts = Omit<Offer, 'id' | 'rejudge'>;

/** Someone who asked: told of each verdict that comes to be in force for it. */
export interface Asker {
  readonly facts: Facts;
  settled(verdict: Verdict, rejudge: boolean): void;
}

export interface FlowLimits {
  readonly maxFlowsPerPod: number;
  readonly maxPendingPerPod: number;
}

/**
 * The engine's flow table in a few lines, for tests: the same answers, in whatever order verdicts and invalidations
 * come, without its speed, its audits and its time-outs.
 */
export class FakeFlowTable {
  readonly #limits: FlowLimits;
  /** Least recently used first. */
  #flows: Flow[] = [];
  readonly #pending = new Map<number, Pending>();
  readonly #settled = new Map<Asker, { flow: Flow | undefined }>();
  readonly #changes: { version: number; reads: readonly Read[] }[] = [];
  #lastId = 0;
  version = 0;
  hits = 0;
  misses = 0;

  constructor(limits: FlowLimits) {
    this.#limits = limits;
  }

  /** False: the quota of the asker's pod is used up, and the asker is not known. Else it is told, now or later. */
  ask(asker: Asker): boolean {
    const flow = this.#find(asker.facts);
    if (flow !== undefined) {
      this.hits++;
      this.#settle(asker, flow);
      return true;
    }
    this.misses++;
    const pending = [...this.#pending.values()].filter(
      ({ facts, rejudge }) => facts.pod === asker.facts.pod && !rejudge,
    );
    const isFull = pending.length >= this.#limits.maxPendingPerPod;
    if (isFull && !pending.some(({ facts }) => sameFacts(facts, asker.facts))) return false;
    this.#offer(asker, false);
    return true;
  }

  answer(verdict: Verdict): void {
    const pending = this.#pending.get(verdict.offerId);
    if (pending === undefined) return;
    this.#pending.delete(verdict.offerId);
    if (this.#isStale(verdict)) {
      for (const asker of pending.askers) this.#offer(asker, this.#settled.has(asker));
      return;
    }
    const flow = { facts: pending.facts, verdict };
    const pod = pending.facts.pod;
    this.#flows = this.#flows.filter((other) => !(sameScope(other.facts, flow.facts) && sameKey(other, flow)));
    this.#flows.push(flow);
    const ofPod = this.#flows.filter((other) => other.facts.pod === pod);
    const evicted = ofPod.slice(0, Math.max(0, ofPod.length - this.#limits.maxFlowsPerPod));
    this.#flows = this.#flows.filter((other) => !evicted.includes(other));
    for (const asker of pending.askers) this.#settle(asker, flow);
  }

  invalidate(version: number, reads: readonly Read[]): void {
    this.version = Math.max(this.version, version);
    this.#changes.push({ version, reads });
    const dropped = (flow: Flow) => flow.verdict.version < version && touches(reads, flow.verdict.reads);
    this.#flows = this.#flows.filter((flow) => !dropped(flow));
    for (const [asker, state] of this.#settled) {
      if (state.flow === undefined || !dropped(state.flow)) continue;
      state.flow = undefined;
      const other = this.#find(asker.facts);
      if (other === undefined) this.#offer(asker, true);
      else this.#settle(asker, other);
    }
  }

  release(asker: Asker): void {
    this.#settled.delete(asker);
    for (const [id, pending] of this.#pending) {
      pending.askers.delete(asker);
      if (pending.askers.size === 0 && !pending.taken) this.#pending.delete(id);
    }
  }

  removePod(uid: string): void {
    this.#flows = this.#flows.filter((flow) => flow.facts.pod !== uid);
    for (const [id, { facts }] of this.#pending) if (facts.pod === uid) this.#pending.delete(id);
    for (const asker of this.#settled.keys()) if (asker.facts.pod === uid) this.#settled.delete(asker);
  }

  hasOffers(): boolean {
    return [...this.#pending.values()].some(({ taken }) => !taken);
  }

  takeOffers(max: number): Offer[] {
    const open = [...this.#pending].filter(([, { taken }]) => !taken).slice(0, max);
    for (const [, pending] of open) pending.taken = true;
    return open.map(([id, { facts, rejudge }]) => ({ ...facts, id, rejudge }));
  }

  get flows(): number {
    return this.#flows.length;
  }

  get pending(): number {
    return this.#pending.size;
  }

  #find(facts: Facts): Flow | undefined {
    const flow = this.#flows.findLast((each) => sameScope(each.facts, facts) && covers(each, facts));
    if (flow !== undefined) this.#flows.push(...this.#flows.splice(this.#flows.indexOf(flow), 1));
    return flow;
  }

  #settle(asker: Asker, flow: Flow): void {
    const rejudge = this.#settled.has(asker);
    this.#settled.set(asker, { flow });
    asker.settled(flow.verdict, rejudge);
  }

  #offer(asker: Asker, rejudge: boolean): void {
    const asked = [...this.#pending.values()].find(({ facts }) => sameFacts(facts, asker.facts));
    if (asked !== undefined) asked.askers.add(asker);
    else this.#pending.set(++this.#lastId, { facts: asker.facts, askers: new Set([asker]), rejudge, taken: false });
  }

  #isStale(verdict: Verdict): boolean {
    return this.#changes.some(({ version, reads }) => version > verdict.version && touches(reads, verdict.reads));
  }
}

interface Flow {
  readonly facts: Facts;
  readonly verdict: Verdict;
}

interface Pending {
  readonly facts: Facts;
  readonly askers: Set<Asker>;
  readonly rejudge: boolean;
  taken: boolean;
}

const FIELDS = ['dstIp', 'dstPort', 'srcIp', 'peerIdentity', 'authority'] as const;

function covers(flow: Flow, facts: Facts): boolean {
  return FIELDS.every((name) => (flow.verdict.fields & OfferField[name]) === 0 || flow.facts[name] === facts[name]);
}

function sameKey(one: Flow, other: Flow): boolean {
  return one.verdict.fields === other.verdict.fields && covers(one, other.facts);
}

function sameScope(one: Facts, other: Facts): boolean {
  return one.pod === other.pod && one.direction === other.direction;
}

function sameFacts(one: Facts, other: Facts): boolean {
  return sameScope(one, other) && FIELDS.every((name) => one[name] === other[name]);
}

/** True when one of the changed keys is among what was read. */
function touches(changed: readonly Read[], read: readonly Read[]): boolean {
  return changed.some((change) => read.some((each) => concerns(change, each)));
}

function concerns(change: Read, read: Read): boolean {
  if (change.table !== read.table || change.prefix !== read.prefix) return false;
  if (!change.prefix) return change.key === read.key;
  const prefix = parsePrefix(change.key);
  return prefix !== undefined && prefixContains(prefix, read.key);
}
