import { type Service, WorkloadType } from '../../gen/istio/workload/workload_pb.js';
import type { Offer, Verdict } from '../dataplane/dataplane.js';
import { canonicalNames, identityOf } from '../store/facts.js';
import type { LocalPod } from '../store/snapshot.js';
import { TABLE } from '../store/tables.js';
import {
  baggage,
  destinationLabels,
  destinationLog,
  joinFragments,
  logMembers,
  type RecordedWorkload,
  reporterLabels,
  serviceLabels,
  sourceLabels,
  sourceLog,
} from './access-record.js';
import type { Decision } from './decision.js';
import { groupId } from './group-spec.js';
import { decideInbound, decideInboundPlaintext } from './inbound.js';
import { Observed, type Self, type World } from './observed.js';
import { decideOutbound } from './outbound.js';

/**
 * What should happen to a connection, and why. Pure and total: the same function steers live traffic, explains, and is
 * tested. What it looked at is part of the verdict, noted by the observed world and not by hand.
 */
export function decide(offer: Offer, world: World, self: Self): Verdict {
  const seen = new Observed(world, offer);
  const decision = decisionFor(seen, self);
  return render(decision, seen, self);
}

/** The decision itself, for those who want more than its rendering. */
export function decisionFor(seen: Observed, self: Self): Decision {
  switch (seen.direction) {
    case 'outbound':
      return decideOutbound(seen, self);
    case 'inbound':
      return decideInbound(seen);
    case 'inbound-plaintext':
      return decideInboundPlaintext(seen);
  }
}

/** The answer to an offer that no decision could be made for: refused, under the narrowest flow, until any change. */
export function internalError(offer: Offer, version: number): Verdict {
  return {
    ...NOTHING,
    offerId: offer.id,
    version,
    because: 'internal-error',
    status: 503,
    responseFlags: 'CONNECT',
    fields: ALL_FIELDS,
    reads: [TABLE.failure()],
  };
}

function render(decision: Decision, seen: Observed, self: Self): Verdict {
  const ends = seen.direction === 'outbound' ? outboundEnds(decision, seen, self) : inboundEnds(decision, seen, self);
  const verdict: Verdict = {
    ...NOTHING,
    offerId: seen.offer.id,
    version: seen.version,
    action: decision.action,
    because: decision.because,
    objects: [...decision.objects],
    baggage: ends.baggage,
    forwardedHost: seen.direction === 'outbound' ? (decision.service?.hostname ?? '') : '',
    labels: ends.labels,
    log: joinFragments(ends.log, policyLog(decision)),
    reads: seen.reads,
    fields: seen.fields,
  };
  switch (decision.action) {
    case 'direct':
      return { ...verdict, targetIp: decision.ip, targetPort: decision.port };
    case 'group':
      return { ...verdict, group: groupId(decision.group) };
    case 'deny':
      return { ...verdict, status: decision.status, responseFlags: decision.flags };
  }
}

interface Ends {
  readonly labels: string;
  readonly log: string;
  readonly baggage: string;
}

/** Source side: this pod sends. The endpoint adds the destination's part, where there is one. */
function outboundEnds(decision: Decision, seen: Observed, self: Self): Ends {
  const pod = seen.pod(seen.podUid);
  const source = recordedPod(seen, self, pod);
  const identity = pod?.identity ?? '';
  const endpointFollows = decision.action === 'group';
  return {
    labels: joinFragments(
      reporterLabels('source'),
      sourceLabels(source, identity),
      serviceLabels(decision.service),
      endpointFollows ? '' : destinationLabels(decision.destination, ''),
    ),
    log: joinFragments(
      sourceLog(source, identity),
      logMembers({ 'dst.service': decision.service?.hostname }),
      endpointFollows ? '' : destinationLog(decision.destination, ''),
    ),
    baggage: source === undefined || !endpointFollows ? '' : baggage(source),
  };
}

/** Destination side: this pod receives. The source is who the certificate says, found by its address. */
function inboundEnds(decision: Decision, seen: Observed, self: Self): Ends {
  const pod = seen.pod(seen.podUid);
  const destination = recordedPod(seen, self, pod);
  const identity = seen.direction === 'inbound' ? seen.peerIdentity : '';
  const source = peerWorkload(seen, self, identity);
  const service = decision.service ?? serviceBehind(decision, seen);
  return {
    labels: joinFragments(
      reporterLabels('destination'),
      sourceLabels(source, identity),
      serviceLabels(service),
      destinationLabels(destination, pod?.identity ?? ''),
    ),
    log: joinFragments(
      sourceLog(source, identity),
      logMembers({ 'dst.service': service?.hostname }),
      destinationLog(destination, pod?.identity ?? ''),
    ),
    baggage: '',
  };
}

/** The pod's workload as the mesh knows it, or what the pod itself says until then. */
function recordedPod(seen: Observed, self: Self, pod: LocalPod | undefined): RecordedWorkload | undefined {
  return seen.workload(seen.podUid) ?? (pod === undefined ? undefined : workloadOfPod(pod, self));
}

function workloadOfPod(pod: LocalPod, self: Self): RecordedWorkload {
  return {
    name: pod.name,
    namespace: pod.namespace,
    workloadName: pod.name,
    workloadType: WorkloadType.POD,
    ...canonicalNames(pod.name, pod.labels),
    clusterId: self.cluster,
    locality: undefined,
  };
}

/** The workload at the peer's address, unless it is not the one that was verified. */
function peerWorkload(seen: Observed, self: Self, identity: string): RecordedWorkload | undefined {
  const workloads = seen.workloadsAt(self.network, seen.srcIp).map((uid) => seen.workload(uid));
  return workloads.find((each) => each !== undefined && (identity === '' || identityOf(each) === identity));
}

/** The service that a connection to this port most likely came for: the only one that leads there. */
function serviceBehind(decision: Decision, seen: Observed): Service | undefined {
  if (decision.targetPort === undefined) return undefined;
  const workload = seen.workload(seen.podUid);
  const keys = Object.entries(workload?.services ?? {})
    .filter(([, { ports }]) => ports.some(({ targetPort }) => targetPort === decision.targetPort))
    .map(([key]) => key);
  const [only] = keys;
  return keys.length === 1 && only !== undefined ? seen.service(only) : undefined;
}

function policyLog({ authz }: Decision): string {
  if (authz === undefined) return '';
  const rule = authz.problem !== '' ? ` (${authz.problem})` : authz.rule < 0 ? '' : ` rule ${authz.rule}`;
  return logMembers({
    policy: authz.policy === '' ? '' : `${authz.policy}${rule}`,
    dry_run: authz.dryRun.join('; '),
  });
}

const NOTHING: Verdict = {
  offerId: 0,
  version: 0,
  action: 'deny',
  targetIp: '',
  targetPort: 0,
  group: '',
  status: 0,
  because: '',
  objects: [],
  reads: [],
  fields: 0,
  baggage: '',
  forwardedHost: '',
  labels: '',
  log: '',
  responseFlags: '-',
};

const ALL_FIELDS = 31;
