/** From a key to the names filed under it; mostly one, so one costs no set. Names come out in order. */
export class MultiIndex {
  readonly #names = new Map<string, string | Set<string>>();

  add(key: string, name: string): void {
    const held = this.#names.get(key);
    if (held === undefined || held === name) this.#names.set(key, name);
    else if (typeof held === 'string') this.#names.set(key, new Set([held, name]));
    else held.add(name);
  }

  delete(key: string, name: string): void {
    const held = this.#names.get(key);
    if (held === name) this.#names.delete(key);
    if (!(held instanceof Set) || !held.delete(name)) return;
    const [only] = held;
    if (held.size === 1 && only !== undefined) this.#names.set(key, only);
  }

  has(key: string, name: string): boolean {
    const held = this.#names.get(key);
    return typeof held === 'string' ? held === name : held?.has(name) === true;
  }

  names(key: string): readonly string[] {
    const held = this.#names.get(key);
    if (held === undefined) return [];
    return typeof held === 'string' ? [held] : [...held].sort();
  }

  count(key: string): number {
    const held = this.#names.get(key);
    return held === undefined ? 0 : typeof held === 'string' ? 1 : held.size;
  }

  keys(): IterableIterator<string> {
    return this.#names.keys();
  }
}
