import { createHash } from 'node:crypto';
import type { ServiceEntry } from '../../model/kubernetes/networking.js';

/** Virtual addresses for the hosts of ServiceEntries that name none: 240.240.0.0/16 and 2001:2::/48. */

export interface AddressRequest {
  /** `namespace/name/host`. */
  readonly key: string;
  readonly createdAtMs: number;
}

export interface AutoAddress {
  readonly key: string;
  readonly ipv4: string;
  readonly ipv6: string;
}

/** The hosts of an entry that want an address. */
export function addressRequests(entry: ServiceEntry): readonly AddressRequest[] {
  const { metadata } = entry;
  if (entry.addresses.length > 0 || entry.resolution === 'NONE') return [];
  if (metadata.labels[OPT_OUT_LABEL] === 'false' || entry.statusAddresses.length > 0) return [];
  return entry.hosts
    .filter((host) => !host.startsWith('*') || entry.resolution === 'DYNAMIC_DNS')
    .map((host) => ({ key: `${metadata.namespace}/${metadata.name}/${host}`, createdAtMs: metadata.createdAtMs }));
}

/**
 * Gives each request the address that its name hashes to; where that is taken by an older request (of the same age:
 * one with a lower key) the next free one. The same requests always get the same addresses, also after a restart.
 * Requests beyond what the block holds get none.
 */
export function allocateAddresses(requests: readonly AddressRequest[]): readonly AutoAddress[] {
  const taken = new Set<number>();
  const byAge = [...requests].sort((a, b) => a.createdAtMs - b.createdAtMs || (a.key < b.key ? -1 : 1));
  return byAge.slice(0, SLOTS).map(({ key }) => {
    let slot = createHash('sha256').update(key).digest().readUInt32BE(0) % SLOTS;
    while (taken.has(slot)) slot = (slot + 1) % SLOTS;
    taken.add(slot);
    // Slot 0 is .0.1: the first and the last address of the block stay unused.
    const host = slot + 1;
    return { key, ipv4: `240.240.${host >> 8}.${host & 255}`, ipv6: `2001:2::${host.toString(16)}` };
  });
}

const OPT_OUT_LABEL = 'networking.istio.io/enable-autoallocate-ip';
const SLOTS = 2 ** 16 - 2;
