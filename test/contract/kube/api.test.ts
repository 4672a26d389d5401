import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { inClusterApi } from '../../../src/kube/in-cluster.js';
import { kubeconfigApi } from '../../../src/kube/kubeconfig.js';
import { RESOURCES } from '../../../src/kube/resources.js';
import { ManualClock } from '../../../src/lib/manual-clock.js';
import { startApiServer } from '../../support/api-server.js';
import { MemoryApi } from '../../support/memory-api.js';
import { Wire } from '../../support/wire.js';
import { failure, kubeApiSuite } from './suite.js';

const server = await startApiServer();
t.teardown(() => server.close());

const memory = new MemoryApi();
kubeApiSuite('in memory', () => new MemoryApi(memory));
kubeApiSuite('by service account', () => server.api());
kubeApiSuite('by kubeconfig', () => kubeconfigApi(server.kubeconfig));

t.test('a long list comes in pages of one version', async (t) => {
  const api = server.api();
  t.teardown(() => api.close());
  await api.create(RESOURCES.Namespace, { metadata: { name: 'pages' } });
  for (let i = 0; i < 7; i++)
    await api.create(RESOURCES.ConfigMap, { metadata: { name: `m${i}`, namespace: 'pages' } });
  const first = await api.list(RESOURCES.ConfigMap, { namespace: 'pages' }, { limit: 3 });
  t.equal(first.items.length, 3);
  await api.create(RESOURCES.ConfigMap, { metadata: { name: 'm9', namespace: 'pages' } });
  const second = await api.list(RESOURCES.ConfigMap, { namespace: 'pages' }, { limit: 10, from: first.next ?? '' });
  t.equal(second.resourceVersion, first.resourceVersion);
  t.same([second.items.length, second.next], [4, undefined]);
});

t.test('elements of a list say what they are, and not who has managed them', async (t) => {
  const api = server.api();
  t.teardown(() => api.close());
  const { items } = await api.list(RESOURCES.Namespace);
  t.match(items[0], { apiVersion: 'v1', kind: 'Namespace' });
  t.ok(items.every(({ metadata }) => metadata.managedFields === undefined));
  const { items: bare } = await api.list(RESOURCES.Namespace, { metadataOnly: true });
  t.match(bare[0], { apiVersion: 'v1', kind: 'Namespace', metadata: { labels: {} } });
  t.equal(bare[0]?.spec, undefined);
});

t.test('a subresource is written under its object', async (t) => {
  const api = server.api();
  t.teardown(() => api.close());
  await api.create(RESOURCES.ServiceAccount, { metadata: { name: 'web', namespace: 'default' } });
  const answer = await api.create(
    RESOURCES.ServiceAccount,
    {
      apiVersion: 'authentication.k8s.io/v1',
      kind: 'TokenRequest',
      metadata: { name: 'web', namespace: 'default' },
      spec: { audiences: ['me'], expirationSeconds: 600 },
    },
    { subresource: 'token' },
  );
  t.match(answer, { kind: 'TokenRequest', status: { token: String } });
});

t.test('what is only tried is not kept', async (t) => {
  const api = server.api();
  t.teardown(() => api.close());
  await api.create(RESOURCES.ConfigMap, { metadata: { name: 'dry', namespace: 'default' } }, { dryRun: true });
  t.equal(await api.get(RESOURCES.ConfigMap, { namespace: 'default', name: 'dry' }), undefined);
});

t.test('errors say what was asked, what came back and why that may be', async (t) => {
  const directory = t.testdir({ token: 'nobody' });
  const stranger = inClusterApi({ server: server.url, ca: server.ca, token: join(directory, 'token') });
  t.teardown(() => stranger.close());
  await t.rejects(stranger.list(RESOURCES.Pod), {
    status: 401,
    reason: 'Unauthorized',
    message: /^GET \/api\/v1\/pods: 401 Unauthorized: .*it may have expired/,
  });
  const distrustful = inClusterApi({ server: server.url, ca: server.token, token: server.token });
  t.teardown(() => distrustful.close());
  await t.rejects(distrustful.list(RESOURCES.Pod), { status: 0, message: /no answer from https:.*/ });
  const lost = inClusterApi({ server: server.url, ca: join(directory, 'none'), token: server.token });
  await t.rejects(lost.list(RESOURCES.Pod), { status: 0, message: /no credentials: ENOENT.*none/ });
  const api = server.api();
  t.teardown(() => api.close());
  await t.rejects(api.create(RESOURCES.Pod, { metadata: { name: 'a', namespace: 'default' }, spec: {} }), {
    status: 422,
    reason: 'Invalid',
    message: /spec\.containers: Required value/,
  });
});

t.test('a token that is refused is read again at once, and one that rotates within seconds', async (t) => {
  const directory = t.testdir({ token: 'old' });
  const token = join(directory, 'token');
  const clock = new ManualClock();
  const api = inClusterApi({ server: server.url, ca: server.ca, token, clock });
  t.teardown(() => api.close());
  t.match(await failure(api.list(RESOURCES.Pod)), { status: 401 });
  writeFileSync(token, readFileSync(server.token));
  await t.resolves(api.list(RESOURCES.Pod));
  writeFileSync(token, 'stolen');
  await t.resolves(api.list(RESOURCES.Pod), 'the one it has is used for a while');
  clock.advance(10_000);
  t.match(await failure(api.list(RESOURCES.Pod)), { status: 401 });
});

t.test('a connection that the server has closed meanwhile is not noticed', async (t) => {
  await using wire = await new Wire(Number(new URL(server.url).port)).listen();
  const api = server.api({ server: `https://127.0.0.1:${wire.port}` });
  t.teardown(() => api.close());
  for (let i = 0; i < 3; i++) {
    await t.resolves(api.get(RESOURCES.Namespace, { name: 'default' }));
    wire.cut();
  }
});

t.test('a server that accepts and says nothing is given up', async (t) => {
  await using wire = await new Wire(Number(new URL(server.url).port)).listen();
  const api = server.api({ server: `https://127.0.0.1:${wire.port}`, silenceMs: 200 });
  t.teardown(() => api.close());
  await api.get(RESOURCES.Namespace, { name: 'default' });
  wire.hush();
  await t.rejects(api.get(RESOURCES.Namespace, { name: 'default' }), { status: 0, message: /silent for 200 ms/ });
});
