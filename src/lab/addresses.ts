import { canonicalIp } from '../lib/ip.js';

/** The address plan. Each lab is alone in its namespaces, so that all labs use the same one. */

export interface AddressPair {
  readonly ipv4: string;
  readonly ipv6: string;
}

export function both({ ipv4, ipv6 }: AddressPair): readonly string[] {
  return [ipv4, ipv6];
}

/** Node `index`, from 1. */
export function nodeAddresses(index: number): AddressPair {
  return { ipv4: `10.10.1.${index}`, ipv6: `fd00:10:10::1:${index.toString(16)}` };
}

/** What pods of node `index` get their addresses from. */
export function podPrefixes(index: number): AddressPair {
  return { ipv4: `10.244.${index}.0/24`, ipv6: `fd00:10:244:${index.toString(16)}::/64` };
}

/** Hands out pairs with the same host part; one that was given back is used again as late as possible. */
export class AddressPool {
  readonly #taken = new Set<string>();
  #last: number;

  /** Host parts `first` to `last`, both inclusive. */
  constructor(
    readonly address: (host: number) => AddressPair,
    readonly first: number,
    readonly last: number,
  ) {
    this.#last = first - 1;
  }

  /** Undefined when all are taken. */
  take(): AddressPair | undefined {
    const size = this.last - this.first + 1;
    for (let step = 1; step <= size; step++) {
      const host = this.first + ((this.#last - this.first + step) % size);
      const pair = this.address(host);
      if (both(pair).some((ip) => this.#taken.has(ip))) continue;
      for (const ip of both(pair)) this.#taken.add(ip);
      this.#last = host;
      return pair;
    }
    return undefined;
  }

  /** Takes what somebody chose. Undefined, or the address that is taken already; others than ours are passed over. */
  claim(ips: readonly string[]): string | undefined {
    const taken = ips.find((ip) => this.#taken.has(this.#canonical(ip) ?? ''));
    if (taken !== undefined) return taken;
    for (const own of ips.map((ip) => this.#canonical(ip))) if (own !== undefined) this.#taken.add(own);
    return undefined;
  }

  release(ip: string): void {
    const own = this.#canonical(ip);
    if (own !== undefined) this.#taken.delete(own);
  }

  /** As `address` writes it; undefined when it is not of this pool. */
  #canonical(ip: string): string | undefined {
    const wanted = canonicalIp(ip);
    const digits =
      wanted?.includes(':') === true
        ? Number.parseInt(wanted.slice(wanted.lastIndexOf(':') + 1), 16)
        : lastParts(wanted);
    for (const host of [digits & 0xff, digits & 0xffff]) {
      if (host < this.first || host > this.last) continue;
      const own = both(this.address(host)).find((each) => canonicalIp(each) === wanted);
      if (own !== undefined) return own;
    }
    return undefined;
  }
}

export function podPool(nodeIndex: number): AddressPool {
  return new AddressPool(
    (host) => ({
      ipv4: `10.244.${nodeIndex}.${host}`,
      ipv6: `fd00:10:244:${nodeIndex.toString(16)}::${host.toString(16)}`,
    }),
    2,
    254,
  );
}

export function servicePool(): AddressPool {
  return new AddressPool(
    (host) => ({ ipv4: `10.96.${host >> 8}.${host & 0xff}`, ipv6: `fd00:10:96::${host.toString(16)}` }),
    16,
    65_534,
  );
}

function lastParts(ip: string | undefined): number {
  const parts = (ip ?? '').split('.').map(Number);
  return ((parts[2] ?? 0) << 8) | (parts[3] ?? 0);
}

/** The bridge that joins the nodes; the supervisor, the name server and the control plane live there. */
export const FABRIC: AddressPair = { ipv4: '10.10.0.1', ipv6: 'fd00:10:10::1' };
export const FABRIC_PREFIX_LENGTHS = { ipv4: 16, ipv6: 64 } as const;
/** Where pods find their name server. */
export const NAMESERVER: AddressPair = { ipv4: '10.96.0.10', ipv6: 'fd00:10:96::a' };
export const SERVICE_PREFIXES: AddressPair = { ipv4: '10.96.0.0/16', ipv6: 'fd00:10:96::/112' };
/** What belongs to pods and Services: agents refuse what they do not know in there. */
export const MESH_PREFIXES: readonly string[] = ['10.244.0.0/16', 'fd00:10:244::/48', ...both(SERVICE_PREFIXES)];
/** Health probes come from here; redirection in pods lets them pass. */
export const PROBE_SOURCE: AddressPair = { ipv4: '169.254.7.127', ipv6: 'fd16:9254:7127:1337:ffff:ffff:ffff:ffff' };
/** The node's end of every pod's link. */
export const POD_GATEWAY: AddressPair = { ipv4: '169.254.1.1', ipv6: 'fe80::1' };
export const MAX_NODES = 200;
