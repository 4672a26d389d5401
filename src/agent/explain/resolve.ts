import { canonicalIp, isIpv6 } from '../../lib/ip.js';
import { isVisible, preferredService } from '../route/outbound.js';
import { addressesOf, serviceKey, vipsOf } from '../store/facts.js';
import type { EndpointSource, Snapshot } from '../store/snapshot.js';

/** What a name means to a pod, as the mesh's DNS would answer it. */
export interface Resolution {
  readonly because: 'address' | 'service-name' | 'headless-service' | 'pod-name' | 'not-a-mesh-name';
  /** The full name that was found; the host itself when it is an address. */
  readonly name: string;
  /** `namespace/hostname` of the service; empty when there is none. */
  readonly service: string;
  /** Of the families that the pod has, IPv4 first. */
  readonly addresses: readonly string[];
}

export interface ResolvingPod {
  readonly namespace: string;
  readonly ips: readonly string[];
  readonly searchDomains: readonly string[];
}

/** Goes through the search domains as a resolver does, and looks each name up in the snapshot. Pure. */
export function resolveHost(
  host: string,
  pod: ResolvingPod,
  source: Snapshot & EndpointSource,
  network: string,
): Resolution {
  const ip = canonicalIp(host);
  if (ip !== undefined) return { because: 'address', name: host, service: '', addresses: [ip] };
  for (const name of namesToTry(host.toLowerCase(), pod.searchDomains)) {
    const found = resolveName(name, pod, source, network);
    if (found !== undefined) return found;
  }
  return { because: 'not-a-mesh-name', name: host, service: '', addresses: [] };
}

function namesToTry(host: string, searchDomains: readonly string[]): string[] {
  if (host.endsWith('.')) return [host.slice(0, -1)];
  const searched = searchDomains.map((domain) => `${host}.${domain.toLowerCase()}`);
  const manyDots = host.split('.').length - 1 >= NDOTS;
  return manyDots ? [host, ...searched] : [...searched, host];
}

function resolveName(
  name: string,
  pod: ResolvingPod,
  source: Snapshot & EndpointSource,
  network: string,
): Resolution | undefined {
  const service = serviceNamed(name, pod, source) ?? serviceNamed(wildcardOf(name), pod, source);
  if (service !== undefined) {
    const key = serviceKey(service);
    const vips = vipsOf(service).filter((vip) => vip.network === network || vip.network === '');
    if (vips.length > 0) {
      const addresses = vips.map(({ prefix }) => prefix.ip);
      return { because: 'service-name', name, service: key, addresses: reachable(addresses, pod) };
    }
    const addresses = source.endpointsOf(key).flatMap((uid) => podAddresses(uid, source));
    return { because: 'headless-service', name, service: key, addresses: reachable(addresses, pod) };
  }
  const [podName = '', ...rest] = name.split('.');
  const parent = serviceNamed(rest.join('.'), pod, source);
  if (parent === undefined) return undefined;
  const key = serviceKey(parent);
  const uid = source.endpointsOf(key).find((each) => source.fullWorkload(each)?.name === podName);
  if (uid === undefined) return undefined;
  return { because: 'pod-name', name, service: key, addresses: reachable(podAddresses(uid, source), pod) };
}

function serviceNamed(hostname: string, pod: ResolvingPod, source: Snapshot) {
  const services = source
    .servicesNamed(hostname)
    .map((key) => source.service(key))
    .filter((service) => service !== undefined)
    .filter((service) => isVisible(service, pod.namespace));
  return preferredService(services, pod.namespace);
}

function podAddresses(uid: string, source: EndpointSource): string[] {
  const workload = source.fullWorkload(uid);
  return workload === undefined ? [] : addressesOf(workload);
}

/** Which of them a client takes first is its own affair. */
function reachable(addresses: readonly string[], pod: ResolvingPod): string[] {
  const has = (ipv6: boolean) => pod.ips.some((ip) => isIpv6(ip) === ipv6);
  const family = (ipv6: boolean) => (has(ipv6) ? addresses.filter((ip) => isIpv6(ip) === ipv6) : []);
  return [...new Set([...family(false), ...family(true)])];
}

function wildcardOf(name: string): string {
  return `*${name.slice(name.indexOf('.'))}`;
}

/** Kubernetes' own setting for pods. */
const NDOTS = 5;
