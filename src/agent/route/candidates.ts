import {
  LoadBalancing_HealthPolicy,
  LoadBalancing_Mode,
  LoadBalancing_Scope,
  type Service,
  TunnelProtocol,
  type Workload,
  WorkloadStatus,
} from '../../gen/istio/workload/workload_pb.js';
import { isIpv6 } from '../../lib/ip.js';
import type { Endpoint } from '../dataplane/dataplane.js';
import { addressesOf, hostOf, identityOf, vipsOf } from '../store/facts.js';
import type { EndpointSource } from '../store/snapshot.js';
import { destinationLabels, destinationLog } from './access-record.js';
import type { GroupSpec } from './group-spec.js';
import type { Self } from './observed.js';

/**
 * A workload considered for a group: an endpoint, or why it is none. One with a host name instead of addresses is as many
 * endpoints as the name has addresses; `name` is set for such. Where the address is one of the mesh, `isInside`, it is
 * the mesh's endpoints there, which are reached as they are always: through their tunnels.
 */
export type Candidate = { readonly uid: string; readonly name?: string; readonly isInside?: boolean } & (
  | { readonly endpoint: Endpoint }
  | { readonly excluded: string }
);

/** All candidates of a group, those left out included. Pure. */
export function candidatesOf(spec: GroupSpec, source: EndpointSource, self: Self): Candidate[] {
  const uids = spec.kind === 'workload' ? [spec.uid] : source.endpointsOf(spec.service);
  return uids.flatMap((uid) => candidatesFrom(spec, uid, source, self));
}

/** One workload as candidates of a group. Pure. */
export function candidatesFrom(spec: GroupSpec, uid: string, source: EndpointSource, self: Self): Candidate[] {
  const workload = source.fullWorkload(uid);
  if (workload === undefined) return [{ uid, excluded: 'not-known' }];
  if (workload.network !== self.network) return [{ uid, excluded: 'other-network' }];
  if (spec.kind === 'workload') return [workloadCandidate(spec, workload)];
  const service = source.service(spec.service);
  if (service === undefined) return [{ uid, excluded: 'service-not-known' }];
  return serviceCandidates(spec, service, workload, source, self);
}

function workloadCandidate(spec: Extract<GroupSpec, { kind: 'workload' }>, workload: Workload): Candidate {
  if (!addressesOf(workload).includes(spec.ip)) return { uid: workload.uid, excluded: 'address-gone' };
  const endpoint = endpointAt(workload, spec.ip, spec.port, spec.authority, []);
  // A client that names the pod itself gets it, ready or not.
  return { uid: workload.uid, endpoint: { ...endpoint, weight: 1, rank: 0, healthy: true } };
}

type ServiceSpec = Extract<GroupSpec, { kind: 'service' }>;

function serviceCandidates(
  spec: ServiceSpec,
  service: Service,
  workload: Workload,
  source: EndpointSource,
  self: Self,
): Candidate[] {
  const { uid } = workload;
  const port = targetPort(service, workload, spec.service, spec.port);
  if (port === undefined) return [{ uid, excluded: 'port-not-served' }];
  const host = hostOf(workload);
  const addresses = addressesOf(workload);
  const ip = addresses.find((address) => isIpv6(address) === (spec.family === 6)) ?? addresses[0];
  if (ip === undefined && host === undefined) return [{ uid, excluded: 'no-address' }];
  const rank = localityRank(service, workload, self);
  if (rank === undefined) return [{ uid, excluded: 'other-locality' }];
  const weight = workload.capacity ?? 1;
  if (weight === 0) return [{ uid, excluded: 'weight-zero' }];
  const facts = { weight, rank, healthy: isHealthy(service, workload) };
  const at = (each: string) => ({
    ...endpointAt(workload, each, port, spec.authority, service.subjectAltNames),
    ...facts,
  });
  if (ip !== undefined) return [{ uid, endpoint: at(ip) }];
  const name = host ?? '';
  const known = source.name(name);
  if (known === undefined) return [{ uid, name, excluded: 'name-not-looked-up' }];
  if (known.problem !== '') return [{ uid, name, excluded: `name-unresolved (${known.problem})` }];
  return addressesFor(spec.family, known.ips).flatMap((each) => {
    const inside = workload.tunnelProtocol === TunnelProtocol.HBONE ? [] : insideAt(each, port, spec, source, self);
    if (inside.length === 0) return [{ uid, name, endpoint: at(each) }];
    return inside.map((candidate): Candidate => {
      if (!('endpoint' in candidate)) return { uid, name, isInside: true, excluded: candidate.excluded };
      return { uid, name, isInside: true, endpoint: { ...candidate.endpoint, rank } };
    });
  });
}

/** What the mesh has at an address: a workload with a tunnel, or the endpoints of a service. None: it has nothing. */
function insideAt(ip: string, port: number, spec: ServiceSpec, source: EndpointSource, self: Self): Candidate[] {
  const { family, authority } = spec;
  const [key] = source.servicesAt(self.network, ip).filter((each) => hasAddress(source.service(each), ip));
  if (key !== undefined) {
    const nested: ServiceSpec = { kind: 'service', service: key, port, family, authority };
    const candidates = source.endpointsOf(key).flatMap((uid) => {
      // A name behind a name is for DNS to follow.
      const isName = addressesOf(source.fullWorkload(uid) ?? { addresses: [] }).length === 0;
      return isName ? [] : candidatesFrom(nested, uid, source, self);
    });
    return candidates.length > 0 ? candidates : [{ uid: key, excluded: 'service-without-endpoints' }];
  }
  const owners = source.workloadsAt(self.network, ip).map((uid) => source.fullWorkload(uid));
  const owner = owners.find((each) => each?.tunnelProtocol === TunnelProtocol.HBONE);
  return owner === undefined
    ? []
    : [workloadCandidate({ kind: 'workload', uid: owner.uid, ip, port, authority }, owner)];
}

/** As an address of its own, not as one of a block. */
function hasAddress(service: Service | undefined, ip: string): boolean {
  return service !== undefined && vipsOf(service).some(({ prefix }) => prefix.ip === ip);
}

/** Those of the family that the client asked in; where there are none, the others. */
function addressesFor(family: 4 | 6, ips: readonly string[]): readonly string[] {
  const preferred = ips.filter((ip) => isIpv6(ip) === (family === 6));
  return preferred.length > 0 ? preferred : ips;
}

function endpointAt(workload: Workload, ip: string, port: number, authority: string, names: readonly string[]) {
  const tunnelled = workload.tunnelProtocol === TunnelProtocol.HBONE;
  // A waypoint's own port is the tunnel's end; an ordinary endpoint is reached through its node's.
  const tunnelPort = authority === '' ? HBONE_PORT : port;
  const identity = tunnelled ? identityOf(workload) : '';
  return {
    id: workload.uid,
    ip,
    port,
    tunnelIp: tunnelled ? ip : '',
    tunnelPort: tunnelled ? tunnelPort : 0,
    authority: tunnelled ? authority : '',
    identities: tunnelled ? [...new Set([identity, ...names])] : [],
    labels: destinationLabels(workload, identity),
    log: destinationLog(workload, identity),
  };
}

/** The port behind a service port; undefined when this workload does not serve it. */
export function targetPort(service: Service, workload: Pick<Workload, 'services'>, key: string, port: number) {
  const own = workload.services[key]?.ports ?? [];
  const named = own.find((each) => each.servicePort === port);
  if (named !== undefined && named.targetPort !== 0) return named.targetPort;
  if (named === undefined && own.length > 0) return undefined;
  return service.ports.find((each) => each.servicePort === port)?.targetPort || undefined;
}

function isHealthy(service: Service, workload: Workload): boolean {
  if (service.loadBalancing?.healthPolicy === LoadBalancing_HealthPolicy.ALLOW_ALL) return true;
  return workload.status === WorkloadStatus.HEALTHY;
}

/** 0 is nearest; undefined when the service wants nothing so far away. */
function localityRank(service: Service, workload: Workload, self: Self): number | undefined {
  const scopes = service.loadBalancing?.routingPreference ?? [];
  const firstMiss = scopes.findIndex((scope) => !sharesScope(scope, workload, self));
  const matched = firstMiss < 0 ? scopes.length : firstMiss;
  switch (service.loadBalancing?.mode) {
    case LoadBalancing_Mode.STRICT:
      return matched === scopes.length ? 0 : undefined;
    case LoadBalancing_Mode.FAILOVER:
      return scopes.length - matched;
    default:
      return 0;
  }
}

function sharesScope(scope: LoadBalancing_Scope, workload: Workload, self: Self): boolean {
  switch (scope) {
    case LoadBalancing_Scope.REGION:
      return (workload.locality?.region ?? '') === self.locality.region;
    case LoadBalancing_Scope.ZONE:
      return (workload.locality?.zone ?? '') === self.locality.zone;
    case LoadBalancing_Scope.SUBZONE:
      return (workload.locality?.subzone ?? '') === self.locality.subzone;
    case LoadBalancing_Scope.NODE:
      return workload.node === self.node;
    case LoadBalancing_Scope.CLUSTER:
      return (workload.clusterId || DEFAULT_CLUSTER) === self.cluster;
    case LoadBalancing_Scope.NETWORK:
      return workload.network === self.network;
    default:
      return true;
  }
}

export const HBONE_PORT = 15008;
const DEFAULT_CLUSTER = 'Kubernetes';
