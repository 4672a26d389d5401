import t from 'tap';
import { dnsChanges, dnsServices } from '../../../src/agent/dns-feed.js';
import { LoadBalancing_HealthPolicy, WorkloadStatus } from '../../../src/gen/istio/workload/workload_pb.js';
import { service, store, workload } from './mesh-fixture.js';

const KEY = 'default/db.default.svc.cluster.local';

t.test('a service answers with its addresses, blocks of them left out', async (t) => {
  const [fed] = dnsServices(
    store([service('web', { vips: ['10.96.0.1', 'fd96::1', '10.97.0.0/16', '10.96.0.2/32'] })]),
  );
  t.same(
    fed?.addresses.map(({ ip }) => ip),
    ['10.96.0.1', 'fd96::1', '10.96.0.2'],
  );
  t.same(fed?.endpoints, []);
});

t.test('a headless service answers with the endpoints that are ready, or all when it says so', async (t) => {
  const pods = [
    workload('db-0', { ips: ['10.0.0.1'], services: { [KEY]: { 80: 80 } } }),
    workload('db-1', { ips: ['10.0.0.2'], services: { [KEY]: { 80: 80 } }, status: WorkloadStatus.UNHEALTHY }),
  ];
  const namesOf = (made: ReturnType<typeof store>) =>
    [...dnsServices(made)].flatMap(({ endpoints }) => endpoints.map(({ name }) => name));
  t.same(namesOf(store([service('db'), ...pods])), ['db-0']);
  const loadBalancing = { healthPolicy: LoadBalancing_HealthPolicy.ALLOW_ALL };
  t.same(namesOf(store([service('db', { loadBalancing }), ...pods])).sort(), ['db-0', 'db-1']);
});

t.test('an endpoint that comes or goes is told as a change of its headless service only', async (t) => {
  const made = store([service('db'), service('web', { vips: ['10.96.0.1'] })]);
  const both = { [KEY]: { 80: 80 }, 'default/web.default.svc.cluster.local': { 80: 80 } };
  const change = made.applyAddresses({
    changed: [workload('db-0', { ips: ['10.0.0.1'], services: both })],
    removed: [],
  });
  const endpoints = [{ name: 'db-0', addresses: [{ network: '', ip: '10.0.0.1' }] }];
  t.match(dnsChanges(change, made), [
    { kind: 'put', service: { hostname: 'db.default.svc.cluster.local', endpoints } },
  ]);
  t.equal(dnsChanges(change, made).length, 1);
});

t.test('a service that is gone is removed by its namespace and host name', async (t) => {
  const made = store([service('db')]);
  const change = made.applyAddresses({ changed: [], removed: [KEY] });
  t.same(dnsChanges(change, made), [
    { kind: 'remove', namespace: 'default', hostname: 'db.default.svc.cluster.local' },
  ]);
});
