import type { Collection, Context, Index } from './collection.js';
import { IndexNode } from './index-node.js';
import { Node } from './node.js';
import type { Reader, Readers } from './readers.js';

/** Records what the item under computation reads, and takes it back before the item is computed again. */
export class Dependencies implements Context {
  readonly #ofItem = new Map<string, Dependency[]>();
  #item = '';
  #reads: Dependency[] | undefined;

  constructor(
    readonly reader: Reader,
    readonly readerName: string,
  ) {}

  /** Runs `compute` for one item with its reads recorded in place of the former ones. */
  record<R>(item: string, compute: (context: Context) => R): R {
    const former = this.#ofItem.get(item);
    const reads: Dependency[] = [];
    this.#item = item;
    this.#reads = reads;
    try {
      return compute(this);
    } finally {
      this.#reads = undefined;
      this.#replace(item, former ?? [], reads);
    }
  }

  forget(item: string): void {
    this.#replace(item, this.#ofItem.get(item) ?? [], []);
  }

  get<T>(collection: Collection<T>, key: string): T | undefined {
    this.#note(this.#nodeOf(collection), key);
    return collection.get(key);
  }

  lookup<T>(index: Index<T>, indexKey: string): readonly T[] {
    if (!(index instanceof IndexNode)) throw new Error(`${index.name} is not an index of this graph`);
    this.#checkRank(index.of);
    this.#note(index, indexKey);
    return index.lookup(indexKey);
  }

  list<T>(collection: Collection<T>): readonly T[] {
    this.#note(this.#nodeOf(collection), undefined);
    return [...collection.entries()].sort(([a], [b]) => (a < b ? -1 : 1)).map(([, value]) => value);
  }

  #nodeOf<T>(collection: Collection<T>): Node<T> {
    if (!(collection instanceof Node)) throw new Error(`${collection.name} is not a collection of this graph`);
    this.#checkRank(collection);
    return collection;
  }

  /** Reading upwards or sideways would be a cycle, or a value that is not settled yet. */
  #checkRank(node: { readonly rank: number; readonly name: string }): void {
    if (node.rank >= this.reader.rank) {
      throw new Error(`${this.readerName} reads ${node.name}, which was made after it: define what is read first`);
    }
  }

  #note(source: Source, key: string | undefined): void {
    if (this.#reads === undefined) {
      throw new Error(`${this.readerName} keeps its context for later; read only while computing`);
    }
    for (const read of this.#reads) if (read.source === source && read.key === key) return;
    this.#reads.push({ source, key });
    source.readersOf(key as string).add(this.reader, this.#item);
  }

  #replace(item: string, former: readonly Dependency[], reads: Dependency[]): void {
    for (const old of former) {
      if (!reads.some((read) => read.source === old.source && read.key === old.key)) {
        old.source.forgetReader(old.key as string, this.reader, item);
      }
    }
    if (reads.length === 0) this.#ofItem.delete(item);
    else this.#ofItem.set(item, reads);
  }
}

interface Source {
  readersOf(key: string): Readers;
  forgetReader(key: string, reader: Reader, item: string): void;
}

interface Dependency {
  readonly source: Source;
  readonly key: string | undefined;
}
