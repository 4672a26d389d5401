import type { Message, MessageInitShape } from '@bufbuild/protobuf';
import type {
  DeltaDiscoveryRequestSchema,
  DeltaDiscoveryResponse,
} from '../gen/envoy/service/discovery/v3/discovery_pb.js';
import type { ChangedResource, RefusedResource, Update, UpdateHandler } from './update.js';

export type Request = Exclude<MessageInitShape<typeof DeltaDiscoveryRequestSchema>, Message>;

export type SubscriptionMode = 'wildcard' | 'onDemand';

/**
 * What a delta client knows of one type: what it wants, what it holds and at which version. Pure state; requests are
 * returned, never sent.
 */
export class ClientType {
  /** Name -> version of the last good value. What a new stream is told, so that only differences come back. */
  readonly #held = new Map<string, Held>();
  readonly #wanted = new Set<string>();
  /** Changes to `#wanted` that the present stream has not been told. */
  readonly #unsaid = new Map<string, 'subscribe' | 'unsubscribe'>();
  #said = false;
  #synced = false;

  constructor(
    readonly typeUrl: string,
    readonly mode: SubscriptionMode,
    readonly handler: UpdateHandler,
  ) {}

  /** Whether the server has answered at least once since the client was made. On demand: nothing to wait for. */
  get synced(): boolean {
    return this.#synced || this.mode === 'onDemand';
  }

  get heldCount(): number {
    return this.#held.size;
  }

  subscribe(name: string): void {
    if (this.#wanted.has(name)) return;
    this.#wanted.add(name);
    if (this.#unsaid.get(name) === 'unsubscribe') this.#unsaid.delete(name);
    else this.#unsaid.set(name, 'subscribe');
  }

  /** Forgets the names and every resource that only they asked for; the handler sees those removed. */
  unsubscribe(names: Iterable<string>): void {
    let changed = false;
    for (const name of names) {
      if (!this.#wanted.delete(name)) continue;
      changed = true;
      if (this.#unsaid.get(name) === 'subscribe') this.#unsaid.delete(name);
      else this.#unsaid.set(name, 'unsubscribe');
    }
    if (!changed) return;
    const removed = [...this.#held].filter(([own, { aliases }]) => !this.#isWanted(own, aliases)).map(([own]) => own);
    for (const own of removed) this.#held.delete(own);
    if (removed.length > 0) this.handler({ typeUrl: this.typeUrl, changed: [], removed });
  }

  /** A new stream knows nothing of us. */
  disconnected(): void {
    this.#said = false;
  }

  /** The request that brings the stream up to date with what is wanted, if there is anything to say. */
  nextRequest(): Request | undefined {
    if (!this.#said) {
      // Nothing wanted and nothing said: an empty list would mean everything.
      if (this.mode === 'onDemand' && this.#wanted.size === 0) return undefined;
      this.#said = true;
      this.#unsaid.clear();
      return {
        typeUrl: this.typeUrl,
        resourceNamesSubscribe: [...this.#wanted],
        initialResourceVersions: Object.fromEntries([...this.#held].map(([name, { version }]) => [name, version])),
      };
    }
    if (this.#unsaid.size === 0) return undefined;
    const names = (what: string): string[] =>
      [...this.#unsaid].filter(([, each]) => each === what).map(([name]) => name);
    const request = {
      typeUrl: this.typeUrl,
      resourceNamesSubscribe: names('subscribe'),
      resourceNamesUnsubscribe: names('unsubscribe'),
    };
    this.#unsaid.clear();
    return request;
  }

  /** Hands a response up. The result names every resource that was refused and why; empty means accept. */
  receive(response: DeltaDiscoveryResponse): readonly RefusedResource[] {
    const { update, refused } = this.#read(response);
    const all = [...refused, ...this.#handle(update)];
    const refusedNames = new Set(all.map(({ name }) => name));
    for (const name of update.removed) this.#held.delete(name);
    for (const { name, version, aliases } of update.changed) {
      if (!refusedNames.has(name))
        this.#held.set(name, this.mode === 'wildcard' ? { version, aliases: NONE } : { version, aliases });
    }
    this.#synced = true;
    return all;
  }

  #read(response: DeltaDiscoveryResponse): { update: Update; refused: RefusedResource[] } {
    const refused: RefusedResource[] = [];
    const changed = new Map<string, ChangedResource>();
    for (const { name, version, aliases, resource } of response.resources) {
      const fault =
        name === ''
          ? 'the resource has no name'
          : resource === undefined
            ? 'the resource has no content'
            : resource.typeUrl !== this.typeUrl
              ? `the content is ${quote(resource.typeUrl)} in a response of ${this.typeUrl}`
              : changed.has(name)
                ? 'the name appears twice in one response'
                : undefined;
      if (fault !== undefined || resource === undefined) refused.push({ name, reason: fault ?? '' });
      // A name that was unsubscribed while the answer was on its way is no longer ours to hold.
      else if (this.#isWanted(name, aliases)) changed.set(name, { name, version, aliases, bytes: resource.value });
    }
    return {
      update: { typeUrl: this.typeUrl, changed: [...changed.values()], removed: response.removedResources },
      refused,
    };
  }

  /** A handler that throws has a bug; the stream lives on and the server is told that nothing was taken. */
  #handle(update: Update): readonly RefusedResource[] {
    try {
      return this.handler(update);
    } catch (error) {
      return update.changed.map(({ name }) => ({ name, reason: `cannot be applied: ${error}` }));
    }
  }

  #isWanted(name: string, aliases: readonly string[]): boolean {
    return this.mode === 'wildcard' || this.#wanted.has(name) || aliases.some((alias) => this.#wanted.has(alias));
  }
}

interface Held {
  readonly version: string;
  readonly aliases: readonly string[];
}

function quote(text: string): string {
  return JSON.stringify(text.slice(0, 200));
}

const NONE: readonly string[] = [];
