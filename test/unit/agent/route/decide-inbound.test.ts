import t from 'tap';
import { OfferField } from '../../../../src/agent/dataplane/dataplane.js';
import { decide } from '../../../../src/agent/route/decide.js';
import { Store } from '../../../../src/agent/store/store.js';
import { Action, Scope } from '../../../../src/gen/istio/security/authorization_pb.js';
import { localPod, offer, policy, SELF, service, store, uidOf, workload, worldOf } from '../mesh-fixture.js';

const WEB = 'default/web.default.svc.cluster.local';
const POD = localPod('web-1', ['10.0.0.2', 'fd00::2']);
const CLIENT_ID = 'spiffe://cluster.local/ns/default/sa/client';
const web = service('web', { vips: ['10.96.0.1'], ports: { 80: 0 } });
const web1 = workload('web-1', { ips: ['10.0.0.2', 'fd00::2'], services: { [WEB]: { 80: 8080 } } });
const client = workload('client', { ips: ['10.0.0.1'] });

function tunnelled(authority: string, init: Parameters<typeof offer>[0] = {}) {
  return offer({
    pod: uidOf('web-1'),
    direction: 'inbound',
    dstIp: '10.0.0.2',
    dstPort: 15008,
    srcIp: '10.0.0.1',
    peerIdentity: CLIENT_ID,
    authority,
    ...init,
  });
}

function plaintext(init: Parameters<typeof offer>[0] = {}) {
  return tunnelled('', { direction: 'inbound-plaintext', dstPort: 8080, peerIdentity: '', ...init });
}

function verdict(asked: ReturnType<typeof offer>, policies: Parameters<typeof store>[1] = []) {
  return decide(asked, worldOf(store([web, web1, client], policies, [POD])), SELF);
}

t.test("an authority that is the pod's own address is delivered", async (t) => {
  const { action, because, targetIp, targetPort, labels, log } = verdict(tunnelled('10.0.0.2:8080'));
  t.match(
    { action, because, targetIp, targetPort },
    { action: 'direct', because: 'no-policy', targetIp: '10.0.0.2', targetPort: 8080 },
  );
  t.match(labels, 'reporter="destination"');
  t.match(labels, 'source_workload="client"');
  t.match(labels, `source_principal="${CLIENT_ID}"`);
  t.match(labels, 'destination_service="web.default.svc.cluster.local"');
  t.match(log, `"dst.identity":"${POD.identity}"`);
  t.match(verdict(tunnelled('[fd00::2]:8080')), { action: 'direct', targetIp: 'fd00::2' });
});

t.test('a service name is delivered to its target port, a named one too', async (t) => {
  t.match(verdict(tunnelled('web.default.svc.cluster.local:80')), {
    action: 'direct',
    targetIp: '10.0.0.2',
    targetPort: 8080,
  });
});

t.test('any other authority is refused with 400', async (t) => {
  for (const [authority, because] of [
    ['10.0.0.3:8080', 'not-own-address'],
    ['10.96.0.1:80', 'not-own-address'],
    ['other.default.svc.cluster.local:80', 'not-own-address'],
    ['web.default.svc.cluster.local:81', 'no-such-port'],
    ['10.0.0.2', 'bad-authority'],
    ['10.0.0.2:0', 'bad-authority'],
    ['10.0.0.2:99999', 'bad-authority'],
    ['', 'bad-authority'],
    ['10.0.0.2:15001', 'illegal-port'],
    ['10.0.0.2:15006', 'illegal-port'],
    ['10.0.0.2:15008', 'illegal-port'],
  ] as const) {
    t.match(verdict(tunnelled(authority)), { action: 'deny', status: 400, because }, authority);
  }
});

t.test('policy decides, and is named with its rule in the record', async (t) => {
  const deny = policy('no-client', {
    action: Action.DENY,
    scope: Scope.NAMESPACE,
    rules: [
      {
        clauses: [
          {
            matches: [{ principals: [{ matchType: { case: 'exact', value: CLIENT_ID.slice('spiffe://'.length) } }] }],
          },
        ],
      },
    ],
  });
  const refused = verdict(tunnelled('10.0.0.2:8080'), [deny]);
  t.match(refused, {
    action: 'deny',
    status: 401,
    because: 'policy-deny',
    objects: ['policy/default/no-client'],
    responseFlags: 'DENY',
  });
  t.match(refused.log, '"policy":"default/no-client rule 0"');
  t.match(verdict(tunnelled('10.0.0.2:8080', { peerIdentity: 'spiffe://cluster.local/ns/x/sa/y' }), [deny]), {
    because: 'no-policy',
  });
});

t.test('plaintext is delivered unless policy wants an identity', async (t) => {
  t.match(verdict(plaintext()), { action: 'direct', because: 'no-policy', targetIp: '10.0.0.2', targetPort: 8080 });
  const strict = policy('istio_converted_static_strict', {
    namespace: 'istio-system',
    action: Action.DENY,
    scope: Scope.WORKLOAD_SELECTOR,
    rules: [{ clauses: [{ matches: [{ notPrincipals: [{ matchType: { case: 'presence', value: {} } }] }] }] }],
  });
  const own = workload('web-1', {
    ips: ['10.0.0.2'],
    authorizationPolicies: ['istio-system/istio_converted_static_strict'],
  });
  const world = worldOf(store([web, own], [strict], [POD]));
  t.match(decide(plaintext(), world, SELF), {
    action: 'deny',
    because: 'policy-deny',
    objects: ['policy/istio-system/istio_converted_static_strict'],
  });
  t.match(decide(tunnelled('10.0.0.2:8080'), world, SELF), { action: 'direct' });
});

t.test('plaintext for another address or for a listener of ours is refused', async (t) => {
  t.match(verdict(plaintext({ dstIp: '10.0.0.3' })), { because: 'not-own-address' });
  t.match(verdict(plaintext({ dstPort: 15006 })), { because: 'illegal-port' });
});

t.test('plaintext gives no principal to the record, whoever owns the address', async (t) => {
  const { labels } = verdict(plaintext());
  t.match(labels, 'source_workload="client"');
  t.match(labels, 'source_principal="unknown"');
});

t.test('until the workload and its policies are known nothing is delivered', async (t) => {
  const unknown = decide(tunnelled('10.0.0.2:8080'), worldOf(store([web], [], [POD])), SELF);
  t.match(unknown, { action: 'deny', status: 503, because: 'unknown-workload' });
  const early = new Store();
  early.applyPod(POD);
  early.applyAddresses({ changed: [web1], removed: [] });
  t.match(decide(tunnelled('10.0.0.2:8080'), worldOf(early), SELF), { because: 'unknown-workload' });
});

t.test('the peer is part of the flow only as far as someone looked', async (t) => {
  const { fields } = verdict(tunnelled('10.0.0.2:8080'));
  t.equal(fields & OfferField.dstPort, 0, "the tunnel's own port matters to nobody");
  t.equal(fields & OfferField.authority, OfferField.authority);
  // The source is part of the metrics, so it is looked at.
  t.equal(fields & OfferField.srcIp, OfferField.srcIp);
});

t.test('a policy that the workload names and that never came refuses; one that was taken back does not', async (t) => {
  const named = workload('web-1', { ips: ['10.0.0.2'], authorizationPolicies: ['default/late'] });
  const late = policy('late', { scope: Scope.WORKLOAD_SELECTOR, action: Action.DENY });
  const world = store([web, named, client], [], [POD]);
  const decided = () => decide(tunnelled('10.0.0.2:8080'), worldOf(world), SELF);
  const waiting = decided();
  t.match(waiting, { action: 'deny', status: 503, because: 'policy-not-known' });
  const isRead = { table: 'policy', key: 'default/late', prefix: false };
  t.ok(waiting.reads.some(({ table, key }) => table === isRead.table && key === isRead.key));
  t.match(world.applyPolicies({ changed: [late], removed: [] }).reads, [isRead]);
  t.match(decided(), { action: 'direct', because: 'no-policy' }, 'a DENY policy without rules denies nothing');
  t.match(world.applyPolicies({ changed: [], removed: [late.name] }).reads, [isRead]);
  t.match(decided(), { action: 'direct', because: 'no-policy' }, 'the workload has not heard of it yet');
  t.same(world.applyPolicies({ changed: [], removed: [late.name] }).reads, []);
});

t.test('a policy that is no good, with no former version, refuses', async (t) => {
  const named = workload('web-1', { ips: ['10.0.0.2'], authorizationPolicies: ['default/bad'] });
  const world = store([web, named, client], [], [POD]);
  const { refused } = world.applyPolicies({
    changed: [{ name: 'default/bad', bytes: Uint8Array.of(0xff) }],
    removed: [],
  });
  t.equal(refused.length, 1);
  const verdict = decide(tunnelled('10.0.0.2:8080'), worldOf(world), SELF);
  t.match(verdict, { status: 401, because: 'policy-invalid', responseFlags: 'DENY' });
  t.match(verdict.objects, [/^policy\/default\/bad \(policy default\/bad: not an istio\.security\.Authorization/]);
  t.match(verdict.log, /"policy":"default\/bad \(policy default\/bad: not an/);
});

t.test(
  'a policy that is no good denies in its scope, or else in its namespace; a good one takes its place',
  async (t) => {
    const unknownMatch = [{ clauses: [{ matches: [{ principals: [{ matchType: { case: undefined } }] }] }] }];
    const because = (world: Store) => decide(tunnelled('10.0.0.2:8080'), worldOf(world), SELF).because;
    const bad = (namespace: string, scope: Scope) =>
      policy('bad', { namespace, scope, action: Action.ALLOW, rules: unknownMatch });
    const scopes: [ReturnType<typeof policy>, string][] = [
      [bad('default', Scope.NAMESPACE), 'policy-invalid'],
      [bad('istio-system', Scope.GLOBAL), 'policy-invalid'],
      [bad('shop', Scope.NAMESPACE), 'no-policy'],
      // Of workloads that name it, and nobody does.
      [bad('default', Scope.WORKLOAD_SELECTOR), 'no-policy'],
      [{ name: 'default/bad', bytes: Uint8Array.of(0xff) }, 'policy-invalid'],
      [{ name: 'istio-system/bad', bytes: Uint8Array.of(0xff) }, 'no-policy'],
      // It says neither who it is, nor for whom: that is no order for the whole mesh.
      [{ name: 'shop/bad', bytes: new Uint8Array() }, 'no-policy'],
      [{ name: 'bad', bytes: Uint8Array.of(0xff) }, 'no-policy'],
    ];
    for (const [resource, want] of scopes) {
      const world = store([web, web1, client], [], [POD]);
      t.equal(world.applyPolicies({ changed: [resource], removed: [] }).refused.length, 1);
      t.equal(because(world), want, resource.name);
      world.applyPolicies({ changed: [policy('bad', { scope: Scope.NAMESPACE, action: Action.DENY })], removed: [] });
      t.equal(because(world), want === 'policy-invalid' && resource.name !== 'default/bad' ? want : 'no-policy');
      world.applyPolicies({ changed: [], removed: [resource.name] });
      t.equal(because(world), 'no-policy');
    }
  },
);

t.test('the last good version of a policy outlives a bad one', async (t) => {
  const world = store([web, web1, client], [policy('p', { scope: Scope.NAMESPACE, action: Action.DENY })], [POD]);
  world.applyPolicies({ changed: [{ name: 'default/p', bytes: Uint8Array.of(0xff) }], removed: [] });
  t.equal(decide(tunnelled('10.0.0.2:8080'), worldOf(world), SELF).because, 'no-policy');
});

t.test('only so many removed policies are remembered; a forgotten one refuses again', async (t) => {
  const named = workload('web-1', { ips: ['10.0.0.2'], authorizationPolicies: ['default/first'] });
  const world = new Store(undefined, 2);
  world.applyAddresses({ changed: [web, named], removed: [] });
  world.applyPod(POD);
  const because = () => decide(tunnelled('10.0.0.2:8080'), worldOf(world), SELF).because;
  world.applyPolicies({ changed: [], removed: ['default/first', 'default/second'] });
  t.equal(because(), 'no-policy');
  const { reads } = world.applyPolicies({ changed: [], removed: ['default/third'] });
  t.same(reads.map(({ key }) => key).sort(), ['default/first', 'default/third']);
  t.equal(because(), 'policy-not-known');
});
