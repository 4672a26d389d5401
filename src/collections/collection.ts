/** A keyed set of values that changes in transactions. Values are immutable; keys are unique. */
export interface Collection<T> {
  /** For people: errors and the debug page. */
  readonly name: string;
  readonly size: number;
  get(key: string): T | undefined;
  has(key: string): boolean;
  /** In no particular order. */
  entries(): Iterable<readonly [key: string, value: T]>;
  values(): Iterable<T>;
  /** Called after a transaction in which something here changed, when everything has settled. Returns the way out. */
  subscribe(listener: (changes: readonly Change<T>[]) => void): () => void;
}

/** `before` is absent for a new key, `after` for one that is gone. */
export interface Change<T> {
  readonly key: string;
  readonly before: T | undefined;
  readonly after: T | undefined;
}

/** Values of a collection by keys that are computed from them; kept up to date with it. */
export interface Index<T> {
  readonly name: string;
  /** Ordered by the values' own keys. */
  lookup(indexKey: string): readonly T[];
  indexKeys(): Iterable<string>;
}

/**
 * How a derived value reads other collections. Each read is remembered under exactly the key that was asked for, also
 * when it found nothing, and the value is computed again when that key changes, and only then.
 */
export interface Context {
  get<T>(collection: Collection<T>, key: string): T | undefined;
  lookup<T>(index: Index<T>, indexKey: string): readonly T[];
  /** Depends on the whole collection: for small ones. Ordered by key. */
  list<T>(collection: Collection<T>): readonly T[];
}

/** Returned instead of a value: the input is no good, the last good value stays. */
export const KEEP: unique symbol = Symbol('keep');
export type Keep = typeof KEEP;

export interface DeriveOptions<O> {
  /** Whether a new value is the same as the old one, so that nobody needs to hear of it. Default: structurally. */
  readonly equals?: (a: O, b: O) => boolean;
}
