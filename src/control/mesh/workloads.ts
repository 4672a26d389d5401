import { create } from '@bufbuild/protobuf';
import type { Collection, Context } from '../../collections/collection.js';
import type { Graph } from '../../collections/graph.js';
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
import type { Inputs } from '../inputs/inputs.js';
import { entryPorts, type PortPair, podPorts, slicePorts } from './endpoints.js';
import { nodeLocality, parseLocality, podLocality } from './locality.js';
import type { MeshOptions } from './mesh-options.js';
import { indexBySelector, type LabelSet, labelSetKey, selecting } from './selection.js';
import { type MeshService, serviceHostname } from './services.js';
import { canonicalNames, controllerOf, tunnelOf } from './workload-identity.js';

/** Everything a workload's derivation reads. */
export interface WorkloadReads {
  readonly services: Collection<MeshService>;
  readonly labelSets: Collection<LabelSet>;
  /** Names of the policies that select a set of labels, by `labelSetKey`. */
  readonly policyNames: Collection<readonly string[]>;
  /** The same for labels that no pod or WorkloadEntry has. */
  readonly policyNamesOf: (context: Context, set: LabelSet) => readonly string[];
}

/** All workloads by uid: pods, WorkloadEntries, endpoints of ServiceEntries, and endpoints given by hand. */
export function deriveWorkloads(
  graph: Graph,
  inputs: Inputs,
  reads: WorkloadReads,
  options: MeshOptions,
): Collection<Workload> {
  const { services } = reads;
  const bySelector = indexBySelector(graph, 'services by selector', services, ({ message, selector }) => ({
    namespace: message.namespace,
    // A Service without a selector selects nobody.
    selector: selector !== undefined && Object.keys(selector).length > 0 ? selector : undefined,
  }));
  const selected = graph.derive('services of label sets', reads.labelSets, (context, { namespace, labels }) =>
    selecting(context, bySelector, namespace, labels, ({ selector }) => selector)
      .map(({ key }) => key)
      .sort(),
  );
  const slices = graph.derive('EndpointSlices of Services', inputs.EndpointSlice, (context, slice) => {
    const service = context.get(services, sliceServiceKey(slice, options));
    return slice.addressType === 'FQDN' || service?.from !== 'Service' ? undefined : slice;
  });
  // Pods that a selector finds need no slice; and slices change with every pod of theirs.
  const unselected = graph.derive('EndpointSlices of Services without selector', slices, (context, slice) => {
    const selector = context.get(services, sliceServiceKey(slice, options))?.selector ?? {};
    return Object.keys(selector).length === 0 ? slice : undefined;
  });
  const slicesByPod = graph.index('EndpointSlices by Pod', unselected, (slice) => [
    ...new Set(slice.endpoints.map(({ pod }) => pod).filter((pod) => pod !== undefined)),
  ]);
  const localities = graph.derive('localities of Nodes', inputs.Node, (_, node) => nodeLocality(node.metadata.labels));
  const servicesOf = (context: Context, key: string) =>
    (context.get(selected, key) ?? []).map((each) => context.get(services, each)).filter((each) => each !== undefined);

  const ofPods = graph.derive(
    'workloads of Pods',
    inputs.Pod,
    (context, pod) => {
      if (pod.phase === 'Succeeded' || pod.phase === 'Failed' || pod.ips.length === 0) return undefined;
      const labelsKey = labelSetKey({ namespace: pod.metadata.namespace, labels: pod.metadata.labels });
      const endpoints = servicesOf(context, labelsKey).map((service) => ({
        key: service.key,
        ports: podPorts(service, pod.containerPorts),
      }));
      const byHand = context.lookup(slicesByPod, keyOf(pod.metadata)).flatMap((slice) => {
        const service = context.get(services, sliceServiceKey(slice, options));
        return service === undefined ? [] : [{ key: service.key, ports: slicePorts(service, slice.ports) }];
      });
      return podWorkload(
        pod,
        {
          services: [...endpoints, ...byHand],
          policies: context.get(reads.policyNames, labelsKey) ?? [],
          locality: context.get(localities, pod.nodeName),
        },
        options,
      );
    },
    { rekey: (key) => podUid(options.cluster, key) },
  );

  const ofWorkloadEntries = graph.derive(
    'workloads of WorkloadEntries',
    inputs.WorkloadEntry,
    (context, entry) => {
      const labelsKey = labelSetKey({ namespace: entry.metadata.namespace, labels: entry.metadata.labels });
      const endpoints = servicesOf(context, labelsKey).map((service) => ({
        key: service.key,
        ports: entryPorts(service, entry.spec.ports),
      }));
      return entryWorkload(entry, endpoints, context.get(reads.policyNames, labelsKey) ?? [], options);
    },
    { rekey: (key) => entryUid(options.cluster, key) },
  );

  const entryServices = graph.index('services by ServiceEntry', services, ({ from, source }) =>
    from === 'ServiceEntry' ? [source] : [],
  );
  const ofServiceEntries = graph.deriveMany(
    'workloads of ServiceEntries',
    inputs.ServiceEntry,
    (context, entry) => {
      const { namespace, labels } = entry.metadata;
      const policies = reads.policyNamesOf(context, { namespace, labels });
      return serviceEntryWorkloads(entry, context.lookup(entryServices, keyOf(entry.metadata)), policies, options);
    },
    ({ uid }) => uid,
  );

  const ofSlices = graph.deriveMany(
    'workloads of EndpointSlices',
    slices,
    (context, slice) => {
      const service = context.get(services, sliceServiceKey(slice, options));
      return service === undefined ? [] : sliceWorkloads(slice, service, options);
    },
    ({ uid }) => uid,
  );

  return graph.join('workloads', [ofPods, ofWorkloadEntries, ofServiceEntries, ofSlices]);
}

/** A service and the ports at which an endpoint serves it. */
export interface EndpointOf {
  readonly key: string;
  readonly ports: readonly PortPair[];
}

/** `key` is a pod's `namespace/name`. */
export function podUid(cluster: string, key: string): string {
  return `${cluster}//Pod/${key}`;
}

function entryUid(cluster: string, key: string): string {
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

/** Endpoints of a slice that are not pods: addresses about which nothing else is known. */
export function sliceWorkloads(slice: EndpointSlice, service: MeshService, options: MeshOptions): readonly Workload[] {
  const { metadata } = slice;
  const services = portLists([{ key: service.key, ports: slicePorts(service, slice.ports) }]);
  const bare = slice.endpoints.filter(({ pod, addresses }) => pod === undefined && addresses.length > 0);
  return bare.map((endpoint) =>
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

function sliceServiceKey(slice: EndpointSlice, options: MeshOptions): string {
  const { namespace } = slice.metadata;
  return `${namespace}/${serviceHostname(namespace, slice.service, options)}`;
}

function bytesOf(ip: string): Uint8Array {
  return ipToBytes(ip) ?? new Uint8Array();
}

const DEFAULT_TRUST_DOMAIN = 'cluster.local';
const BARE: WorkloadEntrySpec = {
  address: '',
  ports: {},
  labels: {},
  network: '',
  locality: '',
  weight: 0,
  serviceAccount: '',
};
