import { EncodedResource, type ResourceInput } from './encoded-resource.js';
import type { ResourceChange, ResourceSource, ServedResource } from './resource-source.js';

export type { ResourceInput } from './encoded-resource.js';

/**
 * The resources of one type, changed in transactions. Readers never see half of one; a resource whose content stays
 * the same is no change. Tables that are changed in the same turn of the event loop reach a stream in the order in
 * which the server was given them.
 */
export class ResourceTable implements ResourceSource {
  readonly #resources = new Map<string, EncodedResource>();
  readonly #byAlias = new Map<string, Set<string>>();
  readonly #listeners = new Set<(changes: readonly ResourceChange[]) => void>();
  #version = 0;
  #all: readonly ServedResource[] | undefined;

  constructor(
    readonly typeUrl: string,
    readonly metricName: string = typeUrl,
  ) {}

  get version(): number {
    return this.#version;
  }

  get size(): number {
    return this.#resources.size;
  }

  resource(name: string): ServedResource | undefined {
    return this.#resources.get(name);
  }

  all(): readonly ServedResource[] {
    this.#all ??= [...this.#resources.values()];
    return this.#all;
  }

  /** The encoded message of a resource, for dumps. */
  bytes(name: string): Uint8Array | undefined {
    return this.#resources.get(name)?.bytes;
  }

  resolve(name: string): Iterable<string> {
    const byAlias = this.#byAlias.get(name) ?? NONE;
    return this.#resources.has(name) ? new Set([name, ...byAlias]) : byAlias;
  }

  /** One transaction. A name that is both changed and removed is changed. Returns the number of real changes. */
  apply(changed: Iterable<ResourceInput | EncodedResource>, removed: Iterable<string> = []): number {
    const next = new Map<string, EncodedResource | undefined>();
    for (const name of removed) next.set(name, undefined);
    for (const input of changed) next.set(input.name, this.#entry(input));
    const changes: ResourceChange[] = [];
    for (const [name, after] of next) {
      const before = this.#resources.get(name);
      if (before?.version === after?.version) continue;
      this.#put(name, before, after);
      changes.push({ name, before, after });
    }
    if (changes.length === 0) return 0;
    this.#version++;
    this.#all = undefined;
    for (const listener of this.#listeners) listener(changes);
    return changes.length;
  }

  /** One transaction that makes the table hold exactly these. */
  replace(resources: Iterable<ResourceInput>): number {
    const inputs = [...resources];
    const stays = new Set(inputs.map(({ name }) => name));
    return this.apply(
      inputs,
      [...this.#resources.keys()].filter((name) => !stays.has(name)),
    );
  }

  subscribe(listener: (changes: readonly ResourceChange[]) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  #entry(input: ResourceInput | EncodedResource): EncodedResource {
    const entry = input instanceof EncodedResource ? input : new EncodedResource(this.typeUrl, input);
    const known = this.#resources.get(entry.name);
    return known?.version === entry.version ? known : entry;
  }

  #put(name: string, before: EncodedResource | undefined, after: EncodedResource | undefined): void {
    for (const alias of before?.aliases ?? []) {
      const names = this.#byAlias.get(alias);
      names?.delete(name);
      if (names?.size === 0) this.#byAlias.delete(alias);
    }
    for (const alias of after?.aliases ?? []) {
      const names = this.#byAlias.get(alias);
      if (names === undefined) this.#byAlias.set(alias, new Set([name]));
      else names.add(name);
    }
    if (after === undefined) this.#resources.delete(name);
    else this.#resources.set(name, after);
  }
}

const NONE: ReadonlySet<string> = new Set();
