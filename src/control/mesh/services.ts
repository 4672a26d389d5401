import { create, type MessageInitShape } from '@bufbuild/protobuf';
import type { Collection, Context } from '../../collections/collection.js';
import type { Graph } from '../../collections/graph.js';
import {
  IPFamilies,
  type NetworkAddressSchema,
  type Service as ServiceMessage,
  ServiceSchema,
} from '../../gen/istio/workload/workload_pb.js';
import { ipToBytes, isIpv6, parsePrefix } from '../../lib/ip.js';
import type { Namespace } from '../../model/kubernetes/core.js';
import { keyOf, type Labels, type Selector } from '../../model/kubernetes/metadata.js';
import type { ServiceEntry } from '../../model/kubernetes/networking.js';
import type { IpFamily, Service } from '../../model/kubernetes/service.js';
import type { Inputs } from '../inputs/inputs.js';
import { appProtocolOf, parseProtocol } from './app-protocol.js';
import { type AutoAddress, addressRequests, allocateAddresses } from './auto-addresses.js';
import { entryLoadBalancing, serviceLoadBalancing } from './load-balancing.js';
import type { MeshOptions } from './mesh-options.js';

/** A name in the mesh, with what is needed to find its endpoints. */
export interface MeshService {
  /** `namespace/hostname`. */
  readonly key: string;
  readonly from: 'Service' | 'ServiceEntry';
  /** `namespace/name` of the object it comes from. */
  readonly source: string;
  readonly createdAtMs: number;
  /** Undefined or empty: selects nobody. */
  readonly selector: Selector;
  readonly ports: readonly MeshPort[];
  readonly message: ServiceMessage;
}

export interface MeshPort {
  readonly name: string;
  readonly port: number;
  /** A number, or for a Service the name of a container's port. */
  readonly targetPort: number | string;
}

/** All services by `namespace/hostname`, of several with one name and namespace the one that counts. */
export function deriveServices(graph: Graph, inputs: Inputs, options: MeshOptions): Collection<MeshService> {
  const everything = graph.constant('everything', 'everything', true);
  const requests = graph.deriveMany(
    'address requests',
    inputs.ServiceEntry,
    (_, entry) => addressRequests(entry),
    ({ key }) => key,
  );
  const addresses = graph.deriveMany(
    'auto addresses',
    everything,
    (context) => allocateAddresses(context.list(requests)),
    ({ key }) => key,
  );
  const fromServices = graph.derive('services of Services', inputs.Service, (context, service) =>
    serviceToMesh(service, annotationsOf(context, inputs.Namespace, service.metadata.namespace), options),
  );
  const fromEntries = graph.deriveMany(
    'services of ServiceEntries',
    inputs.ServiceEntry,
    (context, entry) =>
      entryToMesh(
        entry,
        annotationsOf(context, inputs.Namespace, entry.metadata.namespace),
        (key) => context.get(addresses, key),
        options,
      ),
    ({ source, message }) => `entry ${source} ${message.hostname}`,
  );
  const byHostname = graph.index(
    'services by host name',
    graph.join('all services', [fromServices, fromEntries]),
    (service) => [service.message.hostname],
  );
  return graph.deriveMany(
    'services',
    graph.groups('services of each host name', byHostname),
    (_, services) => chooseServices(services),
    ({ key }) => key,
  );
}

export function serviceHostname(namespace: string, name: string, options: MeshOptions): string {
  return `${name}.${namespace}.svc.${options.clusterDomain}`;
}

/** ExternalName services are left to DNS. */
export function serviceToMesh(
  service: Service,
  namespaceAnnotations: Labels,
  options: MeshOptions,
): MeshService | undefined {
  const { metadata } = service;
  if (service.type === 'ExternalName') return undefined;
  const hostname = serviceHostname(metadata.namespace, metadata.name, options);
  const ports = service.ports.filter(({ protocol }) => protocol === 'TCP');
  const loadBalancing = serviceLoadBalancing(service, namespaceAnnotations);
  return {
    key: `${metadata.namespace}/${hostname}`,
    from: 'Service',
    source: keyOf(metadata),
    createdAtMs: metadata.createdAtMs,
    selector: service.selector,
    ports: ports.map(({ name, port, targetPort }) => ({ name, port, targetPort })),
    message: create(ServiceSchema, {
      name: metadata.name,
      namespace: metadata.namespace,
      hostname,
      addresses: service.clusterIps.map((ip) => networkAddress(ip, options.network)),
      ports: ports.map((port) => ({
        servicePort: port.port,
        targetPort: typeof port.targetPort === 'number' ? port.targetPort : 0,
        appProtocol: appProtocolOf(port.name, port.appProtocol),
      })),
      ...(loadBalancing === undefined ? {} : { loadBalancing }),
      ipFamilies: families(service.ipFamilies),
      canonical: true,
    }),
  };
}

export function entryToMesh(
  entry: ServiceEntry,
  namespaceAnnotations: Labels,
  autoAddress: (key: string) => AutoAddress | undefined,
  options: MeshOptions,
): readonly MeshService[] {
  const { metadata } = entry;
  const ports = entry.ports.filter(({ protocol }) => protocol.toUpperCase() !== 'UDP');
  const loadBalancing = entryLoadBalancing(entry.resolution === 'NONE', metadata.annotations, namespaceAnnotations);
  return entry.hosts.map((hostname) => ({
    key: `${metadata.namespace}/${hostname}`,
    from: 'ServiceEntry',
    source: keyOf(metadata),
    createdAtMs: metadata.createdAtMs,
    selector: entry.workloadSelector,
    ports: ports.map(({ name, port, targetPort }) => ({ name, port, targetPort: targetPort || port })),
    message: create(ServiceSchema, {
      name: metadata.name,
      namespace: metadata.namespace,
      hostname,
      addresses: entryAddresses(entry, hostname, autoAddress(`${keyOf(metadata)}/${hostname}`), options),
      ports: ports.map((port) => ({
        servicePort: port.port,
        targetPort: port.targetPort || port.port,
        appProtocol: parseProtocol(port.protocol),
      })),
      ...(loadBalancing === undefined ? {} : { loadBalancing }),
      subjectAltNames: [...entry.subjectAltNames],
    }),
  }));
}

/**
 * Of all that claim one host name: in each namespace one, a Service before a ServiceEntry and the older before the
 * younger; and over all namespaces one that is canonical, by the same order.
 */
export function chooseServices(services: readonly MeshService[]): readonly MeshService[] {
  const byMerit = [...services].sort(
    (a, b) => rank(a) - rank(b) || a.createdAtMs - b.createdAtMs || (a.source < b.source ? -1 : 1),
  );
  const chosen = byMerit.filter((service, i) => byMerit.findIndex(({ key }) => key === service.key) === i);
  return chosen.map((service, i) => {
    if (service.message.canonical === (i === 0)) return service;
    return { ...service, message: create(ServiceSchema, { ...service.message, canonical: i === 0 }) };
  });
}

function rank(service: MeshService): number {
  return service.from === 'Service' ? 0 : 1;
}

function entryAddresses(
  entry: ServiceEntry,
  hostname: string,
  auto: AutoAddress | undefined,
  options: MeshOptions,
): MessageInitShape<typeof NetworkAddressSchema>[] {
  if (entry.addresses.length > 0) return entry.addresses.map((text) => networkAddress(text, options.network));
  const allocated = entry.statusAddresses.filter(({ host, ip }) => ip !== '' && (host === '' || host === hostname));
  const ips = allocated.length > 0 ? allocated.map(({ ip }) => ip) : auto === undefined ? [] : [auto.ipv4, auto.ipv6];
  return ips.map((ip) => networkAddress(ip, options.network));
}

/** `text` is an address or a block; a block of full length counts as an address. */
function networkAddress(text: string, network: string): MessageInitShape<typeof NetworkAddressSchema> {
  const prefix = parsePrefix(text);
  const address = ipToBytes(prefix?.ip ?? text) ?? new Uint8Array();
  const whole = prefix === undefined || prefix.length === (isIpv6(prefix.ip) ? 128 : 32);
  return whole ? { network, address } : { network, address, length: prefix.length };
}

function families(families: readonly IpFamily[]): IPFamilies {
  if (families.length > 1) return IPFamilies.DUAL;
  if (families.length === 0) return IPFamilies.AUTOMATIC;
  return families[0] === 'IPv4' ? IPFamilies.IPV4_ONLY : IPFamilies.IPV6_ONLY;
}

function annotationsOf(context: Context, namespaces: Collection<Namespace>, namespace: string): Labels {
  return context.get(namespaces, namespace)?.metadata.annotations ?? {};
}
