import { test } from 'tap';
import { podPool } from '../../../src/lab/addresses.js';
import { ObjectStore } from '../../../src/lab/object-store.js';
import { type KubeObject, objectTitle, recordAt } from '../../../src/lab/objects.js';

const object = (kind: string, name: string, spec: object = {}, namespace = 'shop'): KubeObject => ({
  apiVersion: 'v1',
  kind,
  metadata: { name, namespace, labels: {}, annotations: {} },
  spec,
});
const service = (name: string, spec: object = {}) => object('Service', name, spec);
const ipsOf = (store: ObjectStore, name: string) => recordAt(store.find('svc', 'shop', name), 'spec').clusterIPs;

test('a Service keeps the addresses it got, and another gets others', async (t) => {
  const store = new ObjectStore([]);
  t.same(store.apply(service('a')), { ok: true, value: 'created' });
  const first = ipsOf(store, 'a');
  t.same(store.apply(service('a')), { ok: true, value: 'unchanged' });
  t.same(store.apply(service('a', { ports: [{ port: 1 }] })), { ok: true, value: 'configured' });
  t.same(ipsOf(store, 'a'), first);
  store.apply(service('b'));
  t.notSame(ipsOf(store, 'b'), first);
});

test('addresses that somebody chose are kept, for both families, and nobody else gets them', async (t) => {
  const store = new ObjectStore([]);
  const chosen = { clusterIP: '10.96.210.1', clusterIPs: ['10.96.210.1', 'fd00:10:96::d201'] };
  t.ok(store.apply(service('a', chosen)).ok);
  t.same(ipsOf(store, 'a'), chosen.clusterIPs);
  t.match(store.apply(service('b', { clusterIP: '10.96.210.1' })), {
    ok: false,
    error: /Service shop\/b: clusterIP 10\.96\.210\.1 is in use/,
  });
  store.delete(service('a'));
  t.ok(store.apply(service('b', { clusterIP: '10.96.210.1' })).ok);
});

test('headless Services get none, single-stack ones one', async (t) => {
  const store = new ObjectStore([]);
  store.apply(service('a', { clusterIP: 'None' }));
  t.equal(ipsOf(store, 'a'), undefined);
  store.apply(service('b', { ipFamilies: ['IPv6'] }));
  t.match(ipsOf(store, 'b'), [/^fd00:/]);
});

test('a Namespace comes with what lives in it and takes it along', async (t) => {
  const store = new ObjectStore(['istio-system']);
  store.apply(service('a'));
  t.same(store.list().map(objectTitle), ['Namespace istio-system', 'Namespace shop', 'Service shop/a']);
  const shop = store.find('ns', 'default', 'shop');
  t.ok(shop !== undefined && store.delete(shop));
  t.same(store.list().map(objectTitle), ['Namespace istio-system']);
});

test('what the lab could not run is refused, and the former one stays', async (t) => {
  const store = new ObjectStore([]);
  store.apply(object('Pod', 'web', { containers: [{ name: 'main', command: ['a'] }] }));
  t.match(store.apply(object('Pod', 'web', { containers: [{ name: 'main' }] })), { ok: false, error: /Pod shop\/web/ });
  t.match(recordAt(store.find('pod', 'shop', 'web'), 'spec'), { containers: [{ command: ['a'] }] });
  t.match(store.apply(object('Deployment', 'api', { template: { spec: {} } })), {
    ok: false,
    error: /Deployment shop\/api/,
  });
});

test('labels are set and taken away', async (t) => {
  const store = new ObjectStore(['shop']);
  const label = (changes: Record<string, string | null>) => {
    const shop = store.find('namespace', 'default', 'shop');
    if (shop !== undefined) store.label(shop, changes);
    return store.namespaceLabels('shop');
  };
  t.match(label({ 'istio.io/dataplane-mode': 'ambient' }), { 'istio.io/dataplane-mode': 'ambient' });
  t.same(label({ 'istio.io/dataplane-mode': null }), { 'kubernetes.io/metadata.name': 'shop' });
});

test('a pool hands out every address once, and one that came back as late as possible', async (t) => {
  const pool = podPool(1);
  const first = pool.take();
  const second = pool.take();
  t.same(
    [first, second].map((pair) => pair?.ipv4),
    ['10.244.1.2', '10.244.1.3'],
  );
  for (const ip of ['10.244.1.2', 'fd00:10:244:1::2']) pool.release(ip);
  t.equal(pool.take()?.ipv4, '10.244.1.4');
  for (let left = 0; left < 251; left++) t.ok(pool.take());
  t.equal(pool.take(), undefined);
});
