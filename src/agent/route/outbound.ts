import {
  type GatewayAddress,
  LoadBalancing_Mode,
  type Service,
  Service_Visibility,
} from '../../gen/istio/workload/workload_pb.js';
import { formatHostPort, ipFromBytes, isIpv6, prefixContains } from '../../lib/ip.js';
import { serviceKey, vipsOf } from '../store/facts.js';
import type { LocalPod } from '../store/snapshot.js';
import type { RecordedWorkload } from './access-record.js';
import { HBONE_PORT } from './candidates.js';
import { type Decision, OWN_PORTS, type Reason, refuse } from './decision.js';
import type { GroupSpec } from './group-spec.js';
import type { Observed, Self } from './observed.js';

/**
 * Where a captured pod's connection goes. In this order: a service's virtual address (through its waypoint, or to an
 * endpoint), a workload's address (through its waypoint, or to it), the world outside. What the mesh ought to know and
 * does not is refused with the reason: plaintext is never a fallback for ignorance.
 */
export function decideOutbound(seen: Observed, self: Self): Decision {
  const pod = seen.pod(seen.podUid);
  if (pod === undefined) return refuse('unknown-pod', 503, [`pod/${seen.podUid}`]);
  if (OWN_PORTS.includes(seen.dstPort) && (isLoopback(seen.dstIp) || pod.addresses.includes(seen.dstIp))) {
    return refuse('loop', 400, [`pod/${pod.uid}`]);
  }
  const service = visibleService(seen, self, pod);
  if (service === undefined) return toWorkload(seen, self, pod, undefined);
  if (service.waypoint !== undefined) {
    const waypoint = toWaypoint(seen, self, pod, service.waypoint, 'service-waypoint', service);
    if (waypoint !== undefined) return waypoint;
  }
  if (service.loadBalancing?.mode === LoadBalancing_Mode.PASSTHROUGH) return toWorkload(seen, self, pod, service);
  return toService(seen, service);
}

/** The service at the destination that the pod may see: of its own namespace first, then the canonical one. */
function visibleService(seen: Observed, self: Self, pod: LocalPod): Service | undefined {
  const visible = seen
    .servicesAt(self.network, seen.dstIp)
    .map((key) => seen.service(key))
    .filter((service) => service !== undefined)
    .filter((service) => isVisible(service, pod.namespace));
  return preferredService(visible, pod.namespace);
}

/** Whether a client in `namespace` may see the service at all. */
export function isVisible(service: Service, namespace: string): boolean {
  return service.visibility !== Service_Visibility.NAMESPACE || service.namespace === namespace;
}

/** Of several services that fit: the one of the client's namespace, else the canonical one, else the first. */
export function preferredService(services: readonly Service[], namespace: string): Service | undefined {
  return (
    services.find((service) => service.namespace === namespace) ??
    services.find((service) => service.canonical) ??
    services[0]
  );
}

function toService(seen: Observed, service: Service): Decision {
  const key = serviceKey(service);
  const objects = [`service/${key}`];
  if (!service.ports.some((port) => port.servicePort === seen.dstPort)) {
    return refuse('no-such-port', 503, objects, { service });
  }
  return choose(seen, serviceGroup(key, seen.dstPort, seen.dstIp, ''), 'service-endpoint', objects, { service });
}

/**
 * One of the group, or why there is none. Endpoints that are host names are told with the objects: what DNS said of
 * them has its part in the decision. `name-pending` is no answer for a connection yet: it comes with the look-up.
 */
function choose(
  seen: Observed,
  group: GroupSpec,
  because: Reason,
  objects: readonly string[],
  more: { readonly service?: Service | undefined; readonly destination?: RecordedWorkload },
): Decision {
  const names = seen.namesIn(group).map((host) => ({ host, known: seen.name(host) }));
  if (seen.usable(group)) {
    const told = names.slice(0, MAX_NAMES_TOLD).map(({ host }) => `name/${host}`);
    return { action: 'group', because, objects: [...objects, ...told], group, service: more.service };
  }
  const told = names.slice(0, MAX_NAMES_TOLD).map(({ host, known }) => {
    return known?.problem ? `name/${host} (${known.problem})` : `name/${host}`;
  });
  const why = names.some(({ known }) => known === undefined)
    ? 'name-pending'
    : names.some(({ known }) => known?.ips.length === 0)
      ? 'name-unresolved'
      : 'no-healthy-upstream';
  return refuse(why, 503, [...objects, ...told], more);
}

function toWorkload(seen: Observed, self: Self, pod: LocalPod, service: Service | undefined): Decision {
  const [uid] = seen.workloadsAt(self.network, seen.dstIp);
  const workload = uid === undefined ? undefined : seen.workload(uid);
  if (uid === undefined || workload === undefined) return outside(seen, self, service);
  const objects = [...(service === undefined ? [] : [`service/${serviceKey(service)}`]), `workload/${uid}`];
  if (workload.waypoint !== undefined && service === undefined) {
    const waypoint = toWaypoint(seen, self, pod, workload.waypoint, 'workload-waypoint', undefined);
    if (waypoint !== undefined) return { ...waypoint, objects: [...objects, ...waypoint.objects] };
  }
  const group: GroupSpec = { kind: 'workload', uid, ip: seen.dstIp, port: seen.dstPort, authority: '' };
  const because = service === undefined ? 'workload-address' : 'service-passthrough';
  return choose(seen, group, because, objects, { service, destination: workload });
}

function outside(seen: Observed, self: Self, service: Service | undefined): Decision {
  const objects = service === undefined ? [] : [`service/${serviceKey(service)}`];
  if (service === undefined) {
    const inside = self.meshPrefixes.some((prefix) => prefixContains(prefix, seen.dstIp));
    if (inside) return refuse(seen.synced ? 'unknown-mesh-address' : 'mesh-not-known-yet', 503, objects);
    if (self.meshPrefixes.length === 0 && !seen.synced) return refuse('mesh-not-known-yet', 503, objects);
  }
  const because = service === undefined ? 'outside-mesh' : 'service-passthrough';
  return { action: 'direct', because, objects, ip: seen.dstIp, port: seen.dstPort, service };
}

/** Undefined when the pod is itself that waypoint: what it sends is already through it. */
function toWaypoint(
  seen: Observed,
  self: Self,
  pod: LocalPod,
  waypoint: GatewayAddress,
  because: Reason,
  service: Service | undefined,
): Decision | undefined {
  const port = waypoint.hboneMtlsPort || HBONE_PORT;
  const authority = authorityFor(seen, service);
  const found = resolveGateway(seen, self, waypoint);
  const objects = service === undefined ? [] : [`service/${serviceKey(service)}`];
  if (found === undefined) return refuse('waypoint-unresolved', 503, objects, { service });
  if ('service' in found) {
    if (seen.isEndpoint(found.service, pod.uid)) return undefined;
  } else if (found.uid === pod.uid) return undefined;
  const group: GroupSpec =
    'service' in found
      ? serviceGroup(found.service, port, seen.dstIp, authority)
      : { kind: 'workload', uid: found.uid, ip: found.ip, port, authority };
  objects.push('service' in found ? `waypoint/${found.service}` : `waypoint/${found.uid}`);
  return choose(seen, group, because, objects, { service });
}

function resolveGateway(
  seen: Observed,
  self: Self,
  { destination }: GatewayAddress,
): { service: string } | { uid: string; ip: string } | undefined {
  if (destination.case === 'hostname') {
    const key = `${destination.value.namespace}/${destination.value.hostname}`;
    return seen.service(key) === undefined ? undefined : { service: key };
  }
  if (destination.case !== 'address') return undefined;
  const ip = ipFromBytes(destination.value.address);
  if (ip === undefined) return undefined;
  const network = destination.value.network || self.network;
  const [service] = seen.servicesAt(network, ip);
  if (service !== undefined) return { service };
  const [uid] = seen.workloadsAt(network, ip);
  return uid === undefined ? undefined : { uid, ip };
}

/** A waypoint is told the client's destination; where that is one of a whole block, the name of the service. */
function authorityFor(seen: Observed, service: Service | undefined): string {
  const isBlock = service !== undefined && !vipsOf(service).some(({ prefix }) => prefix.ip === seen.dstIp);
  return formatHostPort(isBlock ? service.hostname : seen.dstIp, seen.dstPort);
}

function serviceGroup(service: string, port: number, ip: string, authority: string): GroupSpec {
  return { kind: 'service', service, port, family: isIpv6(ip) ? 6 : 4, authority };
}

function isLoopback(ip: string): boolean {
  return ip.startsWith('127.') || ip === '::1';
}

/** Of a service's endpoints that are names, so many are named with a decision. */
const MAX_NAMES_TOLD = 8;
