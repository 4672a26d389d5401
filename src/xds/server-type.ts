import type { DeltaDiscoveryRequest } from '../gen/envoy/service/discovery/v3/discovery_pb.js';
import type { ResourceChange, ResourceSource, ServedResource } from './resource-source.js';

/** What one stream is to be told next of one type. */
export interface Push {
  readonly changed: readonly ServedResource[];
  readonly removed: readonly string[];
  /** Set for those who ask by name: they must learn which of their names a resource answers. */
  readonly withAliases: boolean;
}

/**
 * What a delta server knows of one type on one stream: what the client asked for, and what has changed since it was
 * last told. What waits is a set of names, so a slow stream costs memory for names and is told the newest state.
 * A wildcard stream is not remembered resource by resource: what it holds is the source minus what waits.
 */
export class ServerType {
  #wildcard = false;
  #first = true;
  readonly #names = new Set<string>();
  /** Wildcard: name -> version the client holds, of everything that changed since the last push. */
  readonly #waiting = new Map<string, string | undefined>();
  /** Wildcard: versions the client came with; compared with the whole source at the next push. */
  #resync: ReadonlyMap<string, string> | undefined;
  /** On demand: own name -> version the client holds. */
  readonly #sent = new Map<string, string>();
  /** On demand: names the client was told do not exist. */
  readonly #missing = new Set<string>();
  /** On demand: names to look up again, and held resources to look at again. */
  readonly #dirtyNames = new Set<string>();
  readonly #dirtySent = new Set<string>();
  /** Names to answer even if nothing changed. */
  readonly #asked = new Set<string>();
  #answerDue = false;

  constructor(readonly source: ResourceSource) {}

  get mode(): 'wildcard' | 'onDemand' {
    return this.#wildcard ? 'wildcard' : 'onDemand';
  }

  /** Number of names asked for. */
  get nameCount(): number {
    return this.#names.size;
  }

  get dirty(): boolean {
    return (
      this.#answerDue ||
      this.#resync !== undefined ||
      this.#waiting.size + this.#dirtyNames.size + this.#dirtySent.size + this.#asked.size > 0
    );
  }

  /** How many resources are to be looked at for the next push, at most. */
  get waiting(): number {
    if (this.#resync !== undefined) return this.source.size;
    return this.#waiting.size + this.#dirtyNames.size + this.#dirtySent.size + this.#asked.size;
  }

  /** The subscription part of a request. The first one of a stream is always answered, be it with nothing. */
  request(request: DeltaDiscoveryRequest): void {
    const subscribe = request.resourceNamesSubscribe;
    const unsubscribe = request.resourceNamesUnsubscribe;
    const first = this.#first;
    this.#first = false;
    if (first) {
      this.#answerDue = true;
      this.#remember(request.initialResourceVersions, subscribe.length === 0 && unsubscribe.length === 0, subscribe);
    }
    for (const name of subscribe) {
      // Subscribing and unsubscribing to everything in one request is how a client asks for nothing yet.
      if (name === WILDCARD) this.#becomeWildcard(unsubscribe.includes(WILDCARD));
      else this.#subscribe(name, first);
    }
    if (unsubscribe.length > 0) this.#unsubscribe(unsubscribe);
  }

  /** A transaction of the source took effect. */
  sourceChanged(changes: readonly ResourceChange[]): void {
    for (const { name, before, after } of changes) {
      if (this.#wildcard) {
        if (this.#resync === undefined && !this.#waiting.has(name)) this.#waiting.set(name, before?.version);
        continue;
      }
      if (this.#sent.has(name)) this.#dirtySent.add(name);
      for (const key of [name, ...(before?.aliases ?? []), ...(after?.aliases ?? [])]) {
        if (this.#names.has(key)) this.#dirtyNames.add(key);
      }
    }
  }

  /** Everything the client must be told to be up to date, and counts it as told. Undefined: nothing to say. */
  take(): Push | undefined {
    if (this.#isNew && this.#asked.size === 0) return this.#takeAll();
    const changed = new Map<string, ServedResource>();
    const removed = new Set<string>();
    if (this.#wildcard) this.#takeWildcard(changed, removed);
    else this.#takeNames(changed, removed);
    this.#takeAsked(changed, removed);
    const answerDue = this.#answerDue;
    this.#answerDue = false;
    if (changed.size === 0 && removed.size === 0 && !answerDue) return undefined;
    return { changed: [...changed.values()], removed: [...removed], withAliases: !this.#wildcard };
  }

  /** A wildcard client that came with nothing. */
  get #isNew(): boolean {
    return this.#resync?.size === 0;
  }

  /** The same for all of them, down to the array. */
  #takeAll(): Push {
    this.#resync = undefined;
    this.#answerDue = false;
    return { changed: this.source.all(), removed: [], withAliases: false };
  }

  #remember(versions: Readonly<Record<string, string>>, wildcard: boolean, subscribe: readonly string[]): void {
    if (wildcard || subscribe.includes(WILDCARD)) {
      for (const [name, version] of Object.entries(versions)) this.#sent.set(name, version);
      if (wildcard) this.#becomeWildcard(false);
    } else {
      for (const [name, version] of Object.entries(versions)) {
        this.#sent.set(name, version);
        this.#dirtySent.add(name);
      }
    }
  }

  #becomeWildcard(atOnceTakenBack: boolean): void {
    if (atOnceTakenBack) {
      // What the client came with stays asked for, by its own names.
      for (const name of this.#sent.keys()) {
        this.#names.add(name);
        this.#dirtyNames.add(name);
        this.#dirtySent.add(name);
      }
      return;
    }
    if (this.#wildcard) return;
    this.#wildcard = true;
    this.#resync = new Map(this.#sent);
    this.#sent.clear();
    this.#missing.clear();
    this.#dirtyNames.clear();
    this.#dirtySent.clear();
    this.#answerDue = true;
  }

  #subscribe(name: string, first: boolean): void {
    this.#names.add(name);
    // Asking again for what one has gets it again; a new stream has said which versions it has.
    if (first && !this.#wildcard) this.#dirtyNames.add(name);
    else this.#asked.add(name);
  }

  #unsubscribe(names: readonly string[]): void {
    for (const name of names) {
      this.#names.delete(name);
      this.#missing.delete(name);
      this.#asked.delete(name);
      this.#dirtyNames.delete(name);
    }
    if (names.includes(WILDCARD) && this.#wildcard) {
      // From now on only what was asked for by name; the client drops the rest by itself.
      this.#wildcard = false;
      this.#resync = undefined;
      this.#waiting.clear();
      for (const name of this.#names) this.#dirtyNames.add(name);
    }
    for (const name of this.#sent.keys()) {
      // The client forgets by itself what no name of its own covers; what the source took away it must still be told.
      if (!this.#dirtySent.has(name) && !this.#isCovered(name)) this.#sent.delete(name);
    }
  }

  #takeWildcard(changed: Map<string, ServedResource>, removed: Set<string>): void {
    if (this.#resync !== undefined) {
      for (const resource of this.source.all()) {
        if (this.#resync.get(resource.name) !== resource.version) changed.set(resource.name, resource);
      }
      for (const name of this.#resync.keys()) {
        if (this.source.resource(name) === undefined) removed.add(name);
      }
      this.#resync = undefined;
    }
    for (const [name, held] of this.#waiting) {
      const resource = this.source.resource(name);
      if (resource?.version === held) continue;
      if (resource === undefined) removed.add(name);
      else changed.set(name, resource);
    }
    this.#waiting.clear();
  }

  #takeNames(changed: Map<string, ServedResource>, removed: Set<string>): void {
    for (const name of this.#dirtyNames) this.#lookUp(name, false, changed, removed);
    this.#dirtyNames.clear();
    for (const name of this.#dirtySent) {
      if (!this.#sent.has(name) || this.#isCovered(name)) continue;
      this.#sent.delete(name);
      removed.add(name);
    }
    this.#dirtySent.clear();
  }

  #takeAsked(changed: Map<string, ServedResource>, removed: Set<string>): void {
    for (const name of this.#asked) this.#lookUp(name, true, changed, removed);
    this.#asked.clear();
  }

  #lookUp(name: string, always: boolean, changed: Map<string, ServedResource>, removed: Set<string>): void {
    let found = false;
    for (const own of this.source.resolve(name)) {
      const resource = this.source.resource(own);
      if (resource === undefined) continue;
      found = true;
      if (always || this.#sent.get(own) !== resource.version) changed.set(own, resource);
      if (!this.#wildcard) this.#sent.set(own, resource.version);
    }
    if (found) this.#missing.delete(name);
    else if (always || !this.#missing.has(name)) {
      removed.add(name);
      if (!this.#wildcard) this.#missing.add(name);
    }
  }

  /** Whether the resource exists and one of its names is asked for. */
  #isCovered(own: string): boolean {
    const resource = this.source.resource(own);
    if (resource === undefined) return false;
    return this.#names.has(own) || resource.aliases.some((alias) => this.#names.has(alias));
  }
}

const WILDCARD = '*';
