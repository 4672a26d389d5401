import { isIpv6, makePrefix, type Prefix } from '../../lib/ip.js';
import { MultiIndex } from './multi-index.js';

/** Names filed under CIDR blocks; a look-up finds those of the longest block that contains the address. */
export class PrefixTable {
  /** Lengths in use per family, longest first, with the number of blocks of that length. */
  readonly #lengths = { v4: new Map<number, number>(), v6: new Map<number, number>() };
  #sorted: { v4: number[]; v6: number[] } = { v4: [], v6: [] };
  readonly #names = new MultiIndex();

  add(prefix: Prefix, name: string): void {
    const key = keyOf(prefix);
    if (this.#names.count(key) === 0) this.#count(prefix, 1);
    this.#names.add(key, name);
  }

  delete(prefix: Prefix, name: string): void {
    const key = keyOf(prefix);
    if (!this.#names.has(key, name)) return;
    this.#names.delete(key, name);
    if (this.#names.count(key) === 0) this.#count(prefix, -1);
  }

  /** Names under the longest block that contains `ip` (canonical), in order. */
  lookup(ip: string): readonly string[] {
    for (const length of this.#sorted[isIpv6(ip) ? 'v6' : 'v4']) {
      const prefix = length === fullLength(ip) ? { ip, length } : makePrefix(ip, length);
      if (prefix === undefined) continue;
      const names = this.#names.names(keyOf(prefix));
      if (names.length > 0) return names;
    }
    return [];
  }

  #count(prefix: Prefix, change: number): void {
    const family = isIpv6(prefix.ip) ? 'v6' : 'v4';
    const lengths = this.#lengths[family];
    const count = (lengths.get(prefix.length) ?? 0) + change;
    if (count === 0) lengths.delete(prefix.length);
    else lengths.set(prefix.length, count);
    this.#sorted[family] = [...lengths.keys()].sort((a, b) => b - a);
  }
}

function keyOf(prefix: Prefix): string {
  return `${prefix.ip}/${prefix.length}`;
}

function fullLength(ip: string): number {
  return isIpv6(ip) ? 128 : 32;
}
