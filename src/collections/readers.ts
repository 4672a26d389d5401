/** Somebody that computes items and wants to know when one of them is out of date. */
export interface Reader {
  readonly rank: number;
  wake(item: string): void;
}

/** Who has read something, by reader and by the item it was computing. Most things have one reader: that costs little. */
export class Readers {
  #reader: Reader | undefined;
  #item = '';
  #more: Map<Reader, Set<string>> | undefined;

  add(reader: Reader, item: string): void {
    if (this.#reader === undefined && this.#more === undefined) {
      this.#reader = reader;
      this.#item = item;
      return;
    }
    if (this.#reader === reader && this.#item === item) return;
    this.#more ??= new Map();
    const items = this.#more.get(reader);
    if (items === undefined) this.#more.set(reader, new Set([item]));
    else items.add(item);
  }

  /** True when nobody is left. */
  remove(reader: Reader, item: string): boolean {
    if (this.#reader === reader && this.#item === item) this.#reader = undefined;
    const items = this.#more?.get(reader);
    if (items?.delete(item) === true && items.size === 0) this.#more?.delete(reader);
    if (this.#more?.size === 0) this.#more = undefined;
    return this.#reader === undefined && this.#more === undefined;
  }

  wake(): void {
    this.#reader?.wake(this.#item);
    for (const [reader, items] of this.#more ?? []) for (const item of items) reader.wake(item);
  }
}
