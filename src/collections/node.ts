import type { Change, Collection } from './collection.js';
import { type Reader, Readers } from './readers.js';

/** What the graph needs to know of every collection, whatever its kind. */
export abstract class Node<T> implements Collection<T>, Settling {
  /** Position in the topological order: a node reads only from lower ranks. */
  readonly rank: number;
  protected readonly current = new Map<string, T>();
  readonly #listeners = new Set<(changes: readonly Change<T>[]) => void>();
  readonly #followers: ((key: string, before: T | undefined, after: T | undefined) => void)[] = [];
  /** Readers of one key, and of the whole. */
  readonly #readersOfKey = new Map<string, Readers>();
  readonly #readersOfAll = new Readers();
  /** First value before this transaction for every key touched in it. */
  readonly #touched = new Map<string, T | undefined>();

  constructor(
    readonly name: string,
    protected readonly host: Host,
    protected readonly equals: (a: T, b: T) => boolean,
  ) {
    this.rank = host.admit(this);
  }

  get size(): number {
    return this.current.size;
  }

  get(key: string): T | undefined {
    return this.current.get(key);
  }

  has(key: string): boolean {
    return this.current.has(key);
  }

  entries(): Iterable<readonly [string, T]> {
    return this.current.entries();
  }

  values(): Iterable<T> {
    return this.current.values();
  }

  subscribe(listener: (changes: readonly Change<T>[]) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /** Brings this node up to date with the nodes below it. Called once per transaction, in order of rank. */
  abstract settle(): void;

  /** Told of every single change at once, in the middle of the transaction. */
  follow(follower: (key: string, before: T | undefined, after: T | undefined) => void): void {
    this.#followers.push(follower);
  }

  readersOf(key: string | undefined): Readers {
    if (key === undefined) return this.#readersOfAll;
    const known = this.#readersOfKey.get(key);
    if (known !== undefined) return known;
    const readers = new Readers();
    this.#readersOfKey.set(key, readers);
    return readers;
  }

  forgetReader(key: string | undefined, reader: Reader, item: string): void {
    const readers = key === undefined ? this.#readersOfAll : this.#readersOfKey.get(key);
    if (readers?.remove(reader, item) === true && key !== undefined) this.#readersOfKey.delete(key);
  }

  /**
   * The one way a value changes: followers move along and readers of the key are told to compute again. An equal value
   * changes nothing.
   */
  protected put(key: string, value: T | undefined): void {
    const before = this.current.get(key);
    if (this.#same(before, value)) return;
    if (!this.#touched.has(key)) this.#touched.set(key, before);
    // Back to where it was: the very same value, so that nobody above sees a difference either.
    const first = this.#touched.get(key);
    const after = this.#same(first, value) ? first : value;
    if (after === undefined) this.current.delete(key);
    else this.current.set(key, after);
    for (const follow of this.#followers) follow(key, before, after);
    this.#readersOfKey.get(key)?.wake();
    this.#readersOfAll.wake();
  }

  /** Ends the transaction for this node. */
  takeChanges(): readonly Change<T>[] {
    const changes: Change<T>[] = [];
    for (const [key, before] of this.#touched) {
      const after = this.current.get(key);
      if (before !== after) changes.push({ key, before, after });
    }
    this.#touched.clear();
    return changes;
  }

  announce(changes: readonly Change<T>[]): void {
    for (const listener of [...this.#listeners]) {
      try {
        listener(changes);
      } catch (error) {
        this.host.bug(this, 'a listener', error);
      }
    }
  }

  /** Undoes everything since the transaction began. */
  rollBack(): void {
    for (const [key, before] of [...this.#touched]) this.put(key, before);
    this.#touched.clear();
  }

  #same(a: T | undefined, b: T | undefined): boolean {
    return a === b || (a !== undefined && b !== undefined && this.equals(a, b));
  }
}

/** A node as the graph sees it, whatever it holds. */
export interface Settling {
  readonly name: string;
  readonly size: number;
  settle(): void;
  takeChanges(): readonly Change<unknown>[];
  announce(changes: readonly Change<unknown>[]): void;
  rollBack(): void;
}

/** What a node asks of the graph it lives in. */
export interface Host {
  /** Takes a new node in and says its rank. */
  admit(node: Settling): number;
  /** Somebody's code threw where nothing may throw. `at` is the key it was about. */
  bug(node: { readonly name: string }, at: string, error: unknown): void;
}
