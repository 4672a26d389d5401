import type { Fields } from './fields.js';
import { type Metadata, readMetadata, type Selector } from './metadata.js';

/** What we read of security.istio.io: AuthorizationPolicy and PeerAuthentication. */

export interface AuthorizationPolicy {
  readonly kind: 'AuthorizationPolicy';
  readonly metadata: Metadata;
  readonly selector: Selector;
  /** It is meant for waypoints or gateways, not for the node agent. */
  readonly hasTargetRefs: boolean;
  readonly action: 'ALLOW' | 'DENY' | 'AUDIT' | 'CUSTOM';
  readonly rules: readonly PolicyRule[];
}

/** Any of `from` and any of `to` and all of `when`; an empty list does not restrict. */
export interface PolicyRule {
  readonly from: readonly PolicySource[];
  readonly to: readonly PolicyOperation[];
  readonly when: readonly PolicyCondition[];
}

export interface PolicySource {
  readonly principals: readonly string[];
  readonly notPrincipals: readonly string[];
  readonly namespaces: readonly string[];
  readonly notNamespaces: readonly string[];
  readonly serviceAccounts: readonly string[];
  readonly notServiceAccounts: readonly string[];
  readonly trustDomains: readonly string[];
  readonly notTrustDomains: readonly string[];
  /** CIDR blocks. */
  readonly ipBlocks: readonly string[];
  readonly notIpBlocks: readonly string[];
  /** Names of attributes that only a waypoint can judge. */
  readonly layer7: readonly string[];
}

export interface PolicyOperation {
  readonly ports: readonly number[];
  readonly notPorts: readonly number[];
  readonly layer7: readonly string[];
}

export type PolicyCondition =
  | {
      readonly key: 'source.ip' | 'destination.ip';
      readonly blocks: readonly string[];
      readonly notBlocks: readonly string[];
    }
  | { readonly key: 'destination.port'; readonly ports: readonly number[]; readonly notPorts: readonly number[] }
  | {
      readonly key: 'source.namespace' | 'source.principal' | 'source.serviceAccount';
      readonly values: readonly string[];
      readonly notValues: readonly string[];
    }
  | { readonly key: 'layer7'; readonly attribute: string };

export interface PeerAuthentication {
  readonly kind: 'PeerAuthentication';
  readonly metadata: Metadata;
  readonly selector: Selector;
  readonly mode: MutualTlsMode;
  readonly portModes: ReadonlyMap<number, MutualTlsMode>;
}

export type MutualTlsMode = 'UNSET' | 'DISABLE' | 'PERMISSIVE' | 'STRICT';

export function readAuthorizationPolicy(object: Fields): AuthorizationPolicy {
  const spec = object.object('spec');
  const policy: AuthorizationPolicy = {
    kind: 'AuthorizationPolicy',
    metadata: readMetadata(object, 'namespaced'),
    selector: spec.optionalObject('selector')?.stringMap('matchLabels'),
    hasTargetRefs: spec.has('targetRef') || spec.objects('targetRefs', () => true).length > 0,
    action: spec.oneOf('action', ['ALLOW', 'DENY', 'AUDIT', 'CUSTOM']),
    rules: spec.objects('rules', readRule),
  };
  if (policy.hasTargetRefs && policy.selector !== undefined)
    spec.problem('selector', 'and targetRefs exclude each other');
  return policy;
}

function readRule(rule: Fields): PolicyRule {
  for (const part of ['from', 'to', 'when']) {
    if (rule.has(part) && Array.isArray(rule.value[part]) && rule.value[part].length === 0) {
      rule.problem(part, 'is empty: leave it out, or say what to match');
    }
  }
  return {
    from: rule.objects('from', (from) => readSource(from.object('source'))),
    to: rule.objects('to', (to) => readOperation(to.object('operation'))),
    when: rule.objects('when', readCondition),
  };
}

function readSource(source: Fields): PolicySource {
  const read: PolicySource = {
    principals: source.strings('principals'),
    notPrincipals: source.strings('notPrincipals'),
    namespaces: source.strings('namespaces'),
    notNamespaces: source.strings('notNamespaces'),
    serviceAccounts: source.strings('serviceAccounts'),
    notServiceAccounts: source.strings('notServiceAccounts'),
    trustDomains: source.strings('trustDomains'),
    notTrustDomains: source.strings('notTrustDomains'),
    ipBlocks: source.prefixes('ipBlocks'),
    notIpBlocks: source.prefixes('notIpBlocks'),
    layer7: present(source, ['requestPrincipals', 'remoteIpBlocks']),
  };
  refuseEmpty(source, 'source', read);
  return read;
}

function readOperation(operation: Fields): PolicyOperation {
  const read: PolicyOperation = {
    ports: readPorts(operation, 'ports'),
    notPorts: readPorts(operation, 'notPorts'),
    layer7: present(operation, ['hosts', 'methods', 'paths']),
  };
  refuseEmpty(operation, 'operation', read);
  return read;
}

function readCondition(condition: Fields): PolicyCondition {
  const key = condition.requiredString('key');
  if (!condition.has('values') && !condition.has('notValues'))
    condition.problem('values', 'and notValues are both missing');
  switch (key) {
    case 'source.ip':
    case 'destination.ip':
      return { key, blocks: condition.prefixes('values'), notBlocks: condition.prefixes('notValues') };
    case 'destination.port':
      return { key, ports: readPorts(condition, 'values'), notPorts: readPorts(condition, 'notValues') };
    case 'source.namespace':
    case 'source.principal':
    case 'source.serviceAccount':
      return { key, values: condition.strings('values'), notValues: condition.strings('notValues') };
    default:
      return { key: 'layer7', attribute: key };
  }
}

export function readPeerAuthentication(object: Fields): PeerAuthentication {
  const spec = object.object('spec');
  const ports = spec.object('portLevelMtls');
  const portModes = new Map<number, MutualTlsMode>();
  for (const key of Object.keys(ports.value)) {
    const port = parsePort(key);
    if (port === undefined) ports.problem(key, 'is no port number');
    else portModes.set(port, readMode(ports.object(key)));
  }
  const selector = spec.optionalObject('selector')?.stringMap('matchLabels');
  if (portModes.size > 0 && (selector === undefined || Object.keys(selector).length === 0)) {
    spec.problem('portLevelMtls', 'needs a selector');
  }
  return {
    kind: 'PeerAuthentication',
    metadata: readMetadata(object, 'namespaced'),
    selector: selector !== undefined && Object.keys(selector).length === 0 ? undefined : selector,
    mode: readMode(spec.object('mtls')),
    portModes,
  };
}

function readMode(mtls: Fields): MutualTlsMode {
  return mtls.oneOf('mode', ['UNSET', 'DISABLE', 'PERMISSIVE', 'STRICT']);
}

/** Ports are written as strings here. */
function readPorts(fields: Fields, name: string): readonly number[] {
  return fields.strings(name).flatMap((text, i) => {
    const port = parsePort(text);
    if (port === undefined)
      fields.problem(`${name}[${i}]`, `is ${JSON.stringify(text)}, which is no port from 0 to 65535`);
    return port === undefined ? [] : [port];
  });
}

function parsePort(text: string): number | undefined {
  const port = /^\d{1,5}$/.test(text) ? Number(text) : Number.NaN;
  return port <= 65_535 ? port : undefined;
}

/** Those of `names`, and their negations, that are there. */
function present(fields: Fields, names: readonly string[]): readonly string[] {
  return names
    .flatMap((name) => [name, `not${name[0]?.toUpperCase()}${name.slice(1)}`])
    .filter((name) => fields.strings(name).length > 0);
}

/** What restricts nothing would match everything, which nobody means. */
function refuseEmpty(fields: Fields, name: string, read: object): void {
  if (Object.values(read).every((list: readonly unknown[]) => list.length === 0)) {
    fields.problems.push(`${fields.path} is empty or not understood: a ${name} must say what to match`);
  }
}
