import t from 'tap';
import { type Candidate, candidatesOf } from '../../../../src/agent/route/candidates.js';
import type { GroupSpec } from '../../../../src/agent/route/group-spec.js';
import {
  LoadBalancing_HealthPolicy,
  LoadBalancing_Mode,
  LoadBalancing_Scope,
  TunnelProtocol,
  WorkloadStatus,
} from '../../../../src/gen/istio/workload/workload_pb.js';
import { SELF, type ServiceInit, service, store, uidOf, type WorkloadInit, workload } from '../mesh-fixture.js';

const WEB = 'default/web.default.svc.cluster.local';
const GROUP: GroupSpec = { kind: 'service', service: WEB, port: 80, family: 4, authority: '' };

function web1(init: WorkloadInit = {}, name = 'web-1') {
  return workload(name, { ips: ['10.0.0.2'], services: { [WEB]: { 80: 8080 } }, ...init });
}

function candidates(workloads: ReturnType<typeof workload>[], init: ServiceInit = {}, spec = GROUP): Candidate[] {
  const web = service('web', { vips: ['10.96.0.1'], ports: { 80: 8080 }, ...init });
  return candidatesOf(spec, store([web, ...workloads]), SELF);
}

t.test('an endpoint is reached through its tunnel, and must be who it is', async (t) => {
  const [only] = candidates([web1()], { subjectAltNames: ['spiffe://cluster.local/ns/x/sa/alias'] });
  t.match(only, {
    uid: uidOf('web-1'),
    endpoint: {
      ip: '10.0.0.2',
      port: 8080,
      tunnelIp: '10.0.0.2',
      tunnelPort: 15008,
      authority: '',
      identities: ['spiffe://cluster.local/ns/default/sa/web-1', 'spiffe://cluster.local/ns/x/sa/alias'],
      weight: 1,
      rank: 0,
      healthy: true,
    },
  });
});

t.test('a workload without a tunnel is reached in plaintext and owes no identity', async (t) => {
  const [only] = candidates([web1({ tunnelProtocol: TunnelProtocol.NONE })]);
  t.match(only, { endpoint: { tunnelIp: '', tunnelPort: 0, identities: [] } });
  t.match(only, { endpoint: { labels: /destination_principal="unknown"/ } });
});

t.test('a named port is what each workload says it is', async (t) => {
  const two = [web1({ services: { [WEB]: { 80: 1111 } } }), web1({ services: { [WEB]: { 80: 2222 } } }, 'web-2')];
  t.match(candidates(two, { ports: { 80: 0 } }), [{ endpoint: { port: 1111 } }, { endpoint: { port: 2222 } }]);
  t.match(candidates([web1({ services: { [WEB]: {} } })]), [{ endpoint: { port: 8080 } }]);
  t.match(candidates([web1({ services: { [WEB]: { 443: 1 } } })]), [{ excluded: 'port-not-served' }]);
});

t.test('the family of the request is preferred, any other is better than none', async (t) => {
  const dual = web1({ ips: ['10.0.0.2', 'fd00::2'] });
  t.match(candidates([dual], {}, { ...GROUP, family: 6 }), [{ endpoint: { ip: 'fd00::2' } }]);
  t.match(candidates([web1()], {}, { ...GROUP, family: 6 }), [{ endpoint: { ip: '10.0.0.2' } }]);
});

t.test('who cannot be reached is left out with the reason', async (t) => {
  t.match(candidates([web1({ network: 'far' })]), [{ excluded: 'other-network' }]);
  t.match(candidates([web1({ ips: [] })]), [{ excluded: 'no-address' }]);
  t.match(candidates([web1({ capacity: 0 })]), [{ excluded: 'weight-zero' }]);
});

t.test(
  'a name is as many endpoints as it has addresses, of the family that was asked for if there are any',
  async (t) => {
    const made = store([
      service('web', { vips: ['10.96.0.1'], ports: { 80: 8080 } }),
      web1({ hostname: 'VM.example.com', ips: [] }),
    ]);
    t.match(candidatesOf(GROUP, made, SELF), [{ name: 'vm.example.com', excluded: 'name-not-looked-up' }]);
    made.applyName('vm.example.com', { ips: ['192.0.2.1', '2001:db8::1', '192.0.2.2'], problem: '', isStale: false });
    const of = (family: 4 | 6) =>
      candidatesOf({ ...GROUP, family }, made, SELF).map((each) => ('endpoint' in each ? each.endpoint.ip : ''));
    t.strictSame(of(4), ['192.0.2.1', '192.0.2.2']);
    t.strictSame(of(6), ['2001:db8::1']);
    t.match(candidatesOf(GROUP, made, SELF)[0], {
      endpoint: { tunnelIp: '192.0.2.1', identities: ['spiffe://cluster.local/ns/default/sa/web-1'] },
    });
    made.applyName('vm.example.com', { ips: ['2001:db8::1'], problem: '', isStale: false });
    t.strictSame(of(4), ['2001:db8::1']);
    made.applyName('vm.example.com', { ips: [], problem: 'NXDOMAIN', isStale: false });
    t.match(candidatesOf(GROUP, made, SELF), [{ excluded: 'name-unresolved (NXDOMAIN)' }]);
  },
);

t.test('a name that leads into the mesh leads through its tunnels', async (t) => {
  const API = 'default/api.example.com';
  const api = service('api', { hostname: 'api.example.com', vips: ['240.240.0.1'], ports: { 443: 80 } });
  const entry = workload('api', { hostname: 'x.example.com', services: { [API]: { 443: 80 } }, tunnelProtocol: 0 });
  const made = store([
    api,
    entry,
    service('web', { vips: ['10.96.0.1', '10.97.0.0/16'], ports: { 80: 8080 } }),
    web1(),
  ]);
  const at = (ip: string) => {
    made.applyName('x.example.com', { ips: [ip], problem: '', isStale: false });
    return candidatesOf({ ...GROUP, service: API, port: 443 }, made, SELF);
  };
  const identities = ['spiffe://cluster.local/ns/default/sa/web-1'];
  const inside = { uid: uidOf('api'), name: 'x.example.com', isInside: true };
  const endpoint = { id: uidOf('web-1'), tunnelIp: '10.0.0.2', identities };
  t.match(at('10.0.0.2'), [{ ...inside, endpoint: { ...endpoint, port: 80 } }], 'a pod by its address');
  t.match(at('10.96.0.1'), [{ ...inside, endpoint: { ...endpoint, port: 8080 } }], 'a service by its address');
  t.match(at('10.97.1.1'), [{ endpoint: { id: uidOf('api'), ip: '10.97.1.1', tunnelIp: '' } }], 'one of a block');
  t.match(at('192.0.2.1'), [{ endpoint: { id: uidOf('api'), ip: '192.0.2.1', tunnelIp: '' } }], 'outside');
  made.applyAddresses({ changed: [], removed: [uidOf('web-1')] });
  t.match(at('10.96.0.1'), [{ ...inside, excluded: 'service-without-endpoints' }]);
  t.match(at('10.0.0.2'), [{ endpoint: { ip: '10.0.0.2', tunnelIp: '' } }]);
});

t.test('health counts unless the service publishes all', async (t) => {
  const sick = web1({ status: WorkloadStatus.UNHEALTHY, capacity: 7 });
  t.match(candidates([sick]), [{ endpoint: { healthy: false, weight: 7 } }]);
  const all = { loadBalancing: { healthPolicy: LoadBalancing_HealthPolicy.ALLOW_ALL } };
  t.match(candidates([sick], all), [{ endpoint: { healthy: true } }]);
});

t.test('failover ranks by how many leading scopes are shared, strict wants all', async (t) => {
  const routingPreference = [LoadBalancing_Scope.REGION, LoadBalancing_Scope.ZONE, LoadBalancing_Scope.NODE];
  const places = [
    web1({ locality: { region: 'r1', zone: 'z1', subzone: '' }, node: 'node-1' }, 'here'),
    web1({ locality: { region: 'r1', zone: 'z1', subzone: '' }, node: 'node-2' }, 'near'),
    web1({ locality: { region: 'r1', zone: 'z2', subzone: '' }, node: 'node-1' }, 'region'),
    web1({ locality: { region: 'r2', zone: 'z1', subzone: '' }, node: 'node-1' }, 'zzz-far'),
  ];
  const failover = candidates(places, { loadBalancing: { mode: LoadBalancing_Mode.FAILOVER, routingPreference } });
  t.match(failover, [
    { endpoint: { rank: 0 } },
    { endpoint: { rank: 1 } },
    { endpoint: { rank: 2 } },
    { endpoint: { rank: 3 } },
  ]);
  const strict = candidates(places, { loadBalancing: { mode: LoadBalancing_Mode.STRICT, routingPreference } });
  t.match(strict[0], { endpoint: { rank: 0 } });
  t.strictSame(
    strict.slice(1).map((each) => 'excluded' in each && each.excluded),
    Array(3).fill('other-locality'),
  );
  const standard = candidates(places, { loadBalancing: { routingPreference } });
  t.ok(standard.every((each) => 'endpoint' in each && each.endpoint.rank === 0));
});

t.test('a waypoint is where its tunnel ends, and is told the destination', async (t) => {
  const key = WEB;
  const spec: GroupSpec = { ...GROUP, service: key, port: 15008, authority: '10.96.0.7:80' };
  const found = candidates([web1({ services: { [WEB]: { 15008: 15008 } } })], { ports: { 15008: 15008 } }, spec);
  t.match(found, [{ endpoint: { tunnelIp: '10.0.0.2', tunnelPort: 15008, authority: '10.96.0.7:80' } }]);
});

t.test('a workload named by its address is taken ready or not', async (t) => {
  const spec: GroupSpec = { kind: 'workload', uid: uidOf('web-1'), ip: '10.0.0.2', port: 99, authority: '' };
  const sick = web1({ status: WorkloadStatus.UNHEALTHY });
  t.match(candidates([sick], {}, spec), [{ endpoint: { ip: '10.0.0.2', port: 99, healthy: true } }]);
  t.match(candidates([web1({ ips: ['10.0.0.3'] })], {}, spec), [{ excluded: 'address-gone' }]);
});
