import { type Service, TunnelProtocol, type Workload } from '../gen/istio/workload/workload_pb.js';
import { isIpv6 } from '../lib/ip.js';
import { addressesOf, vipsOf } from './store/facts.js';
import type { Change, Store } from './store/store.js';

/**
 * The addresses in this network that take tunnels, kept up with the store: of workloads that speak HBONE, and of
 * services that have such an endpoint. What one address stands for twice is counted twice.
 */
export class MeshAddresses {
  /** Uid or service key to its addresses, joined. */
  readonly #of = new Map<string, string>();
  readonly #uses = new Map<string, number>();

  constructor(
    readonly store: Pick<Store, 'fullWorkload' | 'service' | 'endpointsOf'>,
    readonly network: string,
  ) {}

  /** What a change of the store means: addresses that came, and that went. */
  changed(change: Pick<Change, 'workloads' | 'services' | 'memberships'>): { added: string[]; removed: string[] } {
    const touched = new Map<string, boolean>();
    for (const uid of change.workloads) this.#set(uid, this.#ofWorkload(uid), touched);
    for (const key of new Set([...change.services, ...change.memberships])) {
      this.#set(key, this.#ofService(key), touched);
    }
    const [added, removed]: [string[], string[]] = [[], []];
    for (const [ip, was] of touched) {
      const is = this.#uses.has(ip);
      if (is !== was) (is ? added : removed).push(ip);
    }
    return { added, removed };
  }

  #ofWorkload(uid: string): string[] {
    const workload = this.store.fullWorkload(uid);
    return workload !== undefined && this.#takesTunnels(workload) ? addressesOf(workload) : [];
  }

  #ofService(key: string): string[] {
    const service = this.store.service(key);
    if (service === undefined || !this.#hasTunnels(key)) return [];
    return vipsHere(service, this.network);
  }

  /** Endpoints of a service are of one kind, but for moments: a few tell. */
  #hasTunnels(key: string): boolean {
    return this.store
      .endpointsOf(key)
      .slice(0, MAX_ENDPOINTS_ASKED)
      .some((uid) => {
        const workload = this.store.fullWorkload(uid);
        return workload !== undefined && this.#takesTunnels(workload);
      });
  }

  #takesTunnels(workload: Workload): boolean {
    return workload.tunnelProtocol === TunnelProtocol.HBONE && workload.network === this.network;
  }

  #set(key: string, ips: readonly string[], touched: Map<string, boolean>): void {
    const before = this.#of.get(key) ?? '';
    const after = ips.join(' ');
    if (before === after) return;
    if (after === '') this.#of.delete(key);
    else this.#of.set(key, after);
    for (const ip of before === '' ? [] : before.split(' ')) this.#count(ip, -1, touched);
    for (const ip of ips) this.#count(ip, 1, touched);
  }

  #count(ip: string, by: number, touched: Map<string, boolean>): void {
    const uses = this.#uses.get(ip) ?? 0;
    if (!touched.has(ip)) touched.set(ip, uses > 0);
    if (uses + by > 0) this.#uses.set(ip, uses + by);
    else this.#uses.delete(ip);
  }
}

/** Blocks of addresses are left out: nobody translates them, and none of them is a workload. */
function vipsHere(service: Service, network: string): string[] {
  return vipsOf(service)
    .filter((vip) => vip.network === network && vip.prefix.length === (isIpv6(vip.prefix.ip) ? 128 : 32))
    .map(({ prefix }) => prefix.ip);
}

const MAX_ENDPOINTS_ASKED = 64;
