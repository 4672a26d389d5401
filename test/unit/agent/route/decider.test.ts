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
  const names: string[] = [];
  const overLimit: string[] = [];
  let records = '';
  const decider = new Decider({
    dataplane,
    store,
    filter,
    self: SELF,
    log: logger('route'),
    decisions: { inc: (labels) => decisions.push(`${labels?.direction} ${labels?.because}`) },
    overLimit: { inc: () => overLimit.push('held') },
    wantedName: (host) => names.push(host),
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
  return {
    dataplane,
    store,
    decider,
    wanted,
    names,
    overLimit,
    decisions,
    certificate,
    outbound,
    inbound,
    records: () => records,
  };
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

const API = 'default/api.example.com';
const entry = (host: string) =>
  workload(`entry-${host}`, { hostname: host, services: { [API]: { 443: 443 } }, tunnelProtocol: 0, status: 0 });

async function withNames(...hosts: string[]) {
  const all = await setUp();
  const api = service('api', { hostname: 'api.example.com', vips: ['240.240.0.1'], ports: { 443: 443 } });
  all.decider.changed(all.store.applyAddresses({ changed: [api, ...hosts.map(entry)], removed: [] }));
  const known = (host: string, ips: string[], problem = '') =>
    all.decider.changed(all.store.applyName(host, { ips, problem, isStale: false }));
  const forget = (host: string) => all.decider.changed(all.store.applyName(host, undefined));
  const toApi = (port = 443) =>
    all.dataplane.connect({ pod: CLIENT.uid, dstIp: '240.240.0.1', dstPort: port, srcIp: '10.0.0.1' });
  return { ...all, known, forget, toApi };
}

t.test('a connection to a name waits for its look-up, and others do not wait for it', async (t) => {
  const { decider, decisions, names, known, toApi, certificate, outbound } = await withNames('one.example.com');
  certificate(CLIENT.identity);
  const waiting = toApi();
  await settled();
  t.strictSame(names, ['one.example.com']);
  t.equal(decider.held, 1);
  t.equal(await outbound().decided, 'open', 'another connection of the same pod');
  known('one.example.com', ['192.0.2.1', '192.0.2.2']);
  t.equal(await waiting.decided, 'open');
  t.match(waiting.endpoint, { id: uidOf('entry-one.example.com'), port: 443, tunnelIp: '' });
  t.equal(decider.held, 0);
  t.strictSame(decisions, ['outbound service-endpoint', 'outbound service-endpoint'], 'what waits is no decision yet');
});

t.test('the next connection asks nobody, until the answer is too old', async (t) => {
  const { decisions, names, known, forget, toApi, dataplane } = await withNames('one.example.com');
  toApi();
  await settled();
  known('one.example.com', ['192.0.2.1']);
  t.equal(await toApi().decided, 'open');
  t.equal(decisions.length, 1);
  t.strictSame(names, ['one.example.com', 'one.example.com'], 'told again that it is in use');
  known('one.example.com', ['192.0.2.7']);
  const group = dataplane.groups.get(`service ${API}:443/v4`);
  t.strictSame(
    group?.endpoints.map(({ ip }) => ip),
    ['192.0.2.7'],
  );
  t.equal(await toApi().decided, 'open');
  t.equal(decisions.length, 2, 'asked again after each look-up');
  forget('one.example.com');
  const waiting = toApi();
  await settled();
  t.equal(names.length, 4);
  known('one.example.com', ['192.0.2.8']);
  t.equal(await waiting.decided, 'open');
  t.equal(waiting.endpoint?.ip, '192.0.2.8');
});

t.test('a name that has no address refuses, and says so', async (t) => {
  const { decisions, known, forget, toApi } = await withNames('one.example.com');
  const waiting = toApi();
  await settled();
  known('one.example.com', [], 'NXDOMAIN');
  t.equal(await waiting.decided, 'refused');
  t.equal(await waiting.ended, 'name-unresolved');
  t.equal(await toApi().ended, 'name-unresolved');
  t.equal(decisions.length, 1, 'by the flow table');
  forget('one.example.com');
  const again = toApi();
  await settled();
  known('one.example.com', ['192.0.2.1']);
  t.equal(await again.decided, 'open');
});

t.test('of several names the first that is known will do', async (t) => {
  const { names, known, toApi } = await withNames('one.example.com', 'two.example.com');
  const waiting = toApi();
  await settled();
  t.strictSame(names, ['one.example.com', 'two.example.com']);
  known('one.example.com', [], 'SERVFAIL');
  await settled();
  t.equal(waiting.endpoint, undefined, 'still waits for the other');
  known('two.example.com', ['192.0.2.2']);
  t.equal(await waiting.decided, 'open');
  t.equal(waiting.endpoint?.ip, '192.0.2.2');
});

t.test('where a name leads into the mesh, what comes and goes there is followed', async (t) => {
  const { decider, store, dataplane, known, toApi } = await withNames('one.example.com');
  toApi();
  await settled();
  known('one.example.com', ['10.96.0.1', '10.0.0.9']);
  const ends = () =>
    dataplane.groups.get(`service ${API}:443/v4`)?.endpoints.map(({ id, tunnelIp }) => `${id} ${tunnelIp}`);
  const outside = `${uidOf('entry-one.example.com')} `;
  t.strictSame(ends(), [outside], 'the service has no port 443');
  const web = service('web', { vips: ['10.96.0.1'], ports: { 443: 8080 } });
  const serving = (name: string, ip: string) => workload(name, { ips: [ip], services: { [WEB]: { 443: 8080 } } });
  const change = (...changed: ReturnType<typeof workload>[]) =>
    decider.changed(store.applyAddresses({ changed, removed: [] }));
  change(web, serving('web-1', '10.0.0.2'));
  t.strictSame(ends(), [`${uidOf('web-1')} 10.0.0.2`, outside]);
  change(serving('web-2', '10.0.0.3'));
  t.strictSame(ends(), [`${uidOf('web-1')} 10.0.0.2`, `${uidOf('web-2')} 10.0.0.3`, outside]);
  known('one.example.com', ['10.0.0.9']);
  t.strictSame(ends(), [outside]);
  change(workload('newcomer', { ips: ['10.0.0.9'] }));
  t.strictSame(ends(), [`${uidOf('newcomer')} 10.0.0.9`]);
  decider.changed(store.applyAddresses({ changed: [], removed: [uidOf('newcomer')] }));
  t.strictSame(ends(), [outside]);
});

t.test('64 connections of a pod wait for names at a time, more are refused and counted', async (t) => {
  const { decider, overLimit, store, dataplane } = await withNames();
  const services = Array.from({ length: 70 }, (_, i) => {
    const host = `n${i}.example.com`;
    const key = `default/${host}`;
    return [
      service(`n${i}`, { hostname: host, vips: [`240.240.1.${i}`], ports: { 443: 443 } }),
      workload(`n${i}`, { hostname: host, services: { [key]: { 443: 443 } }, tunnelProtocol: 0 }),
    ];
  }).flat();
  decider.changed(store.applyAddresses({ changed: services, removed: [] }));
  const all = Array.from({ length: 70 }, (_, i) =>
    dataplane.connect({ pod: CLIENT.uid, dstIp: `240.240.1.${i}`, dstPort: 443, srcIp: '10.0.0.1' }),
  );
  await settled();
  t.equal(decider.held, 64);
  t.equal(overLimit.length, 6);
  t.equal(await all.at(-1)?.ended, 'name-pending');
});

async function settled(): Promise<void> {
  for (let i = 0; i < 20; i++) await Promise.resolve();
}
