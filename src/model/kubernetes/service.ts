import type { Fields } from './fields.js';
import { type Labels, type Metadata, readMetadata } from './metadata.js';

/** What we read of Service and EndpointSlice. */

export interface Service {
  readonly kind: 'Service';
  readonly metadata: Metadata;
  readonly type: 'ClusterIP' | 'NodePort' | 'LoadBalancer' | 'ExternalName';
  /** Empty: endpoints are given by EndpointSlices. */
  readonly selector: Labels;
  /** Canonical; empty for a headless service and for one that has none yet. */
  readonly clusterIps: readonly string[];
  readonly headless: boolean;
  readonly ipFamilies: readonly IpFamily[];
  readonly ports: readonly ServicePort[];
  readonly publishNotReadyAddresses: boolean;
  readonly internalTrafficPolicy: 'Cluster' | 'Local';
  readonly trafficDistribution: string;
}

export type IpFamily = 'IPv4' | 'IPv6';

export interface ServicePort {
  readonly name: string;
  readonly port: number;
  /** A number, or the name of a container's port. */
  readonly targetPort: number | string;
  readonly protocol: 'TCP' | 'UDP' | 'SCTP';
  readonly appProtocol: string | undefined;
}

export interface EndpointSlice {
  readonly kind: 'EndpointSlice';
  readonly metadata: Metadata;
  readonly addressType: 'IPv4' | 'IPv6' | 'FQDN';
  /** Name of the service in the same namespace; empty for a slice of no service. */
  readonly service: string;
  readonly ports: readonly EndpointPort[];
  readonly endpoints: readonly Endpoint[];
}

export interface EndpointPort {
  /** Name of the service's port. */
  readonly name: string;
  readonly port: number | undefined;
  readonly protocol: string;
}

export interface Endpoint {
  /** Canonical IPs, except in slices of type FQDN. */
  readonly addresses: readonly string[];
  readonly ready: boolean;
  readonly nodeName: string;
  readonly zone: string;
  /** `namespace/name` of the pod behind it. */
  readonly pod: string | undefined;
}

export function readService(object: Fields): Service {
  const spec = object.object('spec');
  const clusterIp = spec.string('clusterIP');
  const listed = spec.strings('clusterIPs');
  const addresses = (listed.length > 0 ? listed : [clusterIp]).filter((ip) => ip !== '');
  return {
    kind: 'Service',
    metadata: readMetadata(object, 'namespaced'),
    type: spec.oneOf('type', ['ClusterIP', 'NodePort', 'LoadBalancer', 'ExternalName']),
    selector: spec.stringMap('selector'),
    clusterIps: addresses
      .filter((ip) => ip !== HEADLESS)
      .map((text) => spec.ip(listed.length > 0 ? 'clusterIPs' : 'clusterIP', text))
      .filter((ip) => ip !== undefined),
    headless: addresses.includes(HEADLESS),
    ipFamilies: spec.strings('ipFamilies').filter((family) => family === 'IPv4' || family === 'IPv6'),
    ports: spec.objects('ports', readServicePort),
    publishNotReadyAddresses: spec.boolean('publishNotReadyAddresses'),
    internalTrafficPolicy: spec.oneOf('internalTrafficPolicy', ['Cluster', 'Local']),
    trafficDistribution: spec.string('trafficDistribution'),
  };
}

function readServicePort(port: Fields): ServicePort {
  const number = port.requiredPort('port');
  return {
    name: port.string('name'),
    port: number,
    targetPort: readTargetPort(port) ?? number,
    protocol: port.oneOf('protocol', ['TCP', 'UDP', 'SCTP']),
    appProtocol: port.optionalString('appProtocol'),
  };
}

function readTargetPort(port: Fields): number | string | undefined {
  const value = port.value.targetPort ?? undefined;
  if (typeof value !== 'string') {
    // Kubernetes takes 0 for "the same as port".
    return value === 0 ? undefined : port.optionalInteger('targetPort', 1, 65_535);
  }
  if (/^\d+$/.test(value)) port.problem('targetPort', `is "${value}" in quotes, which would be the name of a port`);
  return value === '' ? undefined : value;
}

export function readEndpointSlice(object: Fields): EndpointSlice {
  const addressType = object.oneOf('addressType', ['IPv4', 'IPv6', 'FQDN']);
  const metadata = readMetadata(object, 'namespaced');
  return {
    kind: 'EndpointSlice',
    metadata,
    addressType,
    service: metadata.labels['kubernetes.io/service-name'] ?? '',
    ports: object.objects('ports', (port) => ({
      name: port.string('name'),
      port: port.optionalInteger('port', 1, 65_535),
      protocol: port.string('protocol') || 'TCP',
    })),
    endpoints: object.objects('endpoints', (endpoint) => readEndpoint(endpoint, metadata.namespace, addressType)),
  };
}

function readEndpoint(endpoint: Fields, namespace: string, addressType: string): Endpoint {
  const target = endpoint.optionalObject('targetRef');
  const addresses = endpoint.strings('addresses');
  return {
    addresses:
      addressType === 'FQDN'
        ? addresses
        : addresses.map((text, i) => endpoint.ip(`addresses[${i}]`, text)).filter((ip) => ip !== undefined),
    ready: isReady(endpoint.object('conditions').value),
    nodeName: endpoint.string('nodeName'),
    zone: endpoint.string('zone'),
    pod:
      target?.string('kind') === 'Pod'
        ? `${target.string('namespace') || namespace}/${target.string('name')}`
        : undefined,
  };
}

/**
 * Unknown counts as ready, except of what is on its way out. Of a Service that publishes what is not ready, the server
 * says ready of that, too.
 */
function isReady({ ready, serving, terminating }: Readonly<Record<string, unknown>>): boolean {
  if (typeof ready === 'boolean') return ready;
  return terminating !== true && serving !== false;
}

const HEADLESS = 'None';
