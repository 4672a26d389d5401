import type { DnsRecord, DnsReply } from '../lib/dns-codec.js';
import { isIpv6 } from '../lib/ip.js';
import type { PodView, ServiceView } from './service-table.js';

/** All names of the cluster domain, lower case, and what is known of them. */
export type NameTable = ReadonlyMap<string, readonly NameData[]>;

export type NameData =
  | { readonly type: 'address'; readonly ip: string }
  | { readonly type: 'alias'; readonly target: string }
  | { readonly type: 'service'; readonly port: number; readonly target: string };

/** Services, headless services with their pods, ports (SRV) and pods by address, as Kubernetes names them. Pure. */
export function nameTable(
  services: readonly ServiceView[],
  pods: readonly PodView[],
  clusterDomain: string,
): NameTable {
  const table = new Map<string, NameData[]>();
  const add = (name: string, data: NameData): void => {
    const list = table.get(name);
    if (list === undefined) table.set(name, [data]);
    else list.push(data);
  };
  for (const service of services) {
    const own = `${service.name}.${service.namespace}.svc.${clusterDomain}`;
    if (service.externalName !== '') {
      add(own, { type: 'alias', target: service.externalName });
      continue;
    }
    if (!service.headless) {
      for (const ip of service.addresses) add(own, { type: 'address', ip });
      for (const { name, protocol, port } of service.ports.filter((each) => each.name !== '')) {
        add(`_${name}._${protocol}.${own}`, { type: 'service', port, target: own });
      }
      continue;
    }
    for (const pod of service.pods) addHeadless(add, own, service, pod);
  }
  for (const { namespace, addresses } of pods) {
    for (const ip of addresses)
      add(`${ip.replaceAll(/[.:]/g, '-')}.${namespace}.pod.${clusterDomain}`, { type: 'address', ip });
  }
  return table;
}

/** An answer from the table; names outside of the cluster domain do not exist, as the lab has no way out. */
export function answerName(table: NameTable, hostname: string | undefined, type: string): DnsReply {
  const data = hostname === undefined ? undefined : table.get(hostname);
  if (hostname === undefined || data === undefined) return { rcode: 'NXDOMAIN', records: [], authoritative: true };
  const records = data.flatMap((each): readonly DnsRecord[] => recordsOf(table, hostname, each, type));
  return { rcode: 'NOERROR', records, authoritative: true };
}

function recordsOf(table: NameTable, name: string, data: NameData, type: string): readonly DnsRecord[] {
  switch (data.type) {
    case 'address':
      return type === (isIpv6(data.ip) ? 'AAAA' : 'A') ? [{ name, type, ttl: TTL_SECONDS, data: data.ip }] : [];
    case 'alias': {
      const alias: DnsRecord = { name, type: 'CNAME', ttl: TTL_SECONDS, data: data.target };
      const target = data.target.toLowerCase();
      const behind = (table.get(target) ?? []).flatMap((each) =>
        each.type === 'address' ? recordsOf(table, target, each, type) : [],
      );
      return [alias, ...behind];
    }
    case 'service':
      if (type !== 'SRV') return [];
      return [
        { name, type, ttl: TTL_SECONDS, data: { priority: 0, weight: 100, port: data.port, target: data.target } },
      ];
  }
}

function addHeadless(
  add: (name: string, data: NameData) => void,
  own: string,
  service: ServiceView,
  pod: PodView,
): void {
  const host = pod.subdomain === service.name ? pod.hostname : (pod.addresses[0] ?? '').replaceAll(/[.:]/g, '-');
  for (const ip of pod.addresses) {
    add(own, { type: 'address', ip });
    add(`${host}.${own}`, { type: 'address', ip });
  }
  for (const { name, protocol, endpoints } of service.ports.filter((each) => each.name !== '')) {
    const endpoint = endpoints.find(({ ip }) => pod.addresses.includes(ip));
    if (endpoint !== undefined)
      add(`_${name}._${protocol}.${own}`, { type: 'service', port: endpoint.port, target: `${host}.${own}` });
  }
}

const TTL_SECONDS = 5;
