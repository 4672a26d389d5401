import { fromBinary } from '@bufbuild/protobuf';
import fc from 'fast-check';
import t from 'tap';
import { authorize } from '../../../../src/agent/authz/authorize.js';
import type { AuthzConnection } from '../../../../src/agent/authz/matcher.js';
import {
  Action,
  type Authorization,
  AuthorizationSchema,
  type Match,
} from '../../../../src/gen/istio/security/authorization_pb.js';
import { identity, policies } from '../mesh-arbitrary.js';
import { type PolicyInit, policy } from '../mesh-fixture.js';

const connection: AuthzConnection = {
  identity: 'spiffe://cluster.local/ns/default/sa/a',
  sourceIp: '10.0.0.1',
  destinationIp: '10.0.0.2',
  destinationPort: 80,
};
const ANY = { rules: [{ clauses: [] }] };
const NEVER = { rules: [] };

function named(name: string, init: PolicyInit) {
  const { name: key, bytes } = policy(name, init);
  return { key, policy: fromBinary(AuthorizationSchema, bytes) };
}

t.test('without a policy everything is allowed', async (t) => {
  t.match(authorize([], connection), { allowed: true, because: 'no-policy', policy: '' });
});

t.test('a DENY that matches wins over an ALLOW that matches', async (t) => {
  const allow = named('yes', { action: Action.ALLOW, ...ANY });
  const deny = named('no', { action: Action.DENY, ...ANY });
  t.match(authorize([allow, deny], connection), {
    allowed: false,
    because: 'policy-deny',
    policy: 'default/no',
    rule: 0,
  });
});

t.test('once there is an ALLOW, one must match', async (t) => {
  const never = named('never', { action: Action.ALLOW, ...NEVER });
  t.match(authorize([never], connection), {
    allowed: false,
    because: 'no-allow-policy-matched',
    candidates: ['default/never'],
  });
  const yes = named('yes', { action: Action.ALLOW, ...ANY });
  t.match(authorize([never, yes], connection), {
    allowed: true,
    because: 'policy-allow',
    policy: 'default/yes',
    rule: 0,
  });
});

t.test('a policy in dry run only leaves a note', async (t) => {
  const deny = named('no', { action: Action.DENY, dryRun: true, ...ANY });
  const allow = named('yes', { action: Action.ALLOW, dryRun: true, ...NEVER });
  const { allowed, dryRun } = authorize([deny, allow], connection);
  t.equal(allowed, true);
  t.strictSame(dryRun, ['default/no rule 0 would deny', 'default/yes would deny: no allow rule matched']);
});

t.test('a match that sets nothing holds never, a clause without matches always', async (t) => {
  const empty = named('empty', { action: Action.DENY, rules: [{ clauses: [{ matches: [{}] }] }] });
  t.equal(authorize([empty], connection).allowed, true);
  const open = named('open', { action: Action.DENY, rules: [{ clauses: [{ matches: [] }] }] });
  t.equal(authorize([open], connection).allowed, false);
});

t.test('only what a policy asks for is looked at', async (t) => {
  const looked: string[] = [];
  const watched = new Proxy(connection, {
    get(target, field: keyof AuthzConnection) {
      looked.push(field);
      return target[field];
    },
  });
  const ports = named('ports', {
    action: Action.DENY,
    rules: [{ clauses: [{ matches: [{ destinationPorts: [81] }] }] }],
  });
  authorize([ports], watched);
  t.strictSame(looked, ['destinationPort']);
});

t.test('agrees with an evaluator that is written as the rules are told', async (t) => {
  const connections = fc.record({
    identity,
    sourceIp: fc.constantFrom('10.0.0.1', '10.0.0.7', 'fd00::1'),
    destinationIp: fc.constantFrom('10.0.0.2', '192.0.2.1', 'fd00::2'),
    destinationPort: fc.constantFrom(80, 443),
  });
  let denied = 0;
  fc.assert(
    fc.property(fc.array(policies, { maxLength: 5 }), connections, (list, each) => {
      const decoded = list.map(({ name: key, bytes }) => ({ key, policy: fromBinary(AuthorizationSchema, bytes) }));
      const { allowed } = authorize(decoded, each);
      if (!allowed) denied++;
      return (
        allowed ===
        naive(
          decoded.map(({ policy }) => policy),
          each,
        )
      );
    }),
    { numRuns: 5000 },
  );
  t.ok(denied > 500, `${denied} of 5000 were refused`);
});

function naive(list: readonly Authorization[], connection: AuthzConnection): boolean {
  const live = list.filter((each) => !each.dryRun);
  const matching = live.filter((each) =>
    each.rules.some((rule) =>
      rule.clauses.every(
        (clause) => clause.matches.length === 0 || clause.matches.some((m) => naiveMatch(m, connection)),
      ),
    ),
  );
  if (matching.some((each) => each.action === Action.DENY)) return false;
  if (!live.some((each) => each.action === Action.ALLOW)) return true;
  return matching.some((each) => each.action === Action.ALLOW);
}

function naiveMatch(match: Match, { identity, sourceIp, destinationIp, destinationPort }: AuthzConnection): boolean {
  const principal = identity.replace('spiffe://', '');
  const [, , namespace = '', , account = ''] = principal.split('/');
  const text = (subject: string) => (each: Match['principals'][number]) => {
    const { case: kind, value } = each.matchType;
    if (kind === 'exact') return value === subject;
    if (kind === 'prefix') return subject.startsWith(value);
    if (kind === 'suffix') return subject.endsWith(value);
    return subject.length > 0;
  };
  const block = (ip: string) => (each: Match['sourceIps'][number]) =>
    bits(each.address).slice(0, each.length) === bits(parse(ip)).slice(0, each.length) &&
    each.address.length === parse(ip).length;
  const owns = (each: Match['serviceAccounts'][number]) =>
    identity !== '' && each.namespace === namespace && each.serviceAccount === account;
  const pairs: [boolean, boolean, number][] = [
    pair(match.namespaces, match.notNamespaces, text(namespace)),
    pair(match.principals, match.notPrincipals, text(principal)),
    pair(match.sourceIps, match.notSourceIps, block(sourceIp)),
    pair(match.destinationIps, match.notDestinationIps, block(destinationIp)),
    pair(match.destinationPorts, match.notDestinationPorts, (each: number) => each === destinationPort),
    pair(match.serviceAccounts, match.notServiceAccounts, owns),
  ];
  return pairs.some(([, , size]) => size > 0) && pairs.every(([positive, negative]) => positive && !negative);
}

function pair<T>(
  positive: readonly T[],
  negative: readonly T[],
  test: (each: T) => boolean,
): [boolean, boolean, number] {
  return [positive.length === 0 || positive.some(test), negative.some(test), positive.length + negative.length];
}

function bits(bytes: Uint8Array): string {
  return [...bytes].map((byte) => byte.toString(2).padStart(8, '0')).join('');
}

function parse(ip: string): Uint8Array {
  if (!ip.includes(':')) return Uint8Array.from(ip.split('.').map(Number));
  const [head = '', tail = ''] = ip.split('::');
  const words = (half: string) => (half === '' ? [] : half.split(':').map((word) => Number.parseInt(word, 16)));
  const [first, last] = [words(head), words(tail)];
  const all = [...first, ...Array<number>(8 - first.length - last.length).fill(0), ...last];
  return Uint8Array.from(all.flatMap((word) => [word >> 8, word & 255]));
}
