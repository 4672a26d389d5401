import t, { type Test } from 'tap';
import { Graph } from '../../../../src/collections/graph.js';
import { publishTrust } from '../../../../src/control/bundles/publish-trust.js';
import type { SourceChange } from '../../../../src/control/ca/signing-material.js';
import { soleLeader } from '../../../../src/control/leader/leader.js';
import { ApiError, type ApiObject } from '../../../../src/kube/api.js';
import { RESOURCES } from '../../../../src/kube/resources.js';
import { ManualClock } from '../../../../src/lib/manual-clock.js';
import { logger, setLevel } from '../../../../src/telemetry/log.js';
import { createRegistry } from '../../../../src/telemetry/metrics.js';
import { MemoryApi } from '../../../support/memory-api.js';
import { pass } from '../../../support/pass.js';

setLevel('silent');

async function setup(t: Test, names: readonly string[] = ['istio-system', 'shop', 'kube-system']) {
  const server = new MemoryApi();
  const kube = new MemoryApi(server);
  const clock = new ManualClock();
  const metrics = createRegistry();
  const graph = new Graph(() => {});
  const namespaces = graph.source<string>('Namespaces');
  const listeners = new Set<(change: SourceChange) => void>();
  const authority = {
    bundle: 'ROOT 1\n',
    revocationLists: '',
    subscribe(listener: (change: SourceChange) => void) {
      listeners.add(listener);
      return () => listeners.delete(listener);
    },
  };
  const leader = soleLeader({ clock, log: logger('leader'), metrics });
  t.teardown(() => leader.close());
  const change = (run: () => void) => {
    graph.transact(run);
    return pass(clock, 0);
  };
  await change(() => {
    for (const name of names) namespaces.set(name, name);
  });
  const roots = async () => {
    const { items } = await server.list(RESOURCES.ConfigMap, { fieldSelector: 'metadata.name=istio-ca-root-cert' });
    return Object.fromEntries(
      items.map(({ metadata, data }) => [metadata.namespace, (data as Record<string, string>)['root-cert.pem']]),
    );
  };
  return {
    server,
    kube,
    clock,
    metrics,
    leader,
    authority,
    namespaces,
    change,
    roots,
    start() {
      publishTrust({ kube, leader, authority, namespaces, rootNamespace: 'istio-system', clock, metrics });
      return pass(clock, 0);
    },
    async tell(what: SourceChange) {
      for (const listener of listeners) listener(what);
      await pass(clock, 0);
    },
    listeners,
  };
}

const root = (namespace: string) => ({ namespace, name: 'istio-ca-root-cert' });

t.test(
  'the roots are in every namespace, in new ones at once, and no longer asked for in one that is gone',
  async (t) => {
    const it = await setup(t);
    await it.start();
    t.same(await it.roots(), { 'istio-system': 'ROOT 1\n', shop: 'ROOT 1\n', 'kube-system': 'ROOT 1\n' });
    await it.change(() => it.namespaces.set('new', 'new'));
    t.match(await it.roots(), { new: 'ROOT 1\n' });
    await it.change(() => it.namespaces.delete('new'));
    await it.server.delete(RESOURCES.ConfigMap, root('new'));
    await pass(it.clock, 60_000);
    t.notHas(await it.roots(), 'new');
  },
);

t.test('whoever changes or removes the roots finds them put right', async (t) => {
  const it = await setup(t);
  await it.start();
  await pass(it.clock, 1000);
  await it.server.patch(RESOURCES.ConfigMap, root('shop'), { data: { 'root-cert.pem': 'EVIL', more: 'x' } });
  await it.server.delete(RESOURCES.ConfigMap, root('kube-system'));
  await pass(it.clock, 0);
  t.match(await it.roots(), { shop: 'ROOT 1\n', 'kube-system': 'ROOT 1\n' });
  t.match(await it.metrics.render(), /^meltemi_trust_writes_total 6$/m, 'three, the lists, and two more');
});

t.test('what is right already is not written again', async (t) => {
  const it = await setup(t);
  await it.start();
  await it.leader.close();
  const again = await setup(t);
  for (const namespace of ['istio-system', 'shop', 'kube-system']) {
    await again.server.create(RESOURCES.ConfigMap, {
      metadata: root(namespace),
      data: { 'root-cert.pem': 'ROOT 1\n' },
    });
  }
  await again.start();
  t.equal(again.kube.calls.filter(({ verb }) => verb === 'apply').length, 1, 'the lists only');
});

t.test('other roots are everywhere in a moment, and the lists are beside the agents only', async (t) => {
  const names = Array.from({ length: 300 }, (_, index) => `ns-${index}`);
  const it = await setup(t, ['istio-system', ...names]);
  await it.start();
  await pass(it.clock, 1000);
  it.authority.bundle = 'ROOT 1\nROOT 2\n';
  await it.tell('material');
  for (let turn = 0; turn < 20; turn++) await pass(it.clock, 0);
  t.same(new Set(Object.values(await it.roots())), new Set(['ROOT 1\nROOT 2\n']));
  it.authority.revocationLists = 'LIST\n';
  await it.tell('lists');
  const { items } = await it.server.list(RESOURCES.ConfigMap, { fieldSelector: 'metadata.name=istio-ca-crl' });
  t.match(items, [{ metadata: { namespace: 'istio-system' }, data: { 'ca-crl.pem': 'LIST\n' } }]);
  t.equal(items.length, 1);
});

t.test('a namespace on its way out is left alone, one that cannot be written is tried again', async (t) => {
  const it = await setup(t);
  let refusals = 0;
  it.kube.before = ({ verb, name }) => {
    if (verb !== 'apply') return;
    if (name?.namespace === 'shop') {
      throw new ApiError(403, 'Forbidden', 'configmaps is forbidden: namespace shop because it is being terminated');
    }
    if (name?.namespace === 'kube-system' && refusals++ < 2) throw new ApiError(503, '', 'not now');
  };
  await it.start();
  t.match(await it.metrics.render(), /^meltemi_trust_pending 1$/m);
  for (let second = 0; second < 10; second++) await pass(it.clock, 1000);
  t.same(Object.keys(await it.roots()).sort(), ['istio-system', 'kube-system']);
  t.match(await it.metrics.render(), /^meltemi_trust_pending 0$/m);
  t.match(await it.metrics.render(), /^meltemi_trust_write_failures_total 2$/m);
});

t.test('who does not lead writes nothing, and lets go of everything', async (t) => {
  const it = await setup(t);
  await it.start();
  await it.leader.close();
  t.equal(it.listeners.size, 0);
  await it.server.delete(RESOURCES.ConfigMap, root('shop'));
  await it.change(() => it.namespaces.set('new', 'new'));
  await pass(it.clock, 60_000);
  t.notHas(await it.roots(), 'shop');
  t.notHas(await it.roots(), 'new');
});

t.test('the roots are in a ClusterTrustBundle where there is that kind, under its newest version', async (t) => {
  for (const version of ['v1', 'v1beta1']) {
    const it = await setup(t);
    it.kube.pages.set(`/apis/certificates.k8s.io/${version}`, {
      resources: [{ name: 'certificatesigningrequests' }, { name: 'clustertrustbundles' }],
    });
    const bundle = async () =>
      (await it.server.get(RESOURCES.ClusterTrustBundle, { name: 'meltemi.io:ca:root-cert' })) as ApiObject;
    await it.start();
    t.match(await bundle(), {
      apiVersion: `certificates.k8s.io/${version}`,
      spec: { signerName: 'meltemi.io/ca', trustBundle: 'ROOT 1\n' },
    });
    it.authority.bundle = 'ROOT 2\n';
    await it.tell('material');
    await pass(it.clock, 1000);
    t.match(await bundle(), { spec: { trustBundle: 'ROOT 2\n' } });
    await pass(it.clock, 1000);
    await it.server.delete(RESOURCES.ClusterTrustBundle, { name: 'meltemi.io:ca:root-cert' });
    await pass(it.clock, 1000);
    t.match(await bundle(), { spec: { trustBundle: 'ROOT 2\n' } });
  }
});

t.test('where there is no such kind nothing is wrong, and it is found when it comes', async (t) => {
  const it = await setup(t);
  it.kube.pages.set('/apis/certificates.k8s.io/v1', { resources: [{ name: 'certificatesigningrequests' }] });
  await it.start();
  await pass(it.clock, 300_000);
  t.match(await it.metrics.render(), /^meltemi_leader_task_failures_total 0$|^(?!.*task_failures_total\{)/m);
  t.notMatch(await it.metrics.render(), /meltemi_trust_write_failures_total [1-9]/);
  it.kube.pages.set('/apis/certificates.k8s.io/v1beta1', { resources: [{ name: 'clustertrustbundles' }] });
  await pass(it.clock, 600_000);
  t.ok(await it.server.get(RESOURCES.ClusterTrustBundle, { name: 'meltemi.io:ca:root-cert' }));
});
