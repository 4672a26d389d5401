import t from 'tap';
import { type PodRecord, parsePodRecord } from '../../../../src/agent/enroll/pod-record.js';
import type { PodState } from '../../../../src/agent/enroll/pod-task.js';
import { explainInbound } from '../../../../src/agent/explain/explain-inbound.js';
import { explainOutbound, namesToLookUp } from '../../../../src/agent/explain/explain-outbound.js';
import { explain } from '../../../../src/cli/explain.js';
import { Action, Scope } from '../../../../src/gen/istio/security/authorization_pb.js';
import { TunnelProtocol, WorkloadStatus } from '../../../../src/gen/istio/workload/workload_pb.js';
import { localPod, policy, SELF, service, store, uidOf, workload } from '../mesh-fixture.js';

const WEB = 'default/web.default.svc.cluster.local';
const DB = 'default/db.default.svc.cluster.local';
const CLIENT = localPod('client', ['10.0.0.1', 'fd00::1']);
const SERVER = localPod('web-1', ['10.0.0.2']);
const MESH = [
  service('web', { vips: ['10.96.0.1', 'fd00:96::1'], ports: { 80: 8080 } }),
  service('db', { ports: { 5432: 5432 } }),
  workload('client', { ips: ['10.0.0.1', 'fd00::1'] }),
  workload('web-1', { ips: ['10.0.0.2'], services: { [WEB]: { 80: 8080 } } }),
  workload('web-2', { ips: ['10.0.0.3'], services: { [WEB]: { 80: 8080 } }, status: WorkloadStatus.UNHEALTHY }),
  workload('db-0', { ips: ['10.0.0.5'], services: { [DB]: { 5432: 5432 } }, tunnelProtocol: TunnelProtocol.NONE }),
];
const NO_CLIENTS = policy('no-clients', {
  action: Action.DENY,
  scope: Scope.NAMESPACE,
  rules: [
    { clauses: [{ matches: [{ namespaces: [{ matchType: { case: 'exact', value: 'elsewhere' } }] }] }] },
    { clauses: [{ matches: [{ serviceAccounts: [{ namespace: 'default', serviceAccount: 'client' }] }] }] },
  ],
});

function record(name: string, ips: readonly string[]): PodRecord {
  const parsed = parsePodRecord({
    uid: name,
    name,
    namespace: 'default',
    ips,
    netns: '/n',
    phase: 'Running',
    namespaceLabels: { 'istio.io/dataplane-mode': 'ambient' },
    searchDomains: ['default.svc.cluster.local', 'svc.cluster.local', 'cluster.local'],
  });
  if (!parsed.ok) throw new Error(parsed.error);
  return parsed.value;
}

function state(name: string, is: PodState['state'] = 'enabled'): PodState {
  return { uid: uidOf(name), name, namespace: 'default', captured: true, because: '', state: is, error: '' };
}

function from(host: string, port: number, is: PodState['state'] = 'enabled') {
  const parts = { source: store(MESH, [], [CLIENT]), self: SELF };
  return explainOutbound(record('client', ['10.0.0.1', 'fd00::1']), state('client', is), host, port, parts);
}

t.test('an endpoint that is a name is told with what DNS says of it', async (t) => {
  const API = 'default/api.example.com';
  const api = service('api', { hostname: 'api.example.com', vips: ['240.240.0.1'], ports: { 443: 443 } });
  const entry = workload('api', {
    hostname: 'one.example.com',
    services: { [API]: { 443: 443 } },
    tunnelProtocol: TunnelProtocol.NONE,
  });
  const source = store([...MESH, api, entry], [], [CLIENT]);
  const ask = () =>
    explainOutbound(record('client', ['10.0.0.1']), state('client'), 'api.example.com', 443, { source, self: SELF });
  const asked = ask();
  t.match(asked.routes, [{ because: 'name-pending', objects: [`service/${API}`, 'name/one.example.com'] }]);
  t.strictSame(namesToLookUp(asked), ['one.example.com']);
  source.applyName('one.example.com', { ips: [], problem: 'NXDOMAIN', isStale: false });
  t.match(ask().routes, [
    {
      because: 'name-unresolved',
      objects: [`service/${API}`, 'name/one.example.com (NXDOMAIN)'],
      endpoints: [{ name: 'one.example.com', excluded: 'name-unresolved (NXDOMAIN)' }],
    },
  ]);
  source.applyName('one.example.com', { ips: ['192.0.2.1', '192.0.2.2'], problem: '', isStale: false });
  t.strictSame(namesToLookUp(ask()), []);
  t.match(ask().routes, [
    {
      because: 'service-endpoint',
      objects: [`service/${API}`, 'name/one.example.com'],
      endpoints: [
        { name: 'one.example.com', ip: '192.0.2.1', eligible: true },
        { name: 'one.example.com', ip: '192.0.2.2', eligible: true },
      ],
    },
  ]);
  const told = await explain('client.default', 'api.example.com:443', {
    ask: async <T>(path: string) => (path === '/explain' ? (ask() as T) : undefined),
  });
  t.equal(told.outcome, 'allowed');
  t.ok(
    told.steps.some(({ text }) => text === '192.0.2.1:443, as DNS says of one.example.com, is reached in plaintext'),
  );
});

t.test('a short name goes through the search domains to a service, and on to its endpoints', async (t) => {
  const { resolution, routes } = from('web', 80);
  t.match(resolution, {
    because: 'service-name',
    name: 'web.default.svc.cluster.local',
    addresses: ['10.96.0.1', 'fd00:96::1'],
  });
  t.match(routes[0], {
    action: 'group',
    because: 'service-endpoint',
    endpoints: [
      { uid: uidOf('web-1'), ip: '10.0.0.2', port: 8080, transport: 'hbone', eligible: true },
      { uid: uidOf('web-2'), eligible: false, excluded: 'unhealthy' },
    ],
  });
});

t.test('names as DNS would answer them', async (t) => {
  for (const [host, because, addresses] of [
    ['web.default', 'service-name', ['10.96.0.1', 'fd00:96::1']],
    ['WEB.default.svc.cluster.local.', 'service-name', ['10.96.0.1', 'fd00:96::1']],
    ['db', 'headless-service', ['10.0.0.5']],
    ['db-0.db', 'pod-name', ['10.0.0.5']],
    ['10.0.0.9', 'address', ['10.0.0.9']],
    ['example.com', 'not-a-mesh-name', []],
  ] as const) {
    t.match(from(host, 80).resolution, { because, addresses }, host);
  }
});

t.test('a headless endpoint outside the mesh is reached in plaintext', async (t) => {
  t.match(from('db', 5432).routes, [
    { because: 'workload-address', endpoints: [{ uid: uidOf('db-0'), transport: 'plaintext' }] },
  ]);
});

t.test('a pod that is not captured sends plaintext to ready endpoints', async (t) => {
  const { captured, captureBecause, identity, routes } = from('web', 80, 'pending');
  t.match(
    { captured, captureBecause, identity },
    { captured: false, captureBecause: 'not-enrolled-yet', identity: '' },
  );
  t.match(routes[0], {
    because: 'not-captured',
    endpoints: [{ uid: uidOf('web-1'), transport: 'plaintext', identities: [] }, { excluded: 'unhealthy' }],
  });
});

t.test('what a pod says to itself stays inside, captured or not', async (t) => {
  for (const host of ['10.0.0.1', 'fd00::1', '127.0.0.1', '::1']) {
    t.match(from(host, 80).routes, [
      { action: 'direct', because: 'own-address', endpoints: [{ uid: uidOf('client') }] },
    ]);
  }
  const inbound = () => Promise.reject(new Error('nobody else is to be asked'));
  const agents = {
    ask: async <T>(path: string) => (path === '/explain' ? (from('10.0.0.1', 80) as T) : await inbound()),
  };
  t.match(await explain('client', '10.0.0.1:80', agents), { outcome: 'allowed', because: 'own-address' });
});

t.test('an address that a ServiceEntry has is for the network to know, when the pod is not captured', async (t) => {
  const entry = service('entry', { hostname: 'entry.test', vips: ['240.0.0.1'], ports: { 80: 8080 } });
  const parts = { source: store([...MESH, entry], [], [CLIENT]), self: SELF };
  const told = explainOutbound(record('client', ['10.0.0.1']), state('client', 'pending'), '240.0.0.1', 80, parts);
  t.match(told.routes, [{ because: 'not-an-address-of-the-cluster', endpoints: [] }]);
  const explanation = await explain('client', '240.0.0.1:80', { ask: async <T>() => told as T });
  t.match(explanation, { outcome: 'unknown', because: 'not-an-address-of-the-cluster' });
});

t.test('the destination names the policy and the rule', async (t) => {
  const parts = { source: store(MESH, [NO_CLIENTS], [SERVER]), self: SELF };
  const arriving = {
    transport: 'hbone' as const,
    ip: '10.0.0.2',
    port: 8080,
    srcIp: '10.0.0.1',
    identity: CLIENT.identity,
    authority: '',
  };
  t.match(explainInbound(record('web-1', ['10.0.0.2']), state('web-1'), arriving, parts), {
    outcome: 'denied',
    because: 'policy-deny',
    objects: ['policy/default/no-clients'],
    policy: { policy: 'default/no-clients', rule: 1 },
  });
  const plain = { ...arriving, transport: 'plaintext' as const, identity: '' };
  t.match(explainInbound(record('web-1', ['10.0.0.2']), state('web-1'), plain, parts), {
    outcome: 'allowed',
    target: '10.0.0.2:8080',
  });
  t.match(explainInbound(record('web-1', ['10.0.0.2']), state('web-1', 'none'), plain, parts), {
    captured: false,
    outcome: 'allowed',
    because: 'not-captured',
  });
});

t.test('the command joins what both sides say', async (t) => {
  const source = { source: store(MESH, [], [CLIENT]), self: SELF };
  const destination = { source: store(MESH, [NO_CLIENTS], [SERVER]), self: { ...SELF, node: 'node-2' } };
  const agents = {
    async ask<T>(path: string, query: Readonly<Record<string, string>>) {
      if (path === '/explain' && query.pod === 'default/client') {
        return explainOutbound(
          record('client', ['10.0.0.1']),
          state('client'),
          query.host ?? '',
          Number(query.port),
          source,
        ) as T;
      }
      if (path !== '/explain-inbound' || query.pod !== 'default/web-1') return undefined;
      const { ip = '', port, src: srcIp = '', identity = '', authority = '' } = query;
      const transport = identity === '' ? ('plaintext' as const) : ('hbone' as const);
      const arriving = { transport, ip, port: Number(port), srcIp, identity, authority };
      return explainInbound(record('web-1', ['10.0.0.2']), state('web-1'), arriving, destination) as T;
    },
  };
  t.match(await explain('client', 'web:80', agents), {
    from: 'default/client',
    outcome: 'denied',
    transport: 'hbone',
    because: 'policy-deny',
    objects: ['policy/default/no-clients', 'rule/1'],
    endpoints: [{ uid: uidOf('web-1'), outcome: 'denied' }],
  });
  t.match(await explain('client', 'web:81', agents), { outcome: 'denied', transport: 'none', because: 'no-such-port' });
  t.match(await explain('client', 'db:5432', agents), { outcome: 'allowed', transport: 'plaintext' });
  t.match(await explain('client', 'example.com:80', agents), { outcome: 'unknown', because: 'not-a-mesh-name' });
  await t.rejects(explain('ghost', 'web:80', agents), /no agent knows a pod default\/ghost/);
  await t.rejects(explain('client', 'web', agents), /not HOST:PORT/);
});
