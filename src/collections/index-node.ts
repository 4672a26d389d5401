import type { Index } from './collection.js';
import type { Node } from './node.js';
import { type Reader, Readers } from './readers.js';

export class IndexNode<T> implements Index<T> {
  readonly #members = new Map<string, Map<string, T>>();
  readonly #readers = new Map<string, Readers>();
  readonly #followers: ((indexKey: string) => void)[] = [];

  constructor(
    readonly name: string,
    readonly of: Node<T>,
    readonly keysOf: (value: T) => readonly string[],
  ) {
    for (const [key, value] of of.entries()) this.#move(key, undefined, value);
    of.follow((key, before, after) => this.#move(key, before, after));
  }

  lookup(indexKey: string): readonly T[] {
    const members = this.#members.get(indexKey);
    if (members === undefined) return [];
    if (members.size === 1) return [...members.values()];
    return [...members].sort(([a], [b]) => (a < b ? -1 : 1)).map(([, value]) => value);
  }

  indexKeys(): Iterable<string> {
    return this.#members.keys();
  }

  follow(follower: (indexKey: string) => void): void {
    this.#followers.push(follower);
  }

  #move(key: string, before: T | undefined, after: T | undefined): void {
    const oldKeys = before === undefined ? [] : this.keysOf(before);
    const newKeys = after === undefined ? [] : this.keysOf(after);
    for (const indexKey of oldKeys) this.#remove(indexKey, key);
    if (after !== undefined) for (const indexKey of newKeys) this.#add(indexKey, key, after);
    for (const indexKey of new Set([...oldKeys, ...newKeys])) {
      this.#readers.get(indexKey)?.wake();
      for (const follow of this.#followers) follow(indexKey);
    }
  }

  readersOf(indexKey: string): Readers {
    const known = this.#readers.get(indexKey);
    if (known !== undefined) return known;
    const readers = new Readers();
    this.#readers.set(indexKey, readers);
    return readers;
  }

  forgetReader(indexKey: string, reader: Reader, item: string): void {
    if (this.#readers.get(indexKey)?.remove(reader, item) === true) this.#readers.delete(indexKey);
  }

  #add(indexKey: string, key: string, value: T): void {
    const members = this.#members.get(indexKey);
    if (members === undefined) this.#members.set(indexKey, new Map([[key, value]]));
    else members.set(key, value);
  }

  #remove(indexKey: string, key: string): void {
    const members = this.#members.get(indexKey);
    members?.delete(key);
    if (members?.size === 0) this.#members.delete(indexKey);
  }
}
