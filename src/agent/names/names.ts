import { BoundedMap } from '../../lib/bounded-map.js';
import type { Clock } from '../../lib/clock.js';
import type { KnownName } from '../store/snapshot.js';
import type { Families, NameAnswer } from './name-lookup.js';

export interface NamesParts {
  /** Never rejects. */
  lookUp(host: string, families: Families): Promise<NameAnswer>;
  /** What this node's pods can connect to; asked before each look-up. */
  families(): Families;
  /** What is known of a name now; undefined: nothing any more. Never called from within `want`. */
  changed(host: string, known: KnownName | undefined): void;
  readonly clock: Clock;
  readonly metrics: NamesMetrics;
}

export interface NamesMetrics {
  lookedUp(result: NameAnswer['kind']): void;
  /** A name was given up for want of room. */
  overLimit(): void;
}

/** For dumps. */
export interface NameState extends KnownName {
  readonly name: string;
  readonly isAsking: boolean;
  readonly lookedUpAt: string | undefined;
  readonly expiresAt: string | undefined;
}

/**
 * The host names that decisions have asked for. A name is looked up once for all who wait for it; its answer counts for
 * its time to live, and is then looked up again if anybody has asked for it meanwhile, or else forgotten. When nobody
 * answers, former addresses stay for up to an hour; that a name does not exist is believed at once, and for 5 s.
 */
export class Names {
  readonly #entries: BoundedMap<string, Entry>;
  readonly #queue: Entry[] = [];
  #running = 0;
  #closed = false;

  constructor(
    readonly parts: NamesParts,
    limit = MAX_NAMES,
  ) {
    this.#entries = new BoundedMap(limit, (_, entry) => {
      parts.metrics.overLimit();
      this.#forget(entry);
    });
  }

  get size(): number {
    return this.#entries.size;
  }

  /** Somebody wants to connect to the name. `changed` tells what it comes to, now or again. */
  want(host: string): void {
    if (this.#closed) return;
    const known = this.#entries.use(host);
    if (known === undefined) {
      const entry = new Entry(host);
      this.#entries.set(host, entry);
      this.#ask(entry);
      return;
    }
    known.isUsed = true;
    if (!known.isAsking && hasMore(this.parts.families(), known.families)) this.#ask(known);
  }

  /** Resolves when the name has been looked up, which may be so already. */
  async settled(host: string): Promise<void> {
    this.want(host);
    await this.#entries.use(host)?.settled.promise;
  }

  states(): NameState[] {
    const time = (ms: number) => (ms === 0 ? undefined : new Date(ms).toISOString());
    return [...this.#entries.values()].map(({ host, known, isAsking, lookedUpAtMs, expiresAtMs }) => ({
      name: host,
      ...(known ?? { ips: [], problem: '', isStale: false }),
      isAsking,
      lookedUpAt: time(lookedUpAtMs),
      expiresAt: time(expiresAtMs),
    }));
  }

  close(): void {
    this.#closed = true;
    this.#queue.length = 0;
    for (const entry of this.#entries.values()) entry.cancel();
  }

  #ask(entry: Entry): void {
    entry.isAsking = true;
    entry.cancel();
    this.#queue.push(entry);
    this.#next();
  }

  #next(): void {
    while (this.#running < MAX_LOOK_UPS && !this.#closed) {
      const entry = this.#queue.shift();
      if (entry === undefined) return;
      if (entry.isForgotten) continue;
      this.#running++;
      void this.#lookUp(entry).finally(() => {
        this.#running--;
        this.#next();
      });
    }
  }

  async #lookUp(entry: Entry): Promise<void> {
    entry.families = this.parts.families();
    const answer = await this.parts.lookUp(entry.host, entry.families);
    if (this.#closed || entry.isForgotten) return;
    this.parts.metrics.lookedUp(answer.kind);
    const nowMs = this.parts.clock.now();
    entry.isAsking = false;
    entry.lookedUpAtMs = nowMs;
    if (answer.kind === 'addresses') {
      entry.goodUntilMs = nowMs + STALE_MS;
      const ttlMs = Math.min(Math.max(answer.ttlSeconds * 1000, MIN_TTL_MS), MAX_TTL_MS);
      this.#tell(entry, { ips: answer.ips, problem: '', isStale: false }, ttlMs);
    } else if (answer.kind === 'failed' && (entry.known?.ips.length ?? 0) > 0 && nowMs < entry.goodUntilMs) {
      this.#tell(entry, { ips: entry.known?.ips ?? [], problem: '', isStale: true }, RETRY_MS);
    } else {
      this.#tell(entry, { ips: [], problem: answer.problem, isStale: false }, RETRY_MS);
    }
  }

  #tell(entry: Entry, known: KnownName, forMs: number): void {
    const { clock } = this.parts;
    entry.known = known;
    entry.isUsed = false;
    entry.expiresAtMs = clock.now() + forMs;
    entry.cancel = clock.schedule(forMs, () => this.#expire(entry));
    entry.settled.resolve();
    // Flows that were decided by it are asked for again: so it is known whether the name is still in use.
    this.parts.changed(entry.host, known);
  }

  /** In use, its addresses stay until the next answer has come. */
  #expire(entry: Entry): void {
    if (entry.isUsed && (entry.known?.ips.length ?? 0) > 0) this.#ask(entry);
    else {
      this.#entries.delete(entry.host);
      this.#forget(entry);
    }
  }

  #forget(entry: Entry): void {
    entry.isForgotten = true;
    entry.cancel();
    entry.settled.resolve();
    queueMicrotask(() => {
      // It may have been asked for again.
      if (!this.#closed && this.#entries.use(entry.host)?.known === undefined) {
        this.parts.changed(entry.host, undefined);
      }
    });
  }
}

class Entry {
  known: KnownName | undefined;
  families: Families = { ipv4: true, ipv6: true };
  isUsed = true;
  isAsking = false;
  isForgotten = false;
  lookedUpAtMs = 0;
  expiresAtMs = 0;
  /** Until then its addresses count when nobody answers. */
  goodUntilMs = 0;
  cancel: () => void = () => undefined;
  readonly settled = Promise.withResolvers<void>();

  constructor(readonly host: string) {}
}

function hasMore(now: Families, before: Families): boolean {
  return (now.ipv4 && !before.ipv4) || (now.ipv6 && !before.ipv6);
}

const MAX_NAMES = 4096;
/** Under way at a time; the others wait. */
const MAX_LOOK_UPS = 64;
/** Shorter times to live would make every connection ask. */
const MIN_TTL_MS = 1000;
const MAX_TTL_MS = 300_000;
/** For how long a name counts as not there, and when a failed look-up is made again. */
const RETRY_MS = 5000;
const STALE_MS = 3_600_000;
