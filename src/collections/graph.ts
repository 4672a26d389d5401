import type { Change, Collection, Context, DeriveOptions, Index, Keep } from './collection.js';
import { DerivedManyNode, DerivedNode, GroupsNode, JoinNode, SourceNode } from './derived.js';
import { structurallyEqual } from './equal.js';
import { IndexNode } from './index-node.js';
import { type Host, Node, type Settling } from './node.js';

/** A collection that is fed from outside. Throws when changed outside a transaction. */
export interface Source<T> extends Collection<T> {
  set(key: string, value: T): void;
  delete(key: string): void;
}

/** Size of every collection, in order of computation: for the debug page. */
export interface CollectionSize {
  readonly name: string;
  readonly size: number;
}

/**
 * Derived collections: pure functions over watched inputs. A transaction changes sources; then each collection is
 * brought up to date once, in the order in which they were made (one can read only what was made before it, so there
 * are no cycles); only items whose input or whose reads changed are computed; an equal result goes no further; and
 * last, listeners hear of the whole. Everything is synchronous: nobody ever sees half a transaction.
 */
export class Graph {
  readonly #nodes: Settling[] = [];
  readonly #commitListeners = new Set<(version: number) => void>();
  readonly #onBug: (message: string, error: unknown) => void;
  readonly #host: Host;
  #state: 'idle' | 'changing' | 'settling' = 'idle';
  #version = 0;

  /** `onBug` hears of exceptions out of derivations (the item keeps its last value) and listeners. */
  constructor(onBug: (message: string, error: unknown) => void) {
    this.#onBug = onBug;
    this.#host = {
      admit: (node) => this.#nodes.push(node) - 1,
      bug: ({ name }, at, error) => this.#onBug(`collection ${name} failed at ${at}`, error),
    };
  }

  /** Counts the transactions that changed something. */
  get version(): number {
    return this.#version;
  }

  source<T>(name: string, options: DeriveOptions<T> = {}): Source<T> {
    return new SourceNode<T>(name, this.#host, options.equals ?? structurallyEqual, () => {
      if (this.#state !== 'changing') throw new Error(`collection ${name} changed outside a transaction`);
    });
  }

  /** One collection with one fixed value: the input of what is computed once from everything. */
  constant<T>(name: string, key: string, value: T): Collection<T> {
    const source = this.source<T>(name);
    this.transact(() => source.set(key, value));
    return source;
  }

  /**
   * `compute` is pure: it reads its arguments and what it asks the context for, nothing else. `rekey` makes the output's
   * key from the input's, a different one for each.
   */
  derive<I, O>(
    name: string,
    input: Collection<I>,
    compute: (context: Context, value: I, key: string) => O | undefined | Keep,
    options: DeriveOptions<O> & { readonly rekey?: (key: string) => string } = {},
  ): Collection<O> {
    const { equals = structurallyEqual, rekey = (key: string) => key } = options;
    return this.#make(() => new DerivedNode(name, this.#host, equals, nodeOf(input), compute, rekey));
  }

  deriveMany<I, O>(
    name: string,
    input: Collection<I>,
    compute: (context: Context, value: I, key: string) => readonly O[] | Keep,
    keyOf: (value: O) => string,
    options: DeriveOptions<O> = {},
  ): Collection<O> {
    const equals = options.equals ?? structurallyEqual;
    return this.#make(() => new DerivedManyNode(name, this.#host, equals, nodeOf(input), keyOf, compute));
  }

  join<T>(name: string, inputs: readonly Collection<T>[]): Collection<T> {
    return this.#make(() => new JoinNode<T>(name, this.#host, Object.is, inputs.map(nodeOf)));
  }

  index<T>(name: string, of: Collection<T>, keysOf: (value: T) => readonly string[]): Index<T> {
    return new IndexNode(name, nodeOf(of), keysOf);
  }

  groups<T>(name: string, index: Index<T>): Collection<readonly T[]> {
    if (!(index instanceof IndexNode)) throw new Error(`${index.name} is not an index of this graph`);
    return this.#make(() => new GroupsNode<T>(name, this.#host, index));
  }

  /** Runs `change`, which edits sources, as one transaction. If it throws, nothing has happened. */
  transact(change: () => void): void {
    if (this.#state !== 'idle') throw new Error('a transaction cannot start inside another one, nor in a listener');
    this.#state = 'changing';
    try {
      change();
    } catch (error) {
      for (const node of this.#nodes) node.rollBack();
      this.#state = 'idle';
      throw error;
    }
    this.#state = 'settling';
    try {
      for (const node of this.#nodes) node.settle();
      this.#announce();
    } finally {
      this.#state = 'idle';
    }
  }

  /** Called after every transaction that changed something, after the listeners of the collections. */
  onCommit(listener: (version: number) => void): () => void {
    this.#commitListeners.add(listener);
    return () => this.#commitListeners.delete(listener);
  }

  sizes(): readonly CollectionSize[] {
    return this.#nodes.map(({ name, size }) => ({ name, size }));
  }

  #announce(): void {
    const changed: { node: Settling; changes: readonly Change<unknown>[] }[] = [];
    for (const node of this.#nodes) {
      const changes = node.takeChanges();
      if (changes.length > 0) changed.push({ node, changes });
    }
    if (changed.length === 0) return;
    this.#version++;
    for (const { node, changes } of changed) node.announce(changes);
    for (const listener of [...this.#commitListeners]) {
      try {
        listener(this.#version);
      } catch (error) {
        this.#onBug('a listener of commits failed', error);
      }
    }
  }

  /** A new collection is complete at once, and nobody is told of its first content. */
  #make<N extends Settling>(build: () => N): N {
    if (this.#state !== 'idle') throw new Error('collections are made before anything runs, not inside a transaction');
    const node = build();
    node.settle();
    node.takeChanges();
    return node;
  }
}

function nodeOf<T>(collection: Collection<T>): Node<T> {
  if (!(collection instanceof Node)) throw new Error(`${collection.name} is not a collection of this graph`);
  return collection;
}
