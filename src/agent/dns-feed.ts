import {
  IPFamilies,
  LoadBalancing_HealthPolicy,
  type Service,
  Service_Visibility,
  type Workload,
  WorkloadStatus,
} from '../gen/istio/workload/workload_pb.js';
import { isIpv6 } from '../lib/ip.js';
import type { DnsChange, DnsFamilies, DnsService } from './dns/dns-table.js';
import { addressesOf, vipsOf } from './store/facts.js';
import type { Change, Store } from './store/store.js';

/** Every service as the DNS proxy wants it. */
export function* dnsServices(store: Store): Generator<DnsService> {
  for (const service of store.services()) yield dnsService(service, store);
}

/** What a change of the store means to the DNS proxy: changed services, and headless ones whose endpoints changed. */
export function dnsChanges(change: Change, store: Store): DnsChange[] {
  const changes: DnsChange[] = [];
  for (const key of change.services) {
    const service = store.service(key);
    if (service !== undefined) changes.push({ kind: 'put', service: dnsService(service, store) });
    else changes.push({ kind: 'remove', ...splitKey(key) });
  }
  for (const key of change.memberships) {
    const service = change.services.has(key) ? undefined : store.service(key);
    if (service !== undefined && isHeadless(service)) {
      changes.push({ kind: 'put', service: dnsService(service, store) });
    }
  }
  return changes;
}

function dnsService(service: Service, store: Store): DnsService {
  const { namespace, hostname, canonical } = service;
  const key = `${namespace}/${hostname}`;
  const uids = isHeadless(service) ? store.endpointsOf(key) : [];
  return {
    namespace,
    hostname,
    canonical,
    namespaceOnly: service.visibility === Service_Visibility.NAMESPACE,
    families: FAMILIES[service.ipFamilies],
    // A block of addresses is for matching; it is none to connect to.
    addresses: vipsOf(service)
      .filter(({ prefix }) => prefix.length === (isIpv6(prefix.ip) ? 128 : 32))
      .map(({ network, prefix }) => ({ network, ip: prefix.ip })),
    endpoints: uids.flatMap((uid) => {
      const workload = store.fullWorkload(uid);
      if (workload === undefined || !isPublished(workload, service)) return [];
      const addresses = addressesOf(workload).map((ip) => ({ network: workload.network, ip }));
      return [{ name: workload.name, addresses }];
    }),
  };
}

function isHeadless(service: Service): boolean {
  return service.addresses.length === 0;
}

/** As of a headless Service in Kubernetes: those that are ready, or all with publishNotReadyAddresses. */
function isPublished(workload: Workload, service: Service): boolean {
  const all = service.loadBalancing?.healthPolicy === LoadBalancing_HealthPolicy.ALLOW_ALL;
  return all || workload.status === WorkloadStatus.HEALTHY;
}

function splitKey(key: string): { namespace: string; hostname: string } {
  const slash = key.indexOf('/');
  return { namespace: key.slice(0, slash), hostname: key.slice(slash + 1) };
}

const FAMILIES: Readonly<Record<IPFamilies, DnsFamilies>> = {
  [IPFamilies.AUTOMATIC]: 'any',
  [IPFamilies.IPV4_ONLY]: 'ipv4',
  [IPFamilies.IPV6_ONLY]: 'ipv6',
  [IPFamilies.DUAL]: 'any',
};
