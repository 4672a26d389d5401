import type {
  Address,
  Authorization,
  Clause,
  Match,
  Rule,
  ServiceAccountMatch,
  StringMatch,
} from '../../gen/istio/security/authorization_pb.js';
import { ipFromBytes, makePrefix, prefixContains } from '../../lib/ip.js';
import { parseSpiffeId } from '../../model/spiffe-id.js';

/** The facts of a connection that a policy can name. Looked at only when a policy asks, so accessors may record. */
export interface AuthzConnection {
  /** Verified SPIFFE id of the source, or empty. */
  readonly identity: string;
  readonly sourceIp: string;
  readonly destinationIp: string;
  readonly destinationPort: number;
}

/** Index of the first rule that matches; undefined when none does (a policy without rules never matches). */
export function matchingRule(policy: Authorization, connection: AuthzConnection): number | undefined {
  const index = policy.rules.findIndex((rule) => ruleMatches(rule, connection));
  return index < 0 ? undefined : index;
}

function ruleMatches(rule: Rule, connection: AuthzConnection): boolean {
  return rule.clauses.every((clause) => clauseMatches(clause, connection));
}

function clauseMatches(clause: Clause, connection: AuthzConnection): boolean {
  return clause.matches.length === 0 || clause.matches.some((match) => matchHolds(match, connection));
}

/** All attributes that are set must hold. A match that sets none holds never. */
function matchHolds(match: Match, connection: AuthzConnection): boolean {
  const attributes: [readonly unknown[], readonly unknown[], () => boolean][] = [
    [
      match.destinationPorts,
      match.notDestinationPorts,
      () => holds(match.destinationPorts, match.notDestinationPorts, (port) => port === connection.destinationPort),
    ],
    [
      match.destinationIps,
      match.notDestinationIps,
      () => holds(match.destinationIps, match.notDestinationIps, (block) => inBlock(block, connection.destinationIp)),
    ],
    [
      match.serviceAccounts,
      match.notServiceAccounts,
      () =>
        holds(match.serviceAccounts, match.notServiceAccounts, (account) => isAccount(account, connection.identity)),
    ],
    [
      match.principals,
      match.notPrincipals,
      () => holds(match.principals, match.notPrincipals, (text) => principalMatches(text, connection.identity)),
    ],
    [
      match.namespaces,
      match.notNamespaces,
      () => holds(match.namespaces, match.notNamespaces, (text) => namespaceMatches(text, connection.identity)),
    ],
    [
      match.sourceIps,
      match.notSourceIps,
      () => holds(match.sourceIps, match.notSourceIps, (block) => inBlock(block, connection.sourceIp)),
    ],
  ];
  const set = attributes.filter(([positive, negative]) => positive.length + negative.length > 0);
  return set.length > 0 && set.every(([, , attributeHolds]) => attributeHolds());
}

function holds<T>(positive: readonly T[], negative: readonly T[], test: (value: T) => boolean): boolean {
  return (positive.length === 0 || positive.some(test)) && !negative.some(test);
}

function principalMatches(match: StringMatch, identity: string): boolean {
  // Policies leave the scheme out.
  return identity.startsWith(SCHEME) && stringMatches(match, identity.slice(SCHEME.length));
}

function namespaceMatches(match: StringMatch, identity: string): boolean {
  const id = parseSpiffeId(identity);
  return stringMatches(match, id.ok ? id.value.namespace : '');
}

function isAccount(account: ServiceAccountMatch, identity: string): boolean {
  const id = parseSpiffeId(identity);
  return id.ok && id.value.namespace === account.namespace && id.value.serviceAccount === account.serviceAccount;
}

function stringMatches({ matchType }: StringMatch, text: string): boolean {
  switch (matchType.case) {
    case 'exact':
      return text === matchType.value;
    case 'prefix':
      return text.startsWith(matchType.value);
    case 'suffix':
      return text.endsWith(matchType.value);
    case 'presence':
      return text !== '';
    default:
      return false;
  }
}

function inBlock(block: Address, ip: string): boolean {
  const base = ipFromBytes(block.address);
  if (base === undefined) return false;
  // A v4-mapped block keeps its length counted from the v6 start.
  const length = block.address.length === 16 && !base.includes(':') ? block.length - 96 : block.length;
  const prefix = makePrefix(base, Math.max(0, length));
  return prefix !== undefined && prefixContains(prefix, ip);
}

const SCHEME = 'spiffe://';
