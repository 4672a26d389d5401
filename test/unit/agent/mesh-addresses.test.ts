import { create, toBinary } from '@bufbuild/protobuf';
import { test } from 'tap';
import { MeshAddresses } from '../../../src/agent/mesh-addresses.js';
import { Store } from '../../../src/agent/store/store.js';
import {
  AddressSchema,
  ServiceSchema,
  TunnelProtocol,
  WorkloadSchema,
} from '../../../src/gen/istio/workload/workload_pb.js';
import { ipToBytes } from '../../../src/lib/ip.js';

const KEY = 'shop/web.shop.svc.cluster.local';

function rig() {
  const store = new Store();
  const addresses = new MeshAddresses(store, 'home');
  const apply = (changed: { name: string; bytes: Uint8Array }[], removed: string[] = []) =>
    addresses.changed(store.applyAddresses({ changed, removed }));
  return { apply };
}

function bytesOf(ip: string): Uint8Array<ArrayBuffer> {
  return new Uint8Array(ipToBytes(ip) ?? []);
}

function workload(uid: string, ip: string, more: { hbone?: boolean; network?: string; member?: boolean } = {}) {
  const { hbone = true, network = 'home', member = true } = more;
  const value = create(WorkloadSchema, {
    uid,
    name: uid,
    namespace: 'shop',
    network,
    addresses: [bytesOf(ip)],
    tunnelProtocol: hbone ? TunnelProtocol.HBONE : TunnelProtocol.NONE,
    services: member ? { [KEY]: { ports: [{ servicePort: 80, targetPort: 8080 }] } } : {},
  });
  return { name: uid, bytes: toBinary(AddressSchema, create(AddressSchema, { type: { case: 'workload', value } })) };
}

function service(vip: string, network = 'home') {
  const value = create(ServiceSchema, {
    name: 'web',
    namespace: 'shop',
    hostname: 'web.shop.svc.cluster.local',
    addresses: [{ network, address: bytesOf(vip) }],
    ports: [{ servicePort: 80, targetPort: 8080 }],
  });
  return { name: KEY, bytes: toBinary(AddressSchema, create(AddressSchema, { type: { case: 'service', value } })) };
}

test('workloads that take tunnels, and services that have such an endpoint', async (t) => {
  const { apply } = rig();
  t.same(apply([service('10.96.0.1'), workload('a', '10.0.0.1', { hbone: false })]), { added: [], removed: [] });
  const joined = apply([workload('a', '10.0.0.1')]);
  t.same(joined, { added: ['10.0.0.1', '10.96.0.1'], removed: [] });
  t.same(apply([workload('b', '10.0.0.2')]), { added: ['10.0.0.2'], removed: [] });
  t.same(apply([], ['a']), { added: [], removed: ['10.0.0.1'] });
  t.same(apply([workload('b', '10.0.0.2', { member: false })]), { added: [], removed: ['10.96.0.1'] });
  t.same(apply([workload('b', '10.0.0.3', { member: false })]), { added: ['10.0.0.3'], removed: ['10.0.0.2'] });
});

test('a service that goes takes its address along', async (t) => {
  const { apply } = rig();
  apply([service('10.96.0.1'), workload('a', '10.0.0.1')]);
  t.same(apply([service('10.96.0.2')]), { added: ['10.96.0.2'], removed: ['10.96.0.1'] });
  t.same(apply([], [KEY]), { added: [], removed: ['10.96.0.2'] });
});

test('an address that passes from one pod to another within a change stays', async (t) => {
  const { apply } = rig();
  apply([workload('a', '10.0.0.1')]);
  t.same(apply([workload('b', '10.0.0.1')], ['a']), { added: [], removed: [] });
});

test('other networks are others’ business', async (t) => {
  const { apply } = rig();
  t.same(apply([service('10.96.0.1', 'away'), workload('a', '10.0.0.1', { network: 'away' })]), {
    added: [],
    removed: [],
  });
});
