import type { DnsQuery, DnsRecord } from '../../lib/dns-codec.js';
import { isIpv6 } from '../../lib/ip.js';
import type { DnsAddress, DnsService, DnsTable } from './dns-table.js';

/**
 * The DNS proxy's decision: pure, from a question, who asks, and the table. A name of the mesh is answered here with
 * authority; everything else goes to the pod's own nameservers.
 *
 * Names are tried in this order: as asked; completed to a cluster name (`web`, `web.shop`, `web.shop.svc`,
 * `db-0.db` …) from the client's namespace; the same with each of the client's search domains taken off, because a
 * resolver with `ndots:5` asks for `web.shop.svc.cluster.local.shop.svc.cluster.local` first. Of each, the exact name
 * comes before wildcards, a longer wildcard before a shorter one.
 */
export function answer(query: DnsQuery, client: DnsClient, table: DnsTable, random: () => number): DnsAnswer {
  if (query.class !== 'IN') return upstream('other-class');
  if (query.hostname === undefined) return upstream('no-host-name');
  const found = find(query.hostname, client, table);
  if (found === undefined) return upstream('unknown-name');
  const object = `service/${found.service.namespace}/${found.service.hostname}`;
  if (query.type !== 'A' && query.type !== 'AAAA') {
    // An external host keeps its own mail and text records. But HTTPS and SVCB carry addresses that would lead past the
    // mesh, and the cluster's own names have nothing beside addresses and SRV.
    const ours = isClusterName(found.service.hostname, client)
      ? query.type !== 'SRV'
      : ADDRESS_CARRIERS.has(query.type);
    return ours ? { kind: 'records', records: [], because: 'no-such-type', object } : upstream('other-type', object);
  }
  const ips = addressesOf(found, query.type, client);
  if (ips.length === 0) return { kind: 'records', records: [], because: 'no-address-of-family', object };
  const records: DnsRecord[] = [];
  let name = query.name;
  if (found.alias !== undefined && !found.wildcard) {
    records.push({ name, type: 'CNAME', ttl: TTL_SECONDS, data: found.alias });
    name = found.alias;
  }
  for (const ip of shuffled(ips, random)) records.push({ name, type: query.type, ttl: TTL_SECONDS, data: ip });
  return { kind: 'records', records, because: found.endpoint === undefined ? 'service' : 'pod-name', object };
}

/** Who asks: a pod. */
export interface DnsClient {
  readonly namespace: string;
  readonly network: string;
  /** Of its resolv.conf, lower case, without trailing dots. */
  readonly searchDomains: readonly string[];
  /** `cluster.local`. */
  readonly clusterDomain: string;
}

/** `records` may be empty: the name is known, but has nothing of this type (NODATA, never NXDOMAIN). */
export type DnsAnswer =
  | {
      readonly kind: 'records';
      readonly records: readonly DnsRecord[];
      readonly because: string;
      readonly object: string;
    }
  | { readonly kind: 'upstream'; readonly because: string; readonly object: string };

interface Found {
  readonly service: DnsService;
  /** Set when the name is a pod's (`db-0.db.shop.svc.cluster.local`). */
  readonly endpoint?: string;
  readonly wildcard: boolean;
  /** The asked name without the client's search domain, when that was what it took. */
  readonly alias?: string;
}

function find(hostname: string, client: DnsClient, table: DnsTable): Found | undefined {
  for (const name of completions(hostname, client)) {
    const found = lookup(name, client, table);
    if (found !== undefined) return found;
  }
  for (const domain of client.searchDomains) {
    if (!hostname.endsWith(`.${domain}`)) continue;
    const alias = hostname.slice(0, -domain.length - 1);
    for (const name of completions(alias, client)) {
      const found = lookup(name, client, table);
      if (found !== undefined) return { ...found, alias };
    }
  }
  return undefined;
}

/** The name itself, then the cluster names that it may be short for. */
function completions(name: string, client: DnsClient): string[] {
  const labels = name.split('.');
  const svc = `svc.${client.clusterDomain}`;
  const inNamespace = `${client.namespace}.${svc}`;
  const endsInSvc = labels.at(-1) === 'svc';
  switch (labels.length) {
    case 1:
      return [name, `${name}.${inNamespace}`];
    case 2:
      return [name, `${name}.${svc}`, `${name}.${inNamespace}`];
    case 3:
      return endsInSvc ? [name, `${name}.${client.clusterDomain}`, `${name}.${svc}`] : [name, `${name}.${svc}`];
    case 4:
      return endsInSvc ? [name, `${name}.${client.clusterDomain}`] : [name];
    default:
      return [name];
  }
}

function lookup(name: string, client: DnsClient, table: DnsTable): Found | undefined {
  const exact = pick(table.byHost(name), client);
  if (exact !== undefined) return { service: exact, wildcard: false };
  const pod = podOf(name, client, table);
  if (pod !== undefined) return pod;
  if (!table.hasWildcards) return undefined;
  for (let dot = name.indexOf('.'); dot >= 0; dot = name.indexOf('.', dot + 1)) {
    const service = pick(table.byHost(`*${name.slice(dot)}`), client);
    if (service !== undefined) return { service, wildcard: true };
  }
  return undefined;
}

/** `<pod>.<headless service>.<namespace>.svc.<domain>`. */
function podOf(name: string, client: DnsClient, table: DnsTable): Found | undefined {
  const dot = name.indexOf('.');
  if (dot < 0 || !isClusterName(name, client)) return undefined;
  const endpoint = name.slice(0, dot);
  const service = pick(table.byHost(name.slice(dot + 1)), client);
  const known = service?.endpoints.some((candidate) => candidate.name === endpoint) === true;
  return service !== undefined && known ? { service, endpoint, wildcard: false } : undefined;
}

/**
 * Of several services of one name: the client's own namespace, then the canonical one, then the first. One without any
 * address answers only for a cluster name, where it is headless; elsewhere it has nothing to say about addresses.
 */
function pick(services: readonly DnsService[], client: DnsClient): DnsService | undefined {
  let best: DnsService | undefined;
  for (const service of services) {
    const own = service.namespace === client.namespace;
    if (service.namespaceOnly && !own) continue;
    if (service.addresses.length + service.endpoints.length === 0 && !isClusterName(service.hostname, client)) continue;
    if (own) return service;
    if (best === undefined || (service.canonical && !best.canonical)) best = service;
  }
  return best;
}

function isClusterName(hostname: string, client: DnsClient): boolean {
  return hostname.endsWith(`.svc.${client.clusterDomain}`);
}

function addressesOf(found: Found, type: 'A' | 'AAAA', client: DnsClient): string[] {
  const { service, endpoint } = found;
  const ipv6 = type === 'AAAA';
  if (service.families === (ipv6 ? 'ipv4' : 'ipv6')) return [];
  const fits = (address: DnsAddress) => address.network === client.network && isIpv6(address.ip) === ipv6;
  if (endpoint === undefined && service.addresses.length > 0) {
    return service.addresses.filter(fits).map((address) => address.ip);
  }
  const endpoints = endpoint === undefined ? service.endpoints : service.endpoints.filter((e) => e.name === endpoint);
  return endpoints.flatMap((candidate) => candidate.addresses.find(fits)?.ip ?? []);
}

function shuffled(ips: readonly string[], random: () => number): string[] {
  const out = [...ips];
  for (let i = out.length - 1; i > 0; i--) {
    const j = Math.floor(random() * (i + 1));
    const swap = out[i] as string;
    out[i] = out[j] as string;
    out[j] = swap;
  }
  return out;
}

function upstream(because: string, object = ''): DnsAnswer {
  return { kind: 'upstream', because, object };
}

const TTL_SECONDS = 30;
const ADDRESS_CARRIERS = new Set(['UNKNOWN_64', 'UNKNOWN_65', 'SVCB', 'HTTPS', 'ANY']);
