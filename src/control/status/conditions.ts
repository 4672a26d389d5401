import type { Result } from '../../lib/result.js';
import type { ServiceEntry, WorkloadEntry } from '../../model/kubernetes/networking.js';
import type { KubernetesObject, ParseError } from '../../model/kubernetes/object.js';
import type { AuthorizationPolicy, PeerAuthentication } from '../../model/kubernetes/security.js';
import { UNIX } from '../../model/kubernetes/service-entry-checks.js';
import { toAuthorization } from '../mesh/authorization.js';
import { whyIneffective } from '../mesh/peer-authentication.js';
import { type WarningFacts, warningsOf } from '../mesh/warnings.js';
import { CONDITION, type ConditionType, REASON, type Reason } from './reasons.js';

/** What is said of an object in its status, without when. */
export interface Condition {
  readonly type: ConditionType;
  readonly status: 'True' | 'False';
  readonly reason: Reason;
  readonly message: string;
}

/** Kinds whose definitions have conditions, and that the mesh reads. */
export const KINDS_WITH_CONDITIONS = [
  'AuthorizationPolicy',
  'PeerAuthentication',
  'ServiceEntry',
  'WorkloadEntry',
] as const;
export type KindWithConditions = (typeof KINDS_WITH_CONDITIONS)[number];

/**
 * All conditions of ours that an object has, given what is known of the mesh. Pure. Of those types of ours that are not
 * among them nothing is to be said any more. `inForce` is what the mesh has of an object that is no good.
 */
export function conditionsOf(
  kind: KindWithConditions,
  parsed: Result<KubernetesObject, ParseError>,
  facts: WarningFacts,
  inForce?: KubernetesObject,
): readonly Condition[] {
  if (!parsed.ok) return [invalid(kind, parsed.error, facts, inForce)];
  const object = parsed.value;
  switch (object.kind) {
    case 'AuthorizationPolicy':
      return [ofAuthorizationPolicy(object, facts)];
    case 'PeerAuthentication':
      return [ofPeerAuthentication(object, facts)];
    case 'ServiceEntry':
      return ofServiceEntry(object, facts);
    case 'WorkloadEntry':
      return [ofWorkloadEntry(object, facts)];
    default:
      return [];
  }
}

function invalid(
  kind: KindWithConditions,
  { problems }: ParseError,
  facts: WarningFacts,
  inForce: KubernetesObject | undefined,
): Condition {
  const isPolicy = kind === 'AuthorizationPolicy' || kind === 'PeerAuthentication';
  const type = isPolicy ? CONDITION.ztunnelAccepted : CONDITION.accepted;
  if (inForce !== undefined && 'closed' in inForce)
    return condition(type, 'False', REASON.invalid, sentences(warningsOf(inForce, facts)));
  const instead = inForce === undefined ? 'not in force' : 'not in force as it is, but its last good version is';
  return condition(type, 'False', REASON.invalid, sentences([`${instead}: ${problems.join('; ')}`]));
}

function ofAuthorizationPolicy(policy: AuthorizationPolicy, facts: WarningFacts): Condition {
  const { authorization, warnings } = toAuthorization(policy, facts.rootNamespace);
  if (policy.targetRefs.length > 0)
    return condition(CONDITION.waypointAccepted, 'False', REASON.ancestorNotBound, sentences(warnings));
  if (warnings.length === 0) return accepted(CONDITION.ztunnelAccepted, 'enforced by node agents', policy, facts);
  const status = authorization === undefined ? 'False' : 'True';
  return condition(CONDITION.ztunnelAccepted, status, REASON.unsupportedValue, sentences(warnings));
}

function ofPeerAuthentication(policy: PeerAuthentication, facts: WarningFacts): Condition {
  const siblings = facts.generalPeerAuthentications(policy.metadata.namespace);
  const why = whyIneffective(policy, siblings, facts.rootNamespace);
  if (why !== undefined) return condition(CONDITION.ztunnelAccepted, 'False', REASON.noEffect, why);
  return accepted(CONDITION.ztunnelAccepted, 'enforced by node agents', policy, facts);
}

function ofServiceEntry(entry: ServiceEntry, facts: WarningFacts): readonly Condition[] {
  const { namespace, name } = entry.metadata;
  const taken = entry.hosts.filter((host) => {
    const winner = facts.service(`${namespace}/${host}`);
    return winner !== undefined && (winner.from !== 'ServiceEntry' || winner.source !== `${namespace}/${name}`);
  });
  const warnings = warningsOf(entry, facts);
  const status =
    taken.length === entry.hosts.length
      ? condition(CONDITION.accepted, 'False', REASON.noEffect, sentences(warnings))
      : warnings.length > 0
        ? condition(CONDITION.accepted, 'True', REASON.partlyWithoutEffect, sentences(warnings))
        : accepted(CONDITION.accepted, 'its hosts are served', entry, facts);
  const wildcards = entry.hosts.filter((host) => host.startsWith('*'));
  if (wildcards.length === 0) return [status];
  const message = `${wildcards.join(', ')} cannot be resolved without a waypoint, and there are none yet`;
  return [status, condition(CONDITION.waypointMissing, 'True', REASON.noWaypointForWildcardService, message)];
}

function ofWorkloadEntry(entry: WorkloadEntry, facts: WarningFacts): Condition {
  const { address } = entry.spec;
  const warnings = warningsOf(entry, facts);
  if (address === '' || address.startsWith(UNIX))
    return condition(CONDITION.accepted, 'False', REASON.noEffect, sentences(warnings));
  return warnings.length > 0
    ? condition(CONDITION.accepted, 'True', REASON.partlyWithoutEffect, sentences(warnings))
    : accepted(CONDITION.accepted, 'part of the mesh', entry, facts);
}

/** What else there is to say stays a remark. */
function accepted(type: ConditionType, message: string, object: KubernetesObject, facts: WarningFacts): Condition {
  return condition(type, 'True', REASON.accepted, sentences([message, ...warningsOf(object, facts)]));
}

function condition(type: ConditionType, status: 'True' | 'False', reason: Reason, message: string): Condition {
  return { type, status, reason, message };
}

function sentences(all: readonly string[]): string {
  const text = all.join('; ');
  return text.length > MAX_MESSAGE_LENGTH ? `${text.slice(0, MAX_MESSAGE_LENGTH - 1)}…` : text;
}

const MAX_MESSAGE_LENGTH = 1_024;
