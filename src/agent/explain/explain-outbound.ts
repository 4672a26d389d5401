import { isIpv6 } from '../../lib/ip.js';
import type { Offer } from '../dataplane/dataplane.js';
import { captureOf, type PodRecord } from '../enroll/pod-record.js';
import type { PodState } from '../enroll/pod-task.js';
import { type Candidate, candidatesOf } from '../route/candidates.js';
import { decisionFor } from '../route/decide.js';
import type { Decision } from '../route/decision.js';
import type { GroupSpec } from '../route/group-spec.js';
import { groupsAnew } from '../route/groups.js';
import { Observed, type Self, type World } from '../route/observed.js';
import { isVisible, preferredService } from '../route/outbound.js';
import { serviceKey } from '../store/facts.js';
import type { EndpointSource, Snapshot } from '../store/snapshot.js';
import { type Resolution, resolveHost } from './resolve.js';

/** The source side's answer to "what happens when this pod connects there". */
export interface OutboundExplanation {
  readonly node: string;
  /** `namespace/name`. */
  readonly pod: string;
  readonly captured: boolean;
  /** Why (not): `namespace-label`, `pod-label`, `host-network` … */
  readonly captureBecause: string;
  /** SPIFFE id; empty when the pod is not captured. */
  readonly identity: string;
  readonly sourceIps: readonly string[];
  readonly resolution: Resolution;
  readonly port: number;
  /** One for each address the name has. */
  readonly routes: readonly RouteExplanation[];
}

export interface RouteExplanation {
  readonly ip: string;
  readonly action: Decision['action'];
  readonly because: string;
  readonly objects: readonly string[];
  /** Where the connection may go, nearest first, and who was left out why. */
  readonly endpoints: readonly EndpointExplanation[];
}

export interface EndpointExplanation {
  readonly uid: string;
  /** The host name that has this address; empty when the endpoint is an address. */
  readonly name: string;
  readonly ip: string;
  readonly port: number;
  readonly transport: 'hbone' | 'plaintext';
  /** What the CONNECT names; empty for plaintext. */
  readonly authority: string;
  /** SPIFFE ids of which the peer must present one. */
  readonly identities: readonly string[];
  readonly rank: number;
  readonly weight: number;
  /** Whether a connection may come here now; `excluded` says why not. */
  readonly eligible: boolean;
  readonly excluded: string;
}

export interface ExplainParts {
  readonly source: Snapshot & EndpointSource;
  readonly self: Self;
}

/** Walks the path from the pod with the functions that decide live traffic. Pure. */
export function explainOutbound(
  record: PodRecord,
  state: PodState,
  host: string,
  port: number,
  { source, self }: ExplainParts,
): OutboundExplanation {
  const captured = state.state === 'enabled';
  const resolution = resolveHost(host, record, source, self.network);
  const addresses = resolution.addresses.slice(0, MAX_ADDRESSES);
  return {
    node: self.node,
    pod: `${record.namespace}/${record.name}`,
    captured,
    captureBecause: state.state === 'pending' ? 'not-enrolled-yet' : captureOf(record).because,
    identity: captured ? (source.pod(state.uid)?.identity ?? '') : '',
    sourceIps: record.ips,
    resolution,
    port,
    routes: addresses.map((ip) => {
      if (isOwn(record, ip)) return ownRoute(state.uid, record, ip, port);
      return captured
        ? capturedRoute(state.uid, record, ip, port, source, self)
        : uncapturedRoute(record, ip, port, source, self);
    }),
  };
}

/** Host names of endpoints that an explanation left out because nobody has looked them up yet. */
export function namesToLookUp({ routes }: OutboundExplanation): string[] {
  const endpoints = routes.flatMap((route) => route.endpoints);
  const missing = endpoints.filter(({ excluded }) => excluded === 'name-not-looked-up');
  return [...new Set(missing.map(({ name }) => name))].slice(0, MAX_ADDRESSES);
}

/** The kernel delivers it inside the pod, over its loopback device, which is not redirected. */
function ownRoute(uid: string, { namespace, name }: PodRecord, ip: string, port: number): RouteExplanation {
  const objects = [`pod/${namespace}/${name}`];
  return { ip, action: 'direct', because: 'own-address', objects, endpoints: [plainEndpoint(uid, ip, port)] };
}

function isOwn({ ips }: PodRecord, ip: string): boolean {
  return ips.includes(ip) || ip.startsWith('127.') || ip === '::1';
}

function capturedRoute(
  uid: string,
  record: PodRecord,
  ip: string,
  port: number,
  source: Snapshot & EndpointSource,
  self: Self,
): RouteExplanation {
  const world: World = { snapshot: source, ...groupsAnew(source, self) };
  const decision = decisionFor(new Observed(world, outboundOffer(uid, record, ip, port)), self);
  const { action, because, objects } = decision;
  if (decision.action === 'group') {
    return { ip, action, because, objects, endpoints: explainCandidates(candidatesOf(decision.group, source, self)) };
  }
  if (decision.action === 'deny') {
    const group = emptyGroup(decision.because, objects, ip, port);
    const endpoints = group === undefined ? [] : explainCandidates(candidatesOf(group, source, self));
    return { ip, action, because, objects, endpoints };
  }
  return { ip, action, because, objects, endpoints: [plainEndpoint('', ip, port)] };
}

/** Nobody steers this pod: the node's own service translation picks among ready endpoints, in plaintext. */
function uncapturedRoute(
  record: PodRecord,
  ip: string,
  port: number,
  source: Snapshot & EndpointSource,
  self: Self,
): RouteExplanation {
  const services = source
    .servicesAt(self.network, ip)
    .map((key) => source.service(key))
    .filter((service) => service !== undefined)
    .filter((service) => isVisible(service, record.namespace));
  const service = preferredService(services, record.namespace);
  if (service === undefined) {
    const [uid = ''] = source.workloadsAt(self.network, ip);
    const objects = uid === '' ? [] : [`workload/${uid}`];
    return { ip, action: 'direct', because: 'not-captured', objects, endpoints: [plainEndpoint(uid, ip, port)] };
  }
  const key = serviceKey(service);
  const objects = [`service/${key}`];
  // Nodes translate the addresses of Services only: those of a ServiceEntry may be anybody's, or nobody's.
  if (!service.hostname.endsWith(`.svc.${self.clusterDomain}`)) {
    return { ip, action: 'direct', because: 'not-an-address-of-the-cluster', objects, endpoints: [] };
  }
  if (!service.ports.some(({ servicePort }) => servicePort === port)) {
    return { ip, action: 'deny', because: 'no-such-port', objects, endpoints: [] };
  }
  const group: GroupSpec = { kind: 'service', service: key, port, family: isIpv6(ip) ? 6 : 4, authority: '' };
  const endpoints = explainCandidates(candidatesOf(group, source, self)).map((endpoint) => ({
    ...endpoint,
    transport: 'plaintext' as const,
    authority: '',
    identities: [],
  }));
  const isEmpty = !endpoints.some(({ eligible }) => eligible);
  return {
    ip,
    action: isEmpty ? 'deny' : 'group',
    because: isEmpty ? 'no-healthy-upstream' : 'not-captured',
    objects,
    endpoints,
  };
}

function explainCandidates(candidates: readonly Candidate[]): EndpointExplanation[] {
  const healthyRanks = candidates.flatMap((each) =>
    'endpoint' in each && each.endpoint.healthy ? [each.endpoint.rank] : [],
  );
  const nearest = Math.min(...healthyRanks);
  return candidates
    .map((candidate): EndpointExplanation => {
      if (!('endpoint' in candidate)) {
        const { uid, name = '', excluded } = candidate;
        return { ...plainEndpoint(uid, '', 0), name, eligible: false, excluded };
      }
      const { name = '', endpoint } = candidate;
      const tunnelled = endpoint.tunnelIp !== '';
      return {
        uid: endpoint.id,
        name,
        ip: endpoint.ip,
        port: endpoint.port,
        transport: tunnelled ? 'hbone' : 'plaintext',
        authority: tunnelled ? endpoint.authority : '',
        identities: endpoint.identities,
        rank: endpoint.rank,
        weight: endpoint.weight,
        eligible: endpoint.healthy && endpoint.rank === nearest,
        excluded: !endpoint.healthy ? 'unhealthy' : endpoint.rank > nearest ? 'nearer-endpoints-available' : '',
      };
    })
    .sort((a, b) => Number(b.eligible) - Number(a.eligible) || a.rank - b.rank || (a.uid < b.uid ? -1 : 1));
}

function plainEndpoint(uid: string, ip: string, port: number): EndpointExplanation {
  return {
    uid,
    name: '',
    ip,
    port,
    transport: 'plaintext',
    authority: '',
    identities: [],
    rank: 0,
    weight: 1,
    eligible: true,
    excluded: '',
  };
}

/** The group whose emptiness was the reason, to show why each candidate was left out. */
function emptyGroup(because: string, objects: readonly string[], ip: string, port: number): GroupSpec | undefined {
  const service = objects.find((name) => name.startsWith('service/'))?.slice('service/'.length);
  if (!NOBODY.has(because) || service === undefined) return undefined;
  return { kind: 'service', service, port, family: isIpv6(ip) ? 6 : 4, authority: '' };
}

function outboundOffer(pod: string, record: PodRecord, dstIp: string, dstPort: number): Offer {
  const srcIp = record.ips.find((ip) => isIpv6(ip) === isIpv6(dstIp)) ?? '';
  return {
    id: 0,
    pod,
    direction: 'outbound',
    dstIp,
    dstPort,
    srcIp,
    peerIdentity: '',
    authority: '',
    rejudge: false,
  };
}

const NOBODY: ReadonlySet<string> = new Set(['no-healthy-upstream', 'name-unresolved', 'name-pending']);
const MAX_ADDRESSES = 16;
