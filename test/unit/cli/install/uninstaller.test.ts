import t from 'tap';
import { loadChart } from '../../../../src/cli/chart/chart.js';
import { createNamespace } from '../../../../src/cli/install/installer.js';
import { resourceOf } from '../../../../src/cli/install/objects.js';
import { uninstall } from '../../../../src/cli/install/uninstaller.js';
import { ApiError, type ApiObject, type Resource } from '../../../../src/kube/api.js';
import { RESOURCES } from '../../../../src/kube/resources.js';
import { ManualClock } from '../../../../src/lib/manual-clock.js';
import { MemoryApi } from '../../../support/memory-api.js';

const NAMESPACE = 'istio-system';
const chart = loadChart();

/** A cluster with the mesh in it, as `meltemi install` and a control plane leave it. */
async function setUp(...revisions: readonly string[]) {
  const api = new MemoryApi();
  await createNamespace(api, NAMESPACE);
  for (const revision of revisions) {
    for (const object of chart.render(NAMESPACE, { revision })) await put(api, resourceOf(object), object);
  }
  const madeByUs = { 'app.kubernetes.io/managed-by': 'meltemi' };
  const made = (name: string, namespace = NAMESPACE): ApiObject => ({
    metadata: { name, namespace, labels: madeByUs },
  });
  await put(api, RESOURCES.Secret, made('istio-ca-secret'));
  await put(api, RESOURCES.Lease, made('meltemi-leader'));
  for (const namespace of [NAMESPACE, 'shop'])
    await put(api, RESOURCES.ConfigMap, made('istio-ca-root-cert', namespace));
  await put(api, RESOURCES.ConfigMap, { metadata: { name: 'kube-root-ca.crt', namespace: NAMESPACE } });
  await put(api, RESOURCES.Pod, {
    metadata: { name: 'web', namespace: 'shop', annotations: { 'ambient.istio.io/redirection': 'enabled', mine: 'x' } },
  });
  const taints = ['mine', 'cni.istio.io/not-ready'].map((key) => ({ key, effect: 'NoSchedule' }));
  await put(api, RESOURCES.Node, { metadata: { name: 'node-1' }, spec: { taints } });
  const clock = new ManualClock();
  const said: string[] = [];
  const options = {
    namespace: NAMESPACE,
    revision: '',
    purge: false,
    skipNodes: true,
    timeoutMs: 10_000,
    now: () => clock.now(),
    pause: async (ms: number) => clock.advance(ms),
    say: (line: string) => said.push(line),
  };
  const kinds = async () => (await Promise.all(EVERY.map((each) => api.list(each)))).flatMap(({ items }) => items);
  const names = async () =>
    (await kinds()).map(({ metadata: { namespace = '', name } }) => `${namespace}/${name}`).sort();
  return { api, options, said, names };
}

t.test('nothing of the mesh stays, and everything of others does', async (t) => {
  const { api, options, said, names } = await setUp('');
  t.ok((await names()).length > 20, 'there is something');
  await uninstall(api, chart, options);
  t.same(await names(), ['/node-1', `${NAMESPACE}/kube-root-ca.crt`, 'shop/web']);
  const pod = await api.get(RESOURCES.Pod, { namespace: 'shop', name: 'web' });
  t.same(pod?.metadata.annotations, { mine: 'x' });
  t.same((await api.get(RESOURCES.Node, { name: 'node-1' }))?.spec, {
    taints: [{ key: 'mine', effect: 'NoSchedule' }],
  });
  t.ok(said.includes(`Namespace ${NAMESPACE}: removed`));
  const webhooks = api.calls.findIndex(({ verb, resource }) => verb === 'delete' && resource?.kind === WEBHOOKS.kind);
  const servers = api.calls.findIndex(({ verb, resource }) => verb === 'delete' && resource?.kind === 'Deployment');
  t.ok(webhooks !== -1 && webhooks < servers, 'the webhook goes before its server');
});

t.test('a namespace that somebody else uses, or made, stays', async (t) => {
  const { api, options, said } = await setUp('');
  await put(api, RESOURCES.ConfigMap, { metadata: { name: 'mine', namespace: NAMESPACE } });
  await uninstall(api, chart, options);
  t.ok(await api.get(RESOURCES.Namespace, { name: NAMESPACE }));
  t.ok(said.includes(`Namespace ${NAMESPACE}: kept, for it has ConfigMap ${NAMESPACE}/mine`));

  const other = await setUp('');
  await other.api.patch(RESOURCES.Namespace, { name: NAMESPACE }, { metadata: { annotations: null } });
  await uninstall(other.api, chart, other.options);
  t.ok(await other.api.get(RESOURCES.Namespace, { name: NAMESPACE }));
});

t.test('a revision goes alone; the one whose account it shares goes after it', async (t) => {
  const { api, options, said, names } = await setUp('', 'next');
  const before = await names();
  await t.rejects(uninstall(api, chart, options), /meltemi-next shares its account.*uninstall --revision that first/);
  t.same(await names(), before, 'nothing was touched');
  await uninstall(api, chart, { ...options, revision: 'next' });
  t.same(
    (await names()).filter((each) => each.endsWith('-next')),
    [],
  );
  t.ok((await names()).includes(`${NAMESPACE}/istio-ca-secret`), 'the CA is that of the other, too');
  t.equal(said.at(-1), 'Still installed: meltemi.');
  await uninstall(api, chart, options);
  t.same(await names(), ['/node-1', `${NAMESPACE}/kube-root-ca.crt`, 'shop/web']);
});

t.test('while a node cannot be cleaned, what it takes to try again stays', async (t) => {
  const { api, options } = await setUp('');
  const attempt = uninstall(api, chart, { ...options, skipNodes: false });
  await t.rejects(attempt, /meltemi-node-cleanup is not ready after 10 s/);
  const has = (resource: Resource, name: string) => api.get(resource, { namespace: NAMESPACE, name });
  t.ok(await has(RESOURCES.DaemonSet, 'meltemi-node-cleanup'));
  t.ok(await has(RESOURCES.ServiceAccount, 'meltemi-agent'));
  t.ok(await has(RESOURCES.Secret, 'istio-ca-secret'));
  t.notOk(await has(RESOURCES.DaemonSet, 'meltemi-agent'), 'the agents are gone: they would undo it');
});

t.test('with nothing installed there is nothing to do, and a cut in the middle is made good', async (t) => {
  const { api, options, said } = await setUp();
  await uninstall(api, chart, options);
  t.equal(said[0], 'Nothing of meltemi is in the cluster.');

  const cut = await setUp('');
  let left = 5;
  cut.api.before = ({ verb }) => {
    if (verb === 'delete' && left-- === 0) throw new ApiError(500, 'InternalError', 'the API server is away');
  };
  await t.rejects(uninstall(cut.api, chart, cut.options), /is away/);
  cut.api.before = () => {};
  await uninstall(cut.api, chart, cut.options);
  t.same(await cut.names(), ['/node-1', `${NAMESPACE}/kube-root-ca.crt`, 'shop/web']);
});

async function put(api: MemoryApi, resource: Resource, object: ApiObject): Promise<void> {
  await api.create(resource, object);
}

const WEBHOOKS = RESOURCES.ValidatingWebhookConfiguration;
const EVERY: readonly Resource[] = Object.values(RESOURCES).filter(
  ({ kind }) => !['Namespace', 'CustomResourceDefinition', 'TokenReview'].includes(kind),
);
