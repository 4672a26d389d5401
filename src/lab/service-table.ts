import { canonicalIp, isIpv6 } from '../lib/ip.js';
import { type KubeObject, listAt, recordAt, selects, stringMap } from './objects.js';
import { portNumber } from './pod-plan.js';

/** A pod as Services and the name server see it. */
export interface PodView {
  readonly name: string;
  readonly namespace: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly addresses: readonly string[];
  readonly ready: boolean;
  readonly hostname: string;
  readonly subdomain: string;
  readonly ports: readonly { readonly name: string; readonly port: number }[];
}

export interface ServiceView {
  readonly name: string;
  readonly namespace: string;
  /** Empty when headless. */
  readonly addresses: readonly string[];
  readonly headless: boolean;
  /** Target of an ExternalName service; empty otherwise. */
  readonly externalName: string;
  readonly ports: readonly ServicePortView[];
  /** Pods behind it that are ready (or are to be published before). */
  readonly pods: readonly PodView[];
}

export interface ServicePortView {
  readonly name: string;
  readonly protocol: 'tcp' | 'udp';
  readonly port: number;
  readonly endpoints: readonly { readonly ip: string; readonly port: number }[];
}

/**
 * What each Service among `objects` leads to: pods by selector, or, for a Service without one, the EndpointSlices that
 * name it. Pure.
 */
export function serviceTable(objects: readonly KubeObject[], pods: readonly PodView[]): readonly ServiceView[] {
  const slices = objects.filter(({ kind }) => kind === 'EndpointSlice');
  return objects.filter(({ kind }) => kind === 'Service').map((service) => viewOf(service, pods, slices));
}

function viewOf(service: KubeObject, allPods: readonly PodView[], slices: readonly KubeObject[]): ServiceView {
  const spec = recordAt(service, 'spec');
  const { name, namespace } = service.metadata;
  const early = spec.publishNotReadyAddresses === true;
  const selector = stringMap(spec.selector);
  const pods = allPods.filter(
    (pod) =>
      pod.namespace === namespace && selects(selector, pod.labels) && (pod.ready || early) && pod.addresses.length > 0,
  );
  const addresses = clusterIps(service);
  const selectorless = Object.keys(selector).length === 0;
  return {
    name,
    namespace,
    addresses,
    headless: spec.clusterIP === 'None',
    externalName: spec.type === 'ExternalName' ? String(spec.externalName ?? '') : '',
    pods,
    ports: listAt(spec, 'ports').flatMap((port) => {
      const view = portView(recordAt(port), pods);
      if (view === undefined) return [];
      return [selectorless ? { ...view, endpoints: sliceEndpoints(service, view, slices) } : view];
    }),
  };
}

function portView(port: Record<string, unknown>, pods: readonly PodView[]): ServicePortView | undefined {
  const number = portNumber(port.port, []);
  const protocol = String(port.protocol ?? 'TCP').toLowerCase();
  if (number === undefined || (protocol !== 'tcp' && protocol !== 'udp')) return undefined;
  const endpoints = pods.flatMap((pod) => {
    const target = portNumber(port.targetPort ?? number, pod.ports);
    return target === undefined ? [] : pod.addresses.map((ip) => ({ ip, port: target }));
  });
  return { name: String(port.name ?? ''), protocol, port: number, endpoints };
}

function sliceEndpoints(
  service: KubeObject,
  port: ServicePortView,
  slices: readonly KubeObject[],
): ServicePortView['endpoints'] {
  const own = slices.filter(
    ({ metadata }) =>
      metadata.namespace === service.metadata.namespace &&
      metadata.labels['kubernetes.io/service-name'] === service.metadata.name,
  );
  return own.flatMap((slice) => {
    const match = listAt(slice, 'ports').find((each) => String(recordAt(each).name ?? '') === port.name);
    const target = portNumber(recordAt(match).port, []);
    if (target === undefined) return [];
    const ready = listAt(slice, 'endpoints').filter((endpoint) => recordAt(endpoint, 'conditions').ready !== false);
    return ready.flatMap((endpoint) =>
      listAt(endpoint, 'addresses').flatMap((address) => {
        const ip = canonicalIp(String(address));
        return ip === undefined ? [] : [{ ip, port: target }];
      }),
    );
  });
}

/** The Service's own addresses, without `None`. */
export function clusterIps(service: KubeObject): readonly string[] {
  const spec = recordAt(service, 'spec');
  const all = [spec.clusterIP, ...listAt(spec, 'clusterIPs')].filter((ip) => typeof ip === 'string');
  return [...new Set(all.map(canonicalIp).filter((ip) => ip !== undefined))];
}

export function ofFamilyOf<T extends { readonly ip: string }>(ip: string, endpoints: readonly T[]): readonly T[] {
  return endpoints.filter((endpoint) => isIpv6(endpoint.ip) === isIpv6(ip));
}
