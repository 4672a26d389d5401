import { create, type MessageInitShape } from '@bufbuild/protobuf';
import {
  Action,
  type AddressSchema,
  type Authorization,
  AuthorizationSchema,
  type MatchSchema,
  type RuleSchema,
  Scope,
  type ServiceAccountMatchSchema,
  type StringMatchSchema,
} from '../../gen/istio/security/authorization_pb.js';
import { ipToBytes, parsePrefix } from '../../lib/ip.js';
import { invalidAuthorization } from '../../model/invalid-policy.js';
import type {
  AuthorizationPolicy,
  Closed,
  PolicyCondition,
  PolicyOperation,
  PolicyRule,
  PolicySource,
} from '../../model/kubernetes/security.js';

type Match = MessageInitShape<typeof MatchSchema> & object;
type Rule = MessageInitShape<typeof RuleSchema> & object;

/** What becomes of a policy at layer 4, and what of it has no effect there. */
export interface PolicyOutcome {
  readonly authorization: Authorization | undefined;
  readonly warnings: readonly string[];
}

/**
 * An AuthorizationPolicy as a node agent enforces it. What only a waypoint can judge is never taken as matching in an
 * ALLOW rule (the whole rule is left out, so less is allowed than written), and is left out of a DENY rule (so more is
 * denied than written), except where nothing else would remain: then the rule has no effect.
 */
export function toAuthorization(policy: AuthorizationPolicy, rootNamespace: string): PolicyOutcome {
  const { metadata, action, closed } = policy;
  if (closed !== undefined) return closedOutcome(policy, closed, rootNamespace);
  if (policy.targetRefs.length > 0) {
    return nothing('has targetRefs: it is for waypoints, which are not there yet, and node agents do not enforce it');
  }
  if (action !== 'ALLOW' && action !== 'DENY')
    return nothing(`action ${action} is not supported by node agents; it has no effect`);
  const warnings: string[] = [];
  const rules = policy.rules.flatMap((rule, i) => toRule(rule, policy, `rules[${i}]`, warnings));
  if (action === 'DENY' && rules.length === 0) {
    warnings.push(
      policy.rules.length === 0
        ? 'denies nothing: it has no rules (an empty rule, {}, denies everything)'
        : 'denies nothing: no rule is left that a node agent can enforce',
    );
  }
  const authorization = create(AuthorizationSchema, {
    name: metadata.name,
    namespace: metadata.namespace,
    scope: scopeOf(policy, rootNamespace),
    action: action === 'ALLOW' ? Action.ALLOW : Action.DENY,
    rules,
    dryRun: isTrue(metadata.annotations['istio.io/dry-run']),
  });
  return { authorization, warnings };
}

/**
 * Denies whatever the policy may select. Only where that would be the whole mesh, because nobody can tell which workloads
 * of it are meant, nothing is denied.
 */
function closedOutcome(policy: AuthorizationPolicy, closed: Closed, rootNamespace: string): PolicyOutcome {
  const { namespace, name } = policy.metadata;
  const problems = closed.problems.join('; ');
  if (closed.isSelectorLost && namespace === rootNamespace) {
    return nothing(`is no good and has no effect, as it could mean any workload of the mesh: ${problems}`);
  }
  return {
    authorization: invalidAuthorization(namespace, name, scopeOf(policy, rootNamespace), problems),
    warnings: [`is no good and never was: every connection to what it selects is denied: ${problems}`],
  };
}

function scopeOf({ selector, metadata }: AuthorizationPolicy, rootNamespace: string): Scope {
  if (selector !== undefined) return Scope.WORKLOAD_SELECTOR;
  return metadata.namespace === rootNamespace ? Scope.GLOBAL : Scope.NAMESPACE;
}

/** No rule, or one of as many clauses as the policy's rule has parts; a rule without parts matches everything. */
function toRule(rule: PolicyRule, policy: AuthorizationPolicy, path: string, warnings: string[]): readonly Rule[] {
  const layer7 = [...layer7Of(rule)].sort().join(', ');
  if (layer7 !== '' && policy.action === 'ALLOW') {
    warnings.push(`${path} needs a waypoint for ${layer7}; the rule is left out, so less is allowed than written`);
    return [];
  }
  const parts = [
    ...(rule.to.length > 0 ? [rule.to.map(operationMatch)] : []),
    ...(rule.from.length > 0
      ? [rule.from.flatMap((source, i) => sourceMatch(source, policy, `${path}.from[${i}]`, warnings))]
      : []),
    ...rule.when.map((condition) => [conditionMatch(condition, policy.metadata.namespace)]),
  ].map((matches) => matches.filter(saysSomething));
  if (parts.some((matches) => matches.length === 0)) {
    warnings.push(
      `${path} has no effect${layer7 === '' ? '' : `: without a waypoint for ${layer7} nothing is left of it`}`,
    );
    return [];
  }
  if (layer7 !== '') {
    warnings.push(`${path} needs a waypoint for ${layer7}; without, more is denied than written`);
  }
  return [{ clauses: parts.map((matches) => ({ matches })) }];
}

function layer7Of(rule: PolicyRule): ReadonlySet<string> {
  return new Set([
    ...rule.from.flatMap((source) => source.layer7),
    ...rule.to.flatMap((operation) => operation.layer7),
    ...rule.when.flatMap((condition) => (condition.key === 'layer7' ? [condition.attribute] : [])),
  ]);
}

/** A match without attributes would never match on the wire; here it means that nothing was left of it. */
function saysSomething(match: Match): boolean {
  return Object.values(match).some((list) => Array.isArray(list) && list.length > 0);
}

/** None: this source can match nobody, or cannot be expressed in an ALLOW policy. */
function sourceMatch(
  source: PolicySource,
  policy: AuthorizationPolicy,
  path: string,
  warnings: string[],
): readonly Match[] {
  for (const principal of [...source.principals, ...source.notPrincipals]) {
    if (principal.startsWith('spiffe://')) {
      warnings.push(`${path}: principal "${principal}" matches nobody: leave out spiffe://`);
    }
  }
  const principals = withTrustDomains(source.principals, source.trustDomains);
  if (principals === undefined && policy.action === 'ALLOW') {
    warnings.push(`${path} is left out: patterns in both principals and trustDomains are not understood together`);
    return [];
  }
  if (principals === undefined) {
    warnings.push(
      `${path}: trustDomains are not understood beside patterns in principals; more is denied than written`,
    );
  }
  if (principals?.length === 0 && source.principals.length > 0) return [];
  const account = (text: string) => serviceAccount(text, policy.metadata.namespace);
  return [
    {
      namespaces: source.namespaces.map(stringMatch),
      notNamespaces: source.notNamespaces.map(stringMatch),
      principals: (principals ?? source.principals).map(stringMatch),
      notPrincipals: [...source.notPrincipals, ...source.notTrustDomains.map(principalsOfTrustDomain)].map(stringMatch),
      sourceIps: source.ipBlocks.map(block),
      notSourceIps: source.notIpBlocks.map(block),
      serviceAccounts: source.serviceAccounts.map(account),
      notServiceAccounts: source.notServiceAccounts.map(account),
    },
  ];
}

function operationMatch({ ports, notPorts }: PolicyOperation): Match {
  return { destinationPorts: [...ports], notDestinationPorts: [...notPorts] };
}

function conditionMatch(condition: PolicyCondition, namespace: string): Match {
  const account = (text: string) => serviceAccount(text, namespace);
  switch (condition.key) {
    case 'source.ip':
      return { sourceIps: condition.blocks.map(block), notSourceIps: condition.notBlocks.map(block) };
    case 'destination.ip':
      return { destinationIps: condition.blocks.map(block), notDestinationIps: condition.notBlocks.map(block) };
    case 'destination.port':
      return { destinationPorts: [...condition.ports], notDestinationPorts: [...condition.notPorts] };
    case 'source.namespace':
      return { namespaces: condition.values.map(stringMatch), notNamespaces: condition.notValues.map(stringMatch) };
    case 'source.principal':
      return { principals: condition.values.map(stringMatch), notPrincipals: condition.notValues.map(stringMatch) };
    case 'source.serviceAccount':
      return { serviceAccounts: condition.values.map(account), notServiceAccounts: condition.notValues.map(account) };
    case 'layer7':
      return {};
  }
}

/** Both must hold: the principals that lie in one of the trust domains. Undefined where that cannot be said. */
function withTrustDomains(
  principals: readonly string[],
  trustDomains: readonly string[],
): readonly string[] | undefined {
  if (trustDomains.length === 0) return principals;
  if (principals.length === 0) return trustDomains.map(principalsOfTrustDomain);
  if ([...trustDomains, ...principals.map((each) => each.split('/')[0] ?? '')].some((each) => each.includes('*'))) {
    return undefined;
  }
  return principals.filter((each) => trustDomains.some((domain) => each.startsWith(`${domain}/`)));
}

/** `td` as `td/*`. */
function principalsOfTrustDomain(domain: string): string {
  return domain.endsWith('*') ? domain : `${domain}/*`;
}

function stringMatch(text: string): MessageInitShape<typeof StringMatchSchema> {
  if (text === '*') return { matchType: { case: 'presence', value: {} } };
  if (text.startsWith('*')) return { matchType: { case: 'suffix', value: text.slice(1) } };
  if (text.endsWith('*')) return { matchType: { case: 'prefix', value: text.slice(0, -1) } };
  return { matchType: { case: 'exact', value: text } };
}

/** `name` in the policy's namespace, or `namespace/name`. */
function serviceAccount(text: string, namespace: string): MessageInitShape<typeof ServiceAccountMatchSchema> {
  const slash = text.indexOf('/');
  if (slash < 0) return { namespace, serviceAccount: text };
  return { namespace: text.slice(0, slash), serviceAccount: text.slice(slash + 1) };
}

function block(text: string): MessageInitShape<typeof AddressSchema> {
  const prefix = parsePrefix(text);
  return prefix === undefined ? {} : { address: ipToBytes(prefix.ip) ?? new Uint8Array(), length: prefix.length };
}

function isTrue(text: string | undefined): boolean {
  return ['1', 't', 'true'].includes(text?.toLowerCase() ?? '');
}

function nothing(warning: string): PolicyOutcome {
  return { authorization: undefined, warnings: [warning] };
}
