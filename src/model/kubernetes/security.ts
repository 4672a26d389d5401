import type { Fields } from './fields.js';
import { type Metadata, readGeneration, readMetadata, type Selector } from './metadata.js';
import {
  attributeProblem,
  parsePort,
  paths,
  patterns,
  portTexts,
  serviceAccounts,
  texts,
  trustDomains,
} from './policy-values.js';
import { readSelector, readTargetRefs, type TargetRef } from './selector.js';

/** What we read of security.istio.io: AuthorizationPolicy and PeerAuthentication. */

export interface AuthorizationPolicy {
  readonly kind: 'AuthorizationPolicy';
  readonly metadata: Metadata;
  readonly generation: number;
  readonly selector: Selector;
  /** With any, it is meant for waypoints or gateways, not for the node agent. */
  readonly targetRefs: readonly TargetRef[];
  readonly action: 'ALLOW' | 'DENY' | 'AUDIT' | 'CUSTOM';
  readonly rules: readonly PolicyRule[];
  readonly closed?: Closed;
}

/** Set when this stands for an object that cannot be read: see closed-policy.ts. */
export interface Closed {
  /** What is wrong with the object. */
  readonly problems: readonly string[];
  /** It has a selector of which nothing can be read, and selects all of its namespace. */
  readonly isSelectorLost: boolean;
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
  readonly generation: number;
  readonly selector: Selector;
  readonly mode: MutualTlsMode;
  readonly portModes: ReadonlyMap<number, MutualTlsMode>;
  readonly closed?: Closed;
}

export type MutualTlsMode = 'UNSET' | 'DISABLE' | 'PERMISSIVE' | 'STRICT';

export function readAuthorizationPolicy(object: Fields): AuthorizationPolicy {
  const spec = object.object('spec');
  const metadata = readMetadata(object, 'namespaced');
  const action = spec.oneOf('action', ['ALLOW', 'DENY', 'AUDIT', 'CUSTOM']);
  checkProvider(spec, action);
  checkDryRun(object, metadata, action);
  return {
    kind: 'AuthorizationPolicy',
    metadata,
    generation: readGeneration(object),
    selector: readSelector(spec, 'selector', 'matchLabels'),
    targetRefs: readTargetRefs(spec),
    action,
    rules: spec.objects('rules', (rule) => readRule(rule, action)),
  };
}

function checkProvider(spec: Fields, action: AuthorizationPolicy['action']): void {
  if (action !== 'CUSTOM') {
    if (spec.has('provider')) spec.problem('provider', `goes with action CUSTOM only, not with ${action}`);
    return;
  }
  if (!spec.has('rules'))
    spec.problem('rules', 'is missing: action CUSTOM would never be asked for; {} matches everything');
  else spec.object('provider').requiredString('name');
}

function checkDryRun(object: Fields, { annotations }: Metadata, action: AuthorizationPolicy['action']): void {
  const value = annotations[DRY_RUN];
  if (value === undefined) return;
  const at = object.object('metadata').object('annotations');
  if (!BOOLEANS.has(value)) at.problem(DRY_RUN, `is ${JSON.stringify(value)} where "true" or "false" is expected`);
  else if (action !== 'ALLOW' && action !== 'DENY')
    at.problem(DRY_RUN, `goes with ALLOW and DENY only, not with ${action}`);
}

function readRule(rule: Fields, action: AuthorizationPolicy['action']): PolicyRule {
  for (const part of ['from', 'to', 'when']) {
    if (rule.has(part) && Array.isArray(rule.value[part]) && rule.value[part].length === 0) {
      rule.problem(part, 'is empty: leave it out, or say what to match');
    }
  }
  return {
    from: rule.objects('from', (from) => readSource(from.object('source'), action)),
    to: rule.objects('to', (to) => readOperation(to.object('operation'))),
    when: rule.objects('when', (condition) => readCondition(condition, action)),
  };
}

function readSource(source: Fields, action: AuthorizationPolicy['action']): PolicySource {
  const read: PolicySource = {
    principals: texts(source, 'principals'),
    notPrincipals: texts(source, 'notPrincipals'),
    namespaces: texts(source, 'namespaces'),
    notNamespaces: texts(source, 'notNamespaces'),
    serviceAccounts: serviceAccounts(source, 'serviceAccounts'),
    notServiceAccounts: serviceAccounts(source, 'notServiceAccounts'),
    trustDomains: trustDomains(source, 'trustDomains'),
    notTrustDomains: trustDomains(source, 'notTrustDomains'),
    ipBlocks: source.prefixes('ipBlocks'),
    notIpBlocks: source.prefixes('notIpBlocks'),
    layer7: present(source, [
      ['requestPrincipals', texts],
      ['remoteIpBlocks', (fields, name) => fields.prefixes(name)],
    ]),
  };
  refuseEmpty(source, 'a source', SOURCE_FIELDS);
  const named = ['principals', 'notPrincipals', 'namespaces', 'notNamespaces'].filter((name) => source.count(name) > 0);
  const accounts = ['serviceAccounts', 'notServiceAccounts'].filter((name) => source.count(name) > 0);
  if (named.length > 0 && accounts.length > 0)
    source.problem(
      accounts[0] ?? '',
      `and ${named[0]} exclude each other: a service account names its namespace already`,
    );
  if (action === 'CUSTOM')
    refuseWithCustom(
      source,
      Object.keys(source.value).filter((name) => !CUSTOM_SOURCES.has(name)),
    );
  return read;
}

function readOperation(operation: Fields): PolicyOperation {
  const read: PolicyOperation = {
    ports: portTexts(operation, 'ports'),
    notPorts: portTexts(operation, 'notPorts'),
    layer7: present(operation, [
      ['hosts', texts],
      ['methods', texts],
      ['paths', paths],
    ]),
  };
  refuseEmpty(operation, 'an operation', OPERATION_FIELDS);
  return read;
}

function readCondition(condition: Fields, action: AuthorizationPolicy['action']): PolicyCondition {
  const key = condition.requiredString('key');
  const why = key === '' ? undefined : attributeProblem(key);
  if (why !== undefined) condition.problem('key', `is ${JSON.stringify(key.slice(0, 100))}, which ${why}`);
  if (condition.count('values') + condition.count('notValues') === 0)
    condition.problem('values', 'and notValues are both missing');
  if (action === 'CUSTOM' && (CUSTOM_REFUSES.has(key) || key.startsWith('request.auth.')))
    condition.problem('key', `is ${JSON.stringify(key)}, which action CUSTOM cannot use`);
  const both = <T>(read: (fields: Fields, name: string) => readonly T[]) =>
    [read(condition, 'values'), read(condition, 'notValues')] as const;
  switch (key) {
    case 'source.ip':
    case 'destination.ip': {
      const [blocks, notBlocks] = both((fields, name) => fields.prefixes(name));
      return { key, blocks, notBlocks };
    }
    case 'destination.port': {
      const [ports, notPorts] = both(portTexts);
      return { key, ports, notPorts };
    }
    case 'source.namespace':
    case 'source.principal':
    case 'source.serviceAccount': {
      const [values, notValues] = both(key === 'source.serviceAccount' ? serviceAccounts : texts);
      return { key, values, notValues };
    }
    default: {
      if (key === 'remote.ip') both((fields, name) => fields.prefixes(name));
      else both(key === 'source.trustDomain' ? patterns : texts);
      return { key: 'layer7', attribute: key };
    }
  }
}

function refuseWithCustom(source: Fields, names: readonly string[]): void {
  for (const name of names) if (source.count(name) > 0) source.problem(name, 'cannot be used with action CUSTOM');
}

export function readPeerAuthentication(object: Fields): PeerAuthentication {
  const spec = object.object('spec');
  const ports = spec.optionalObject('portLevelMtls');
  const portModes = new Map<number, MutualTlsMode>();
  for (const key of Object.keys(ports?.value ?? {})) {
    const port = parsePort(key);
    if (port === undefined || port === 0) ports?.problem(key, 'is no port from 1 to 65535');
    else if (ports !== undefined) portModes.set(port, readMode(ports.object(key)));
  }
  if (ports !== undefined && Object.keys(ports.value).length === 0)
    spec.problem('portLevelMtls', 'is empty: leave it out, or name a port');
  const selector = readSelector(spec, 'selector', 'matchLabels');
  const selectsAll = selector === undefined || Object.keys(selector).length === 0;
  if (portModes.size > 0 && selectsAll) {
    spec.problem('portLevelMtls', 'needs a selector with labels: ports are of workloads, not of namespaces');
  }
  const metadata = readMetadata(object, 'namespaced');
  refuseDryRun(object, metadata);
  return {
    kind: 'PeerAuthentication',
    metadata,
    generation: readGeneration(object),
    selector: selectsAll ? undefined : selector,
    mode: readMode(spec.object('mtls')),
    portModes,
  };
}

/** Only an AuthorizationPolicy can be tried out; elsewhere the annotation would be believed and do nothing. */
export function refuseDryRun(object: Fields, { annotations }: Metadata): void {
  if (annotations[DRY_RUN] === undefined) return;
  object.object('metadata').object('annotations').problem(DRY_RUN, 'goes with AuthorizationPolicy only: leave it out');
}

function readMode(mtls: Fields): MutualTlsMode {
  return mtls.oneOf('mode', ['UNSET', 'DISABLE', 'PERMISSIVE', 'STRICT']);
}

/** Those of the names, and their negations, that say something. */
function present(
  fields: Fields,
  lists: readonly (readonly [name: string, read: (fields: Fields, name: string) => readonly unknown[]])[],
): readonly string[] {
  return lists.flatMap(([name, read]) =>
    withNegations([name]).filter((each) => {
      read(fields, each);
      return fields.count(each) > 0;
    }),
  );
}

/** Each with the field that says the opposite. */
function withNegations(names: readonly string[]): readonly string[] {
  return names.flatMap((name) => [name, `not${name[0]?.toUpperCase()}${name.slice(1)}`]);
}

/** What restricts nothing would match everything, which nobody means. `known` are the fields that would. */
function refuseEmpty(fields: Fields, what: string, known: readonly string[]): void {
  if (known.some((name) => fields.count(name) > 0)) return;
  const others = Object.keys(fields.value).filter((name) => !known.includes(name));
  const why = others.length === 0 ? 'is empty' : `has only ${others.slice(0, 5).join(', ')}, which is nothing it knows`;
  fields.say(`${fields.path} ${why}: ${what} must say what to match, by ${known.join(', ')}`);
}

export const DRY_RUN = 'istio.io/dry-run';
const SOURCE_FIELDS = withNegations([
  'principals',
  'namespaces',
  'serviceAccounts',
  'trustDomains',
  'ipBlocks',
  'requestPrincipals',
  'remoteIpBlocks',
]);
const OPERATION_FIELDS = withNegations(['ports', 'hosts', 'methods', 'paths']);
/** As Go reads a boolean. */
const BOOLEANS: ReadonlySet<string> = new Set('1 t T TRUE true True 0 f F FALSE false False'.split(' '));
/** What of a source an external authorizer can be asked about. */
const CUSTOM_SOURCES: ReadonlySet<string> = new Set(['ipBlocks', 'notIpBlocks', 'remoteIpBlocks', 'notRemoteIpBlocks']);
const CUSTOM_REFUSES: ReadonlySet<string> = new Set([
  'source.namespace',
  'source.serviceAccount',
  'source.trustDomain',
  'source.principal',
]);
