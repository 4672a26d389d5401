import t from 'tap';
import { decide } from '../../../../src/agent/route/decide.js';
import { Store } from '../../../../src/agent/store/store.js';
import {
  LoadBalancing_Mode,
  Service_Visibility,
  TunnelProtocol,
  WorkloadStatus,
} from '../../../../src/gen/istio/workload/workload_pb.js';
import { bytesOf, localPod, offer, SELF, service, store, workload, worldOf } from '../mesh-fixture.js';

const CLIENT = localPod('client', ['10.0.0.1', 'fd00::1']);
const WEB = 'default/web.default.svc.cluster.local';
const client = workload('client', { ips: ['10.0.0.1', 'fd00::1'] });
const web = service('web', { vips: ['10.96.0.1', 'fd00:96::1'], ports: { 80: 8080 } });
const web1 = workload('web-1', { ips: ['10.0.0.2'], services: { [WEB]: { 80: 8080 } } });

function verdict(resources: Parameters<typeof store>[0], init: Parameters<typeof offer>[0], self = SELF) {
  const snapshot = store(resources, [], [CLIENT]);
  return decide(offer(init), worldOf(snapshot, self), self);
}

t.test('a virtual address leads to the endpoints of its service', async (t) => {
  const { action, group, because, objects, forwardedHost, labels, log, baggage } = verdict([client, web, web1], {
    dstIp: '10.96.0.1',
    dstPort: 80,
  });
  t.match({ action, because, objects }, { action: 'group', because: 'service-endpoint', objects: [`service/${WEB}`] });
  t.equal(group, `service ${WEB}:80/v4`);
  t.equal(forwardedHost, 'web.default.svc.cluster.local');
  t.match(labels, 'reporter="source"');
  t.match(labels, 'source_workload="client"');
  t.match(labels, 'source_principal="spiffe://cluster.local/ns/default/sa/client"');
  t.match(labels, 'destination_service_name="web"');
  t.match(log, '"src.workload":"client"');
  t.match(log, '"dst.service":"web.default.svc.cluster.local"');
  t.match(baggage, 'k8s.namespace.name=default,k8s.deployment.name=client');
});

t.test('the family that the client asked in is part of the group', async (t) => {
  t.equal(verdict([client, web, web1], { dstIp: 'fd00:96::1', dstPort: 80 }).group, `service ${WEB}:80/v6`);
});

t.test('a port that the service does not have is refused', async (t) => {
  t.match(verdict([client, web, web1], { dstIp: '10.96.0.1', dstPort: 81 }), {
    action: 'deny',
    because: 'no-such-port',
    responseFlags: 'CONNECT',
  });
});

t.test('a service without a healthy endpoint is refused, and its group is what was read', async (t) => {
  const sick = workload('web-1', {
    ips: ['10.0.0.2'],
    services: { [WEB]: { 80: 8080 } },
    status: WorkloadStatus.UNHEALTHY,
  });
  const { because, responseFlags, reads } = verdict([client, web, sick], { dstIp: '10.96.0.1', dstPort: 80 });
  t.equal(because, 'no-healthy-upstream');
  t.equal(responseFlags, 'CONNECT');
  t.ok(reads.some(({ table, key }) => table === 'group' && key === `service ${WEB}:80/v4`));
});

t.test("a workload's own address leads to it", async (t) => {
  const { action, because, group } = verdict([client, web1], { dstIp: '10.0.0.2', dstPort: 9000 });
  t.match({ action, because }, { action: 'group', because: 'workload-address' });
  t.equal(group, 'workload Kubernetes//Pod/default/web-1 10.0.0.2:9000');
});

t.test('an address that nobody knows is outside and passes, and the miss is a read', async (t) => {
  const { action, because, targetIp, targetPort, reads } = verdict([client], { dstIp: '192.0.2.7', dstPort: 443 });
  t.match({ action, because }, { action: 'direct', because: 'outside-mesh' });
  t.match({ targetIp, targetPort }, { targetIp: '192.0.2.7', targetPort: 443 });
  t.ok(reads.some(({ table, key, prefix }) => table === 'vip/' && key === '192.0.2.7' && prefix));
  t.ok(reads.some(({ table, key }) => table === 'address' && key === '/192.0.2.7'));
});

t.test('an address inside the mesh that nobody knows is refused', async (t) => {
  const self = { ...SELF, meshPrefixes: [{ ip: '10.0.0.0', length: 8 }] };
  t.match(verdict([client], { dstIp: '10.9.9.9', dstPort: 443 }, self), {
    action: 'deny',
    because: 'unknown-mesh-address',
  });
  t.match(verdict([client], { dstIp: '192.0.2.7', dstPort: 443 }, self), { because: 'outside-mesh' });
});

t.test('before the control plane was heard, ignorance is no licence for plaintext', async (t) => {
  const empty = new Store();
  empty.applyPod(CLIENT);
  const unknown = offer({ dstIp: '192.0.2.7', dstPort: 443 });
  t.match(decide(unknown, worldOf(empty), SELF), { action: 'deny', because: 'mesh-not-known-yet' });
  const self = { ...SELF, meshPrefixes: [{ ip: '10.0.0.0', length: 8 }] };
  t.match(decide(unknown, worldOf(empty), self), { action: 'direct', because: 'outside-mesh' });
});

t.test('a pod that is not enrolled gets nothing', async (t) => {
  const snapshot = store([client, web, web1]);
  t.match(decide(offer({ dstIp: '10.96.0.1', dstPort: 80 }), worldOf(snapshot), SELF), { because: 'unknown-pod' });
});

t.test("calls to the agent's own listeners are refused as loops", async (t) => {
  for (const dstIp of ['10.0.0.1', 'fd00::1', '127.0.0.1', '::1']) {
    for (const dstPort of [15001, 15006, 15008]) {
      t.match(verdict([client], { dstIp, dstPort }), { action: 'deny', because: 'loop' }, `${dstIp} ${dstPort}`);
    }
  }
});

t.test('a passthrough service keeps the destination as it is', async (t) => {
  const outside = service('any', {
    vips: ['203.0.113.0/24'],
    ports: { 443: 443 },
    loadBalancing: { mode: LoadBalancing_Mode.PASSTHROUGH },
  });
  const { action, because, targetIp, forwardedHost } = verdict([client, outside], {
    dstIp: '203.0.113.9',
    dstPort: 443,
  });
  t.match({ action, because, targetIp }, { action: 'direct', because: 'service-passthrough', targetIp: '203.0.113.9' });
  t.equal(forwardedHost, 'any.default.svc.cluster.local');
});

t.test('the longest block that contains the address wins', async (t) => {
  const wide = service('wide', { vips: ['203.0.113.0/24'], ports: { 443: 443 } });
  const narrow = service('narrow', { vips: ['203.0.113.8/29'], ports: { 443: 443 } });
  t.match(verdict([client, wide, narrow], { dstIp: '203.0.113.9', dstPort: 443 }), {
    objects: ['service/default/narrow.default.svc.cluster.local'],
  });
  t.match(verdict([client, wide, narrow], { dstIp: '203.0.113.99', dstPort: 443 }), {
    objects: ['service/default/wide.default.svc.cluster.local'],
  });
});

t.test('a service of the namespace comes before one of another, and a hidden one is not there', async (t) => {
  const foreign = service('web', { namespace: 'aaa', vips: ['10.96.0.1'], ports: { 80: 1 } });
  t.match(verdict([client, foreign, web, web1], { dstIp: '10.96.0.1', dstPort: 80 }), {
    objects: [`service/${WEB}`],
  });
  const hidden = service('x', {
    namespace: 'aaa',
    vips: ['10.96.0.9'],
    ports: { 80: 1 },
    visibility: Service_Visibility.NAMESPACE,
  });
  t.match(verdict([client, hidden], { dstIp: '10.96.0.9', dstPort: 80 }), { because: 'outside-mesh' });
});

t.test('a waypoint comes first, and is told where the client wanted to go', async (t) => {
  const key = 'default/way.default.svc.cluster.local';
  const way = service('way', { vips: ['10.96.0.50'], ports: { 15008: 15008 } });
  const way1 = workload('way-1', { ips: ['10.0.0.9'], services: { [key]: { 15008: 15008 } } });
  const address = { destination: { case: 'address' as const, value: { network: '', address: bytesOf('10.96.0.50') } } };
  const guarded = service('web', {
    vips: ['10.96.0.1'],
    ports: { 80: 8080 },
    waypoint: { ...address, hboneMtlsPort: 15008 },
  });
  const found = verdict([client, guarded, web1, way, way1], { dstIp: '10.96.0.1', dstPort: 80 });
  t.match(found, { because: 'service-waypoint', objects: [`service/${WEB}`, `waypoint/${key}`] });
  t.equal(found.group, `service ${key}:15008/v4 for 10.96.0.1:80`);
  t.match(verdict([client, guarded, web1], { dstIp: '10.96.0.1', dstPort: 80 }), { because: 'waypoint-unresolved' });
  t.match(verdict([client, guarded, web1, way], { dstIp: '10.96.0.1', dstPort: 80 }), {
    because: 'no-healthy-upstream',
  });
  // What the waypoint itself sends is already through it.
  const itself = workload('client', { ips: ['10.0.0.1'], services: { [key]: { 15008: 15008 } } });
  t.match(verdict([itself, guarded, web1, way], { dstIp: '10.96.0.1', dstPort: 80 }), { because: 'service-endpoint' });
});

t.test("a change of the destination's health touches no verdict", async (t) => {
  const snapshot = store([client, web, web1], [], [CLIENT]);
  const { reads } = decide(offer({ dstIp: '10.96.0.1', dstPort: 80 }), worldOf(snapshot), SELF);
  const sick = workload('web-1', {
    ips: ['10.0.0.2'],
    services: { [WEB]: { 80: 8080 } },
    status: WorkloadStatus.UNHEALTHY,
  });
  const change = snapshot.applyAddresses({ changed: [sick], removed: [] });
  t.strictSame(change.reads, []);
  t.ok(change.workloads.has('Kubernetes//Pod/default/web-1'));
  t.ok(reads.length > 0);
});

t.test('a workload without a tunnel is still an endpoint', async (t) => {
  const plain = workload('web-1', {
    ips: ['10.0.0.2'],
    services: { [WEB]: { 80: 8080 } },
    tunnelProtocol: TunnelProtocol.NONE,
  });
  t.match(verdict([client, web, plain], { dstIp: '10.96.0.1', dstPort: 80 }), { because: 'service-endpoint' });
});
