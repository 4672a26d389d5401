import { create } from '@bufbuild/protobuf';
import {
  NetworkMode,
  type PortList,
  PortListSchema,
  type Workload,
  WorkloadSchema,
  WorkloadStatus,
  WorkloadType,
} from '../../gen/istio/workload/workload_pb.js';
import { canonicalIp, ipToBytes } from '../../lib/ip.js';
import type { Pod } from '../../model/kubernetes/core.js';
import { keyOf } from '../../model/kubernetes/metadata.js';
import type { ServiceEntry, WorkloadEntry, WorkloadEntrySpec } from '../../model/kubernetes/networking.js';
import type { Endpoint, EndpointSlice } from '../../model/kubernetes/service.js';
import { entryPorts, type PortPair, slicePorts } from './endpoints.js';
import { type nodeLocality, parseLocality, podLocality } from './locality.js';
import type { MeshOptions } from './mesh-options.js';
import type { MeshService } from './services.js';
import { canonicalNames, controllerOf, tunnelOf } from './workload-identity.js';

/** A service and the ports at which an endpoint serves it. */
export interface EndpointOf {
  readonly key: string;
  readonly ports: readonly PortPair[];
}

/** `key` is a pod's `namespace/name`. */
export function podUid(cluster: string, key: string): string {
  return `${cluster}//Pod/${key}`;
}

/** `key` is a WorkloadEntry's `namespace/name`. */
export function entryUid(cluster: string, key: string): string {
  return `${cluster}/networking.istio.io/WorkloadEntry/${key}`;
}

export function podWorkload(
  pod: Pod,
  found: {
    readonly services: readonly EndpointOf[];
    readonly policies: readonly string[];
    readonly locality: ReturnType<typeof nodeLocality>;
  },
  options: MeshOptions,
): Workload {
  const { labels, annotations, name, namespace, terminating } = pod.metadata;
  const controller = controllerOf(pod);
  const canonical = canonicalNames(labels, controller.name);
  const locality = podLocality(labels, found.locality);
  return create(WorkloadSchema, {
    ...shared(options),
    uid: podUid(options.cluster, keyOf(pod.metadata)),
    name,
    namespace,
    addresses: pod.ips.map(bytesOf),
    serviceAccount: pod.serviceAccount,
    node: pod.nodeName,
    workloadName: controller.name,
    workloadType: controller.type,
    canonicalName: canonical.name,
    canonicalRevision: canonical.revision,
    ...tunnelOf(labels, annotations),
    authorizationPolicies: [...found.policies],
    services: portLists(found.services),
    status: pod.ready && !terminating ? WorkloadStatus.HEALTHY : WorkloadStatus.UNHEALTHY,
    networkMode: pod.hostNetwork ? NetworkMode.HOST_NETWORK : NetworkMode.STANDARD,
    ...(locality === undefined ? {} : { locality }),
  });
}

export function entryWorkload(
  entry: WorkloadEntry,
  services: readonly EndpointOf[],
  policies: readonly string[],
  options: MeshOptions,
): Workload | undefined {
  const { metadata, spec } = entry;
  if (!isReachable(spec)) return undefined;
  const workloadName = metadata.labels['service.istio.io/workload-name'] ?? metadata.name;
  const canonical = canonicalNames(metadata.labels, workloadName);
  return create(WorkloadSchema, {
    ...shared(options),
    ...fromSpec(spec, options),
    uid: entryUid(options.cluster, keyOf(metadata)),
    name: metadata.name,
    namespace: metadata.namespace,
    workloadName: metadata.annotations['istio.io/autoRegistrationGroup'] ?? workloadName,
    workloadType: WorkloadType.POD,
    canonicalName: canonical.name,
    canonicalRevision: canonical.revision,
    ...tunnelOf(metadata.labels, metadata.annotations),
    authorizationPolicies: [...policies],
    services: portLists(services),
  });
}

/**
 * The endpoints written into a ServiceEntry, each serving all of its hosts. With a DNS resolution and no endpoints
 * each host is its own endpoint, resolved by name.
 */
export function serviceEntryWorkloads(
  entry: ServiceEntry,
  services: readonly MeshService[],
  policies: readonly string[],
  options: MeshOptions,
): readonly Workload[] {
  const { metadata } = entry;
  const byName =
    entry.endpoints.length === 0 && entry.workloadSelector === undefined && entry.resolution.includes('DNS');
  const endpoints = byName
    ? services
        .filter(({ message }) => !message.hostname.startsWith('*'))
        .map((service) => ({ spec: { ...BARE, address: service.message.hostname }, services: [service] }))
    : entry.endpoints.filter(isReachable).map((spec) => ({ spec, services }));
  if (services.length === 0) return [];
  const canonical = canonicalNames(metadata.labels, metadata.name);
  return endpoints.map(({ spec, services }) =>
    create(WorkloadSchema, {
      ...shared(options),
      ...fromSpec(spec, options),
      uid: `${options.cluster}/networking.istio.io/ServiceEntry/${keyOf(metadata)}/${spec.address}`,
      name: metadata.name,
      namespace: metadata.namespace,
      workloadName: metadata.name,
      workloadType: WorkloadType.POD,
      canonicalName: canonical.name,
      canonicalRevision: canonical.revision,
      ...tunnelOf({ ...metadata.labels, ...spec.labels }, metadata.annotations),
      authorizationPolicies: [...policies],
      services: portLists(services.map((service) => ({ key: service.key, ports: entryPorts(service, spec.ports) }))),
    }),
  );
}

/** Endpoints of a slice that are not pods, one workload each: addresses about which nothing else is known. */
export function sliceWorkloads(slice: EndpointSlice, service: MeshService, options: MeshOptions): readonly Workload[] {
  const { metadata } = slice;
  const services = portLists([{ key: service.key, ports: slicePorts(service, slice.ports) }]);
  return slice.endpoints.map((endpoint) =>
    create(WorkloadSchema, {
      ...shared(options),
      uid: `${options.cluster}/discovery.k8s.io/EndpointSlice/${keyOf(metadata)}/${endpoint.addresses[0]}`,
      name: metadata.name,
      namespace: metadata.namespace,
      addresses: endpoint.addresses.map(bytesOf),
      node: endpoint.nodeName,
      ...zoneOf(endpoint),
      services,
      status: endpoint.ready ? WorkloadStatus.HEALTHY : WorkloadStatus.UNHEALTHY,
      // The address may well be that of something else, too.
      networkMode: NetworkMode.HOST_NETWORK,
    }),
  );
}

function shared(options: MeshOptions) {
  return {
    network: options.network,
    clusterId: options.cluster,
    trustDomain: options.trustDomain === DEFAULT_TRUST_DOMAIN ? '' : options.trustDomain,
  };
}

function fromSpec(spec: WorkloadEntrySpec, options: MeshOptions) {
  const isIp = canonicalIp(spec.address) !== undefined;
  const locality = parseLocality(spec.locality);
  return {
    ...(isIp ? { addresses: [bytesOf(spec.address)] } : { hostname: spec.address }),
    network: spec.network || options.network,
    serviceAccount: spec.serviceAccount,
    status: WorkloadStatus.HEALTHY,
    ...(spec.weight > 0 ? { capacity: spec.weight } : {}),
    ...(locality === undefined ? {} : { locality }),
  };
}

/** Unix sockets cannot be reached from elsewhere; a network without address needs a gateway. */
function isReachable(spec: WorkloadEntrySpec): boolean {
  return spec.address !== '' && !spec.address.startsWith('unix:');
}

/** In order of the keys, so that equal workloads encode to equal bytes; the first of several claims on a key counts. */
function portLists(services: readonly EndpointOf[]): Record<string, PortList> {
  const lists: Record<string, PortList> = {};
  for (const { key, ports } of [...services].sort((a, b) => (a.key < b.key ? -1 : 1))) {
    lists[key] ??= create(PortListSchema, { ports: [...ports] });
  }
  return lists;
}

function zoneOf(endpoint: Endpoint) {
  return endpoint.zone === '' ? {} : { locality: { zone: endpoint.zone } };
}

function bytesOf(ip: string): Uint8Array {
  return ipToBytes(ip) ?? new Uint8Array();
}

const DEFAULT_TRUST_DOMAIN = 'cluster.local';
const BARE: WorkloadEntrySpec = {
  address: '',
  ports: new Map(),
  labels: {},
  network: '',
  locality: '',
  weight: 0,
  serviceAccount: '',
};
