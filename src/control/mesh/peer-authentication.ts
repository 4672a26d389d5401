import { create, type MessageInitShape } from '@bufbuild/protobuf';
import {
  Action,
  type Authorization,
  AuthorizationSchema,
  type MatchSchema,
  Scope,
} from '../../gen/istio/security/authorization_pb.js';
import { byAge, keyOf } from '../../model/kubernetes/metadata.js';
import type { MutualTlsMode, PeerAuthentication } from '../../model/kubernetes/security.js';

/**
 * PeerAuthentication as node agents enforce it: STRICT is a DENY for whoever has no identity. The underscores make
 * names that no Kubernetes object can have.
 */
const STATIC_STRICT = 'istio_converted_static_strict';
const CONVERTED_PREFIX = 'converted_peer_authentication_';

/** The policy that a workload under STRICT refers to. It is always there, so that no workload ever refers to nothing. */
export function staticStrictPolicy(rootNamespace: string): Authorization {
  return create(AuthorizationSchema, {
    name: STATIC_STRICT,
    namespace: rootNamespace,
    scope: Scope.WORKLOAD_SELECTOR,
    action: Action.DENY,
    rules: [{ clauses: [{ matches: [{ notPrincipals: ANYBODY }] }] }],
  });
}

/** What a namespace inherits: its own policy without selector, or else the mesh's. Of several the oldest counts. */
export function inheritedMode(
  ofNamespace: readonly PeerAuthentication[],
  ofMesh: readonly PeerAuthentication[],
): MutualTlsMode {
  const own = oldest(ofNamespace)?.mode ?? 'UNSET';
  return own === 'UNSET' ? (oldest(ofMesh)?.mode ?? 'UNSET') : own;
}

/** The names of the policies that hold for a workload which `selecting` select, in a namespace that inherits `inherited`. */
export function strictPolicyNames(
  selecting: readonly PeerAuthentication[],
  inherited: MutualTlsMode,
  rootNamespace: string,
): readonly string[] {
  const policy = oldest(selecting);
  if (policy !== undefined && portPolicy(policy, inherited) !== undefined) {
    return [`${policy.metadata.namespace}/${CONVERTED_PREFIX}${policy.metadata.name}`];
  }
  return effectiveMode(policy, inherited) === 'STRICT' ? [`${rootNamespace}/${STATIC_STRICT}`] : [];
}

/**
 * What a policy with port exceptions becomes: under STRICT one DENY for all ports but the exceptions, otherwise one for
 * the strict ports only. Undefined where the exceptions change nothing.
 */
export function portPolicy(policy: PeerAuthentication, inherited: MutualTlsMode): Authorization | undefined {
  if (policy.selector === undefined) return undefined;
  const strict = effectiveMode(policy, inherited) === 'STRICT';
  const exceptions = [...policy.portModes]
    .filter(([, mode]) => mode !== 'UNSET' && (mode === 'STRICT') !== strict)
    .map(([port]) => port)
    .sort((a, b) => a - b);
  if (exceptions.length === 0) return undefined;
  const match: MessageInitShape<typeof MatchSchema> = strict
    ? { notPrincipals: ANYBODY, notDestinationPorts: exceptions }
    : { notPrincipals: ANYBODY, destinationPorts: exceptions };
  return create(AuthorizationSchema, {
    name: `${CONVERTED_PREFIX}${policy.metadata.name}`,
    namespace: policy.metadata.namespace,
    scope: Scope.WORKLOAD_SELECTOR,
    action: Action.DENY,
    rules: [{ clauses: [{ matches: [match] }] }],
  });
}

/** What of a policy has no effect. */
export function peerAuthenticationWarnings(
  policy: PeerAuthentication,
  siblings: readonly PeerAuthentication[],
  rootNamespace: string,
): readonly string[] {
  const why = whyIneffective(policy, siblings, rootNamespace);
  const disabled = policy.mode === 'DISABLE' || [...policy.portModes.values()].includes('DISABLE');
  const { closed } = policy;
  const closing =
    closed === undefined ? [] : [`is no good and never was: ${closedMode(policy)}: ${closed.problems.join('; ')}`];
  return [
    ...closing,
    ...(why === undefined ? [] : [why]),
    ...(disabled ? ['mode DISABLE means PERMISSIVE here: callers inside the mesh still use mutual TLS'] : []),
  ];
}

function closedMode({ mode, portModes }: PeerAuthentication): string {
  const ports = portModes.size === 0 ? '' : ', and its ports as they are written';
  return mode === 'STRICT' && portModes.size === 0
    ? 'what it selects takes mutual TLS only'
    : `it counts as mode ${mode}${ports}`;
}

/** Why nothing of a policy has an effect; undefined when something has. `siblings` have no selector either. */
export function whyIneffective(
  policy: PeerAuthentication,
  siblings: readonly PeerAuthentication[],
  rootNamespace: string,
): string | undefined {
  const { metadata, selector } = policy;
  if (selector !== undefined) {
    return metadata.namespace === rootNamespace
      ? `has a selector in the root namespace ${rootNamespace}: it selects nobody`
      : undefined;
  }
  const first = oldest(siblings);
  return first !== undefined && keyOf(first.metadata) !== keyOf(metadata)
    ? `has no effect: ${first.metadata.name} is older and covers the same`
    : undefined;
}

function effectiveMode(policy: PeerAuthentication | undefined, inherited: MutualTlsMode): MutualTlsMode {
  return policy === undefined || policy.mode === 'UNSET' ? inherited : policy.mode;
}

function oldest(policies: readonly PeerAuthentication[]): PeerAuthentication | undefined {
  return [...policies].sort((a, b) => byAge(a.metadata, b.metadata))[0];
}

const ANYBODY = [{ matchType: { case: 'presence' as const, value: {} } }];
