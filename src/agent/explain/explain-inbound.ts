import { formatHostPort } from '../../lib/ip.js';
import type { AuthzResult } from '../authz/authorize.js';
import type { Offer } from '../dataplane/dataplane.js';
import { captureOf, type PodRecord } from '../enroll/pod-record.js';
import type { PodState } from '../enroll/pod-task.js';
import { decisionFor } from '../route/decide.js';
import { Observed } from '../route/observed.js';
import type { ExplainParts } from './explain-outbound.js';

/** The destination side's answer to "is this connection delivered". */
export interface InboundExplanation {
  readonly node: string;
  /** `namespace/name`. */
  readonly pod: string;
  readonly captured: boolean;
  readonly captureBecause: string;
  /** The SPIFFE id that the pod presents; empty when it is not captured. */
  readonly identity: string;
  readonly outcome: 'allowed' | 'denied';
  readonly because: string;
  readonly objects: readonly string[];
  /** Where it is delivered; empty when it is not. */
  readonly target: string;
  /** What policy said, where it was asked. */
  readonly policy?: AuthzResult;
}

/** A connection as it arrives at the pod. */
export interface ArrivingConnection {
  readonly transport: 'hbone' | 'plaintext';
  readonly ip: string;
  readonly port: number;
  readonly srcIp: string;
  /** Verified SPIFFE id; empty for plaintext. */
  readonly identity: string;
  /** CONNECT authority; empty means `ip:port`. */
  readonly authority: string;
}

/** Judges the connection with the functions that decide live traffic. Pure. */
export function explainInbound(
  record: PodRecord,
  state: PodState,
  connection: ArrivingConnection,
  { source, self }: ExplainParts,
): InboundExplanation {
  const { ip, port } = connection;
  const head = { node: self.node, pod: `${record.namespace}/${record.name}` };
  if (state.state !== 'enabled') {
    const captureBecause = state.state === 'pending' ? 'not-enrolled-yet' : captureOf(record).because;
    const refused = connection.transport === 'hbone';
    return {
      ...head,
      captured: false,
      captureBecause,
      identity: '',
      outcome: refused ? 'denied' : 'allowed',
      because: refused ? 'no-tunnel-here' : 'not-captured',
      objects: [],
      target: refused ? '' : formatHostPort(ip, port),
    };
  }
  const world = { snapshot: source, usable: () => false, namesIn: () => [] };
  const decision = decisionFor(new Observed(world, arrivingOffer(state.uid, connection)), self);
  return {
    ...head,
    captured: true,
    captureBecause: captureOf(record).because,
    identity: source.pod(state.uid)?.identity ?? '',
    outcome: decision.action === 'direct' ? 'allowed' : 'denied',
    because: decision.because,
    objects: decision.objects,
    target: decision.action === 'direct' ? formatHostPort(decision.ip, decision.port) : '',
    ...(decision.authz === undefined ? {} : { policy: decision.authz }),
  };
}

function arrivingOffer(pod: string, { transport, ip, port, srcIp, identity, authority }: ArrivingConnection): Offer {
  const tunnelled = transport === 'hbone';
  return {
    id: 0,
    pod,
    direction: tunnelled ? 'inbound' : 'inbound-plaintext',
    dstIp: ip,
    dstPort: tunnelled ? HBONE_PORT : port,
    srcIp,
    peerIdentity: identity,
    authority: tunnelled ? authority || formatHostPort(ip, port) : '',
    rejudge: false,
  };
}

const HBONE_PORT = 15008;
