import { type Service, type Workload, WorkloadType } from '../../gen/istio/workload/workload_pb.js';
import { parseSpiffeId } from '../../model/spiffe-id.js';

/**
 * The constant parts of a connection's metrics and access-log line, rendered once per verdict or endpoint: label pairs
 * without braces (`a="b",c="d"`) and JSON members without braces (`"a":"b"`). Names are Istio's.
 */

/** What records say of one end of a connection. */
export type RecordedWorkload = Pick<
  Workload,
  | 'name'
  | 'namespace'
  | 'workloadName'
  | 'workloadType'
  | 'canonicalName'
  | 'canonicalRevision'
  | 'clusterId'
  | 'locality'
>;

export function reporterLabels(reporter: 'source' | 'destination'): string {
  return pairs({ reporter, request_protocol: 'tcp' });
}

/** `identity` is the SPIFFE id that was (or will be) verified; empty where nobody vouches for the workload. */
export function sourceLabels(workload: RecordedWorkload | undefined, identity: string): string {
  return workloadLabels('source', workload, identity);
}

export function destinationLabels(workload: RecordedWorkload | undefined, identity: string): string {
  return workloadLabels('destination', workload, identity);
}

export function serviceLabels(service: Pick<Service, 'hostname' | 'namespace' | 'name'> | undefined): string {
  return pairs({
    destination_service: service?.hostname,
    destination_service_namespace: service?.namespace,
    destination_service_name: service?.name,
  });
}

export function sourceLog(workload: RecordedWorkload | undefined, identity: string): string {
  return members(workloadMembers('src', workload, identity));
}

export function destinationLog(workload: RecordedWorkload | undefined, identity: string): string {
  return members(workloadMembers('dst', workload, identity));
}

/** JSON members of the pairs whose value is not empty. */
export function logMembers(values: Readonly<Record<string, string | undefined>>): string {
  return members(values);
}

/** Label and member fragments in one; empty ones leave no comma behind. */
export function joinFragments(...fragments: readonly string[]): string {
  return fragments.filter((fragment) => fragment !== '').join(',');
}

/** The `baggage` header: who sends, for a destination that does not know the sender's workload. */
export function baggage(workload: RecordedWorkload): string {
  const kind = WORKLOAD_KIND[workload.workloadType];
  const values: [string, string][] = [
    ['k8s.cluster.name', workload.clusterId],
    ['k8s.namespace.name', workload.namespace],
    [`k8s.${kind}.name`, workload.workloadName],
    ['service.name', workload.canonicalName],
    ['service.version', workload.canonicalRevision],
    ['cloud.region', workload.locality?.region ?? ''],
    ['cloud.availability_zone', workload.locality?.zone ?? ''],
  ];
  return values.map(([name, value]) => `${name}=${encodeURIComponent(value)}`).join(',');
}

function workloadLabels(side: 'source' | 'destination', workload: RecordedWorkload | undefined, identity: string) {
  return pairs({
    [`${side}_workload`]: workload?.workloadName,
    [`${side}_canonical_service`]: workload?.canonicalName,
    [`${side}_canonical_revision`]: workload?.canonicalRevision,
    [`${side}_workload_namespace`]: workload?.namespace ?? namespaceOf(identity),
    [`${side}_principal`]: identity,
    [`${side}_app`]: workload?.canonicalName,
    [`${side}_version`]: workload?.canonicalRevision,
    [`${side}_cluster`]: workload?.clusterId,
  });
}

function workloadMembers(side: 'src' | 'dst', workload: RecordedWorkload | undefined, identity: string) {
  return {
    [`${side}.workload`]: workload?.name,
    [`${side}.namespace`]: workload?.namespace ?? namespaceOf(identity),
    [`${side}.identity`]: identity,
    [`${side}.cluster`]: workload?.clusterId,
  };
}

function namespaceOf(identity: string): string {
  const id = parseSpiffeId(identity);
  return id.ok ? id.value.namespace : '';
}

function pairs(values: Readonly<Record<string, string | undefined>>): string {
  return Object.entries(values)
    .map(([name, value]) => `${name}="${escapeLabel(value || 'unknown')}"`)
    .join(',');
}

function members(values: Readonly<Record<string, string | undefined>>): string {
  return Object.entries(values)
    .flatMap(([name, value]) => (value ? [`${JSON.stringify(name)}:${JSON.stringify(value)}`] : []))
    .join(',');
}

function escapeLabel(value: string): string {
  return value.replace(/[\\"\n]/g, (found) => (found === '\n' ? '\\n' : `\\${found}`));
}

const WORKLOAD_KIND: Readonly<Record<WorkloadType, string>> = {
  [WorkloadType.DEPLOYMENT]: 'deployment',
  [WorkloadType.CRONJOB]: 'cronjob',
  [WorkloadType.POD]: 'pod',
  [WorkloadType.JOB]: 'job',
};
