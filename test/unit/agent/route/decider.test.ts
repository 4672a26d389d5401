import t from 'tap';
import { FakeDataplane } from '../../../../src/agent/dataplane/fake.js';
import { Decider } from '../../../../src/agent/route/decider.js';
import { ReadFilter } from '../../../../src/agent/route/read-filter.js';
import { Store } from '../../../../src/agent/store/store.js';
import { Action, Scope } from '../../../../src/gen/istio/security/authorization_pb.js';
import { ManualClock } from '../../../../src/lib/manual-clock.js';
import { logger, setLogSink } from '../../../../src/telemetry/log.js';
import { localPod, policy, SELF, service, uidOf, workload } from '../mesh-fixture.js';

const lines: string[] = [];
setLogSink((line) => lines.push(line));

const WEB = 'default/web.default.svc.cluster.local';
const CLIENT = localPod('client', ['10.0.0.1']);
const SERVER = localPod('web-1', ['10.0.0.2']);

async function setUp() {
  const dataplane = new FakeDataplane({ auditOneIn: 0 }, new ManualClock());
  const filter = new ReadFilter();
  const store = new Store((read) => filter.has(read));
  const wanted: string[] = [];
  const decisions: string[] = [];
  let records = '';
  const decider = new Decider({
    dataplane,
    store,
    filter,
    self: SELF,
    log: logger('route'),
    decisions: { inc: (labels) => decisions.push(`${labels?.direction} ${labels?.because}`) },
    wanted: (identities) => wanted.push(...identities),
    accessLog: (bytes) => {
      records += Buffer.from(bytes).toString();
    },
  });
  decider.start();
  for (const pod of [CLIENT, SERVER]) {
    const { uid, name, namespace, identity, addresses } = pod;
    await dataplane.addPod({ uid, name, namespace, identity, netns: '/n', addresses: [...addresses] });
    decider.changed(store.applyPod(pod));
  }
  const web = service('web', { vips: ['10.96.0.1'], ports: { 80: 8080 } });
  const web1 = workload('web-1', { ips: ['10.0.0.2'], services: { [WEB]: { 80: 8080 } } });
  decider.changed(store.applyAddresses({ changed: [web, web1], removed: [] }));
  decider.changed(store.applyPolicies({ changed: [], removed: [] }));
  const certificate = (identity: string) => dataplane.certificates.set(identity, { identity, keyId: 1, chain: [] });
  const outbound = () => dataplane.connect({ pod: CLIENT.uid, dstIp: '10.96.0.1', dstPort: 80, srcIp: '10.0.0.1' });
  const inbound = () =>
    dataplane.connect({
      pod: SERVER.uid,
      direction: 'inbound',
      dstIp: '10.0.0.2',
      dstPort: 15008,
      srcIp: '10.0.0.1',
      peerIdentity: CLIENT.identity,
      authority: '10.0.0.2:8080',
    });
  return { dataplane, store, decider, wanted, decisions, certificate, outbound, inbound, records: () => records };
}

t.test('a connection is decided once, and the next one by the flow table', async (t) => {
  const { dataplane, decisions, certificate, outbound } = await setUp();
  certificate(CLIENT.identity);
  const first = outbound();
  t.equal(await first.decided, 'open');
  t.equal(first.endpoint?.id, uidOf('web-1'));
  t.equal(await outbound().decided, 'open');
  t.strictSame(decisions, ['outbound service-endpoint']);
  t.match(dataplane.stats(), { cacheHits: 1, cacheMisses: 1 });
});

t.test('a connection without a certificate asks for one', async (t) => {
  const { wanted, outbound } = await setUp();
  outbound();
  await settled();
  t.strictSame(wanted, [CLIENT.identity]);
});

t.test('an endpoint that comes edits the group and asks nobody', async (t) => {
  const { dataplane, store, decider, decisions, certificate, outbound } = await setUp();
  certificate(CLIENT.identity);
  await outbound().decided;
  const web2 = workload('web-2', { ips: ['10.0.0.3'], services: { [WEB]: { 80: 8080 } } });
  decider.changed(store.applyAddresses({ changed: [web2], removed: [] }));
  t.equal(dataplane.groups.get(`service ${WEB}:80/v4`)?.endpoints.length, 2);
  await outbound().decided;
  t.equal(decisions.length, 1);
  decider.changed(store.applyAddresses({ changed: [], removed: [uidOf('web-1'), uidOf('web-2')] }));
  const refused = outbound();
  t.equal(await refused.decided, 'refused');
  t.equal(await refused.ended, 'no-healthy-upstream');
});

t.test('a policy that now refuses ends live connections', async (t) => {
  const { store, decider, inbound, records } = await setUp();
  const live = inbound();
  t.equal(await live.decided, 'open');
  const deny = policy('nobody', { action: Action.DENY, scope: Scope.NAMESPACE, rules: [{ clauses: [] }] });
  decider.changed(store.applyPolicies({ changed: [deny], removed: [] }));
  t.equal(await live.ended, 'policy-deny');
  t.equal(await inbound().decided, 'refused');
  decider.changed(store.applyPolicies({ changed: [], removed: [deny.name] }));
  t.equal(await inbound().decided, 'open');
  await settled();
  t.match(records(), 'policy-deny');
});

t.test('a decision that throws refuses that connection, is logged, and nothing else', async (t) => {
  const { store, decider, decisions, inbound } = await setUp();
  const policiesOf = store.policiesOf.bind(store);
  store.policiesOf = () => {
    throw new Error('a bug');
  };
  const broken = inbound();
  t.equal(await broken.decided, 'refused');
  t.equal(await broken.ended, 'internal-error');
  t.ok(lines.some((line) => line.includes('a bug')));
  t.ok(decisions.includes('inbound internal-error'));
  store.policiesOf = policiesOf;
  decider.changed(store.applyPod({ ...CLIENT, labels: { any: 'change' } }));
  t.equal(await inbound().decided, 'open', 'any change gives it another chance');
});

async function settled(): Promise<void> {
  for (let i = 0; i < 20; i++) await Promise.resolve();
}
