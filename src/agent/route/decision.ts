import type { Service } from '../../gen/istio/workload/workload_pb.js';
import type { AuthzResult } from '../authz/authorize.js';
import type { RecordedWorkload } from './access-record.js';
import type { GroupSpec } from './group-spec.js';

/** Why a connection goes where it goes. Stable codes: they appear in records, explanations and documentation. */
export type Reason =
  // Outbound.
  | 'service-endpoint'
  | 'workload-address'
  | 'service-waypoint'
  | 'workload-waypoint'
  | 'service-passthrough'
  | 'outside-mesh'
  // Inbound.
  | 'no-policy'
  | 'policy-allow'
  // Refused.
  | 'policy-deny'
  | 'policy-invalid'
  | 'no-allow-policy-matched'
  | 'no-healthy-upstream'
  | 'no-such-port'
  | 'name-unresolved'
  | 'name-pending'
  | 'waypoint-unresolved'
  | 'mesh-not-known-yet'
  | 'unknown-mesh-address'
  | 'unknown-pod'
  | 'unknown-workload'
  | 'policy-not-known'
  | 'loop'
  | 'illegal-port'
  | 'bad-authority'
  | 'not-own-address'
  | 'internal-error';

/** What was decided, before it is rendered as a verdict. */
export type Decision = Direct | Choose | Refuse;

interface Decided {
  readonly because: Reason;
  /** Names of the objects that decided: `service/ns/host`, `workload/uid`, `policy/ns/name` … */
  readonly objects: readonly string[];
  /** The service that the client addressed, if any. */
  readonly service?: Service | undefined;
  readonly authz?: AuthzResult | undefined;
  /** The app's port that an inbound connection is for, where that much is known. */
  readonly targetPort?: number | undefined;
  /** The other end, where no endpoint of a group says it. */
  readonly destination?: RecordedWorkload | undefined;
}

export interface Direct extends Decided {
  readonly action: 'direct';
  readonly ip: string;
  readonly port: number;
}

export interface Choose extends Decided {
  readonly action: 'group';
  readonly group: GroupSpec;
}

export interface Refuse extends Decided {
  readonly action: 'deny';
  /** HTTP status of a refused CONNECT. */
  readonly status: 400 | 401 | 503;
  /** The `response_flags` label. */
  readonly flags: 'DENY' | 'CONNECT' | '-';
}

export function refuse(
  because: Reason,
  status: Refuse['status'],
  objects: readonly string[],
  more: Partial<Refuse> = {},
): Refuse {
  return { action: 'deny', because, status, flags: status === 401 ? 'DENY' : 'CONNECT', objects, ...more };
}

/** Ports of the agent's own listeners in a pod: nothing may be sent through the mesh to them. */
export const OWN_PORTS: readonly number[] = [15001, 15006, 15008];
