/** What an ADS server serves of one type. Knows nothing of streams. */
export interface ResourceSource {
  readonly typeUrl: string;
  /** For the `type` label of metrics (`wds`). */
  readonly metricName: string;
  /** Grows with every transaction. */
  readonly version: number;
  /** By its own name, not by an alias. */
  resource(name: string): ServedResource | undefined;
  /** The same array until something changes. */
  all(): readonly ServedResource[];
  readonly size: number;
  /** Own names of the resources that answer to a name or an alias; several workloads may share an address. */
  resolve(name: string): Iterable<string>;
  /** Called once for each transaction, after all of it took effect. Returns how to stop. */
  subscribe(listener: (changes: readonly ResourceChange[]) => void): () => void;
}

/** One version of one resource, encoded once and shared by every stream that sends it. */
export interface ServedResource {
  readonly name: string;
  /** Made from the content: the same content has the same version, also after a restart. */
  readonly version: string;
  /** Other names to ask for it by. */
  readonly aliases: readonly string[];
  /** Its part of an encoded DeltaDiscoveryResponse; parts are simply put one after another. */
  readonly frame: Uint8Array;
  /** The same with its aliases in it, for those who ask by name. */
  readonly frameWithAliases: Uint8Array;
}

export interface ResourceChange {
  readonly name: string;
  readonly before: ServedResource | undefined;
  readonly after: ServedResource | undefined;
}
