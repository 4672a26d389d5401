/** Somebody that computes items and wants to know when one of them is out of date. */
export interface Reader {
  readonly rank: number;
  wake(item: string): void;
}

/** Who has read something, by reader and by the item it was computing. */
export class Readers {
  readonly #items = new Map<Reader, Set<string>>();

  add(reader: Reader, item: string): void {
    const items = this.#items.get(reader);
    if (items === undefined) this.#items.set(reader, new Set([item]));
    else items.add(item);
  }

  /** True when nobody is left. */
  remove(reader: Reader, item: string): boolean {
    const items = this.#items.get(reader);
    if (items?.delete(item) === true && items.size === 0) this.#items.delete(reader);
    return this.#items.size === 0;
  }

  wake(): void {
    for (const [reader, items] of this.#items) for (const item of items) reader.wake(item);
  }
}
