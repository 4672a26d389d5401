import { canonicalIp } from '../../lib/ip.js';
import type { Fields } from './fields.js';
import { hostProblem } from './host-names.js';
import { type Labels, type Metadata, readGeneration, readMetadata, type Selector } from './metadata.js';
import { refuseDryRun } from './security.js';
import { readSelector } from './selector.js';
import { checkEndpoint, checkServiceEntry } from './service-entry-checks.js';

/** What we read of networking.istio.io: ServiceEntry and WorkloadEntry. */

export interface ServiceEntry {
  readonly kind: 'ServiceEntry';
  readonly metadata: Metadata;
  readonly generation: number;
  /** Lower case, at least one. */
  readonly hosts: readonly string[];
  /** CIDR blocks. */
  readonly addresses: readonly string[];
  readonly ports: readonly EntryPort[];
  readonly resolution: Resolution;
  readonly location: 'MESH_EXTERNAL' | 'MESH_INTERNAL';
  readonly endpoints: readonly WorkloadEntrySpec[];
  readonly workloadSelector: Selector;
  readonly subjectAltNames: readonly string[];
  /** Namespaces that shall see it. */
  readonly exportTo: readonly string[];
  /** Addresses somebody has allocated already, by host (empty host: for all). */
  readonly statusAddresses: readonly { readonly host: string; readonly ip: string }[];
}

export type Resolution = (typeof RESOLUTIONS)[number];

export interface EntryPort {
  readonly name: string;
  readonly port: number;
  /** 0: the same as `port`. */
  readonly targetPort: number;
  readonly protocol: string;
}

export interface WorkloadEntry {
  readonly kind: 'WorkloadEntry';
  /** Its labels are those of the object and of the spec, the spec's winning. */
  readonly metadata: Metadata;
  readonly generation: number;
  readonly spec: WorkloadEntrySpec;
}

export interface WorkloadEntrySpec {
  /** A canonical IP, a host name, or a Unix socket path. */
  readonly address: string;
  readonly ports: ReadonlyMap<string, number>;
  readonly labels: Labels;
  readonly network: string;
  /** `region/zone/subzone`. */
  readonly locality: string;
  /** 0: not given, which counts as 1. */
  readonly weight: number;
  readonly serviceAccount: string;
}

export function readServiceEntry(object: Fields): ServiceEntry {
  const spec = object.object('spec');
  const metadata = readMetadata(object, 'namespaced');
  refuseDryRun(object, metadata);
  const entry = {
    hosts: readHosts(spec),
    addresses: spec.prefixes('addresses'),
    ports: spec.objects('ports', (port) => ({
      name: port.string('name'),
      port: port.requiredPort('number'),
      targetPort: port.optionalInteger('targetPort', 0, 65_535) ?? 0,
      protocol: port.string('protocol'),
    })),
    resolution: spec.oneOf('resolution', RESOLUTIONS),
    location: spec.oneOf('location', ['MESH_EXTERNAL', 'MESH_INTERNAL']),
    endpoints: spec.objects('endpoints', readWorkloadEntrySpec),
    workloadSelector: readSelector(spec, 'workloadSelector', 'labels'),
    subjectAltNames: spec.strings('subjectAltNames'),
    exportTo: spec.strings('exportTo'),
  };
  checkServiceEntry(spec, entry);
  return {
    kind: 'ServiceEntry',
    metadata,
    generation: readGeneration(object),
    ...entry,
    statusAddresses: object.object('status').objects('addresses', (each) => ({
      host: each.string('host'),
      ip: each.optionalIp('value') ?? '',
    })),
  };
}

/** Lower case, without the dot that may end a name. */
function readHosts(spec: Fields): readonly string[] {
  const hosts = spec.strings('hosts');
  if (hosts.length === 0) spec.problem('hosts', 'is empty: name at least one');
  return hosts.map((host, i) => {
    const why = hostProblem(host);
    if (why !== undefined) spec.problem(`hosts[${i}]`, `is ${JSON.stringify(host.slice(0, 100))}, which ${why}`);
    return host.toLowerCase().replace(/\.$/, '');
  });
}

export function readWorkloadEntry(object: Fields): WorkloadEntry {
  const metadata = readMetadata(object, 'namespaced');
  refuseDryRun(object, metadata);
  const spec = readWorkloadEntrySpec(object.object('spec'));
  return {
    kind: 'WorkloadEntry',
    generation: readGeneration(object),
    metadata: { ...metadata, labels: { ...metadata.labels, ...spec.labels } },
    spec,
  };
}

function readWorkloadEntrySpec(spec: Fields): WorkloadEntrySpec {
  const address = spec.string('address');
  const entry = {
    address: canonicalIp(address) ?? address,
    ports: spec.portMap('ports'),
    labels: spec.stringMap('labels'),
    network: spec.string('network'),
    locality: spec.string('locality'),
    weight: spec.optionalInteger('weight', 0, 2 ** 32 - 1) ?? 0,
    serviceAccount: spec.string('serviceAccount'),
  };
  checkEndpoint(spec, entry);
  return entry;
}

const RESOLUTIONS = ['NONE', 'STATIC', 'DNS', 'DNS_ROUND_ROBIN', 'DYNAMIC_DNS'] as const;
