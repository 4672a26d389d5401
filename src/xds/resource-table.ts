import { createHash } from 'node:crypto';
import { create, fromBinary, type MessageInitShape, toBinary } from '@bufbuild/protobuf';
import { DeltaDiscoveryResponseSchema, type ResourceSchema } from '../gen/envoy/service/discovery/v3/discovery_pb.js';
import type { ResourceChange, ResourceSource, ServedResource } from './resource-source.js';

export interface ResourceInput {
  readonly name: string;
  readonly aliases?: readonly string[];
  /** The encoded message. Equal content must have equal bytes: fill maps in a fixed order. */
  readonly bytes: Uint8Array;
}

/**
 * The resources of one type, changed in transactions. Readers never see half of one; a resource whose content stays
 * the same is no change. Tables that are changed in the same turn of the event loop reach a stream in the order in
 * which the server was given them.
 */
export class ResourceTable implements ResourceSource {
  readonly #resources = new Map<string, TableEntry>();
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
    const entry = this.#resources.get(name);
    return entry && fromBinary(DeltaDiscoveryResponseSchema, entry.frame).resources[0]?.resource?.value;
  }

  resolve(name: string): Iterable<string> {
    const byAlias = this.#byAlias.get(name) ?? NONE;
    return this.#resources.has(name) ? new Set([name, ...byAlias]) : byAlias;
  }

  /** One transaction. A name that is both changed and removed is changed. Returns the number of real changes. */
  apply(changed: Iterable<ResourceInput>, removed: Iterable<string> = []): number {
    const next = new Map<string, TableEntry | undefined>();
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

  #entry({ name, aliases = [], bytes }: ResourceInput): TableEntry {
    if (name === '') throw new Error(`a resource of ${this.typeUrl} has no name`);
    const version = versionOf(bytes, aliases);
    const known = this.#resources.get(name);
    return known?.version === version ? known : new TableEntry(this.typeUrl, name, version, aliases, bytes);
  }

  #put(name: string, before: TableEntry | undefined, after: TableEntry | undefined): void {
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

class TableEntry implements ServedResource {
  readonly frame: Uint8Array;
  #frameWithAliases: Uint8Array | undefined;

  constructor(
    readonly typeUrl: string,
    readonly name: string,
    readonly version: string,
    readonly aliases: readonly string[],
    bytes: Uint8Array,
  ) {
    this.frame = encodeFrame({ name, version, aliases: [], resource: { typeUrl, value: bytes } });
  }

  get frameWithAliases(): Uint8Array {
    if (this.aliases.length === 0) return this.frame;
    if (this.#frameWithAliases === undefined) {
      const [resource] = fromBinary(DeltaDiscoveryResponseSchema, this.frame).resources;
      if (resource === undefined) throw new Error(`${this.name}: its own frame holds no resource`);
      this.#frameWithAliases = encodeFrame({ ...resource, aliases: [...this.aliases] });
    }
    return this.#frameWithAliases;
  }
}

/** A response that holds nothing but this resource: exactly its part of any response. */
function encodeFrame(resource: MessageInitShape<typeof ResourceSchema>): Uint8Array {
  return toBinary(DeltaDiscoveryResponseSchema, create(DeltaDiscoveryResponseSchema, { resources: [resource] }));
}

function versionOf(bytes: Uint8Array, aliases: readonly string[]): string {
  const hash = createHash('sha256').update(bytes);
  for (const alias of aliases) hash.update(`\0${alias}`);
  return hash.digest('base64url').slice(0, VERSION_LENGTH);
}

const NONE: ReadonlySet<string> = new Set();
/** 96 bits. */
const VERSION_LENGTH = 16;
