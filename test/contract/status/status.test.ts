import t from 'tap';
import { kubernetesInput } from '../../../src/control/inputs/kubernetes/kubernetes-input.js';
import { StatusWriter } from '../../../src/control/status/status-writer.js';
import type { ApiObject } from '../../../src/kube/api.js';
import { RESOURCES } from '../../../src/kube/resources.js';
import { systemClock } from '../../../src/lib/clock.js';
import { logger } from '../../../src/telemetry/log.js';
import { createRegistry } from '../../../src/telemetry/metrics.js';
import { startApiServer } from '../../support/api-server.js';
import { define } from '../../support/definitions.js';
import { emptyMesh } from '../../support/derived-mesh.js';
import { until } from '../../support/mesh.js';

/** Conditions on a real API server, with Istio's own definitions and no webhook: bad objects get in. */
t.setTimeout(180_000);
const server = await startApiServer();
const api = server.api();
await define(api);
await api.create(RESOURCES.Namespace, { metadata: { name: 'shop' } });
const { graph, inputs, mesh } = emptyMesh();
const metrics = createRegistry();
const log = logger('status');
const writer = new StatusWriter({ api, inputs, mesh, clock: systemClock, log, metrics });
const source = kubernetesInput(api, graph, inputs, {
  clock: systemClock,
  log,
  metrics,
  rejected: (object) => writer.rejected(object),
});
await source.start();
const ended = new AbortController();
const running = writer.run(ended.signal);
t.teardown(async () => {
  ended.abort();
  await running;
  source.close();
  api.close();
  await server.close();
});

const metadata = (name: string) => ({ name, namespace: 'shop' });

t.test('each kind with conditions gets them, with the generation that they are of', async (t) => {
  await api.create(RESOURCES.AuthorizationPolicy, {
    metadata: metadata('audit'),
    spec: { action: 'AUDIT', rules: [{}] },
  });
  await api.create(RESOURCES.PeerAuthentication, { metadata: metadata('default'), spec: { mtls: { mode: 'STRICT' } } });
  await api.create(RESOURCES.ServiceEntry, { metadata: metadata('out'), spec: { hosts: ['a.example'] } });
  await api.create(RESOURCES.WorkloadEntry, { metadata: metadata('vm'), spec: { address: '10.9.0.1' } });
  t.match(await condition('AuthorizationPolicy', 'audit'), {
    type: 'ZtunnelAccepted',
    status: 'False',
    reason: 'UnsupportedValue',
    observedGeneration: 1,
  });
  t.match(await condition('PeerAuthentication', 'default'), { status: 'True', reason: 'Accepted' });
  t.match(await condition('ServiceEntry', 'out'), { type: 'meltemi.io/Accepted', status: 'True' });
  t.match(await condition('WorkloadEntry', 'vm'), { type: 'meltemi.io/Accepted', status: 'True' });
});

t.test('a bad object that got in says so, stops nothing else, and is mended by its next version', async (t) => {
  await api.create(RESOURCES.AuthorizationPolicy, {
    metadata: metadata('bad'),
    spec: { rules: [{ when: [{ key: 'nonsense', values: ['x'] }] }] },
  });
  await api.create(RESOURCES.AuthorizationPolicy, { metadata: metadata('good'), spec: { rules: [{}] } });
  t.match(await condition('AuthorizationPolicy', 'bad'), {
    status: 'False',
    reason: 'Invalid',
    message: /every connection to what it selects is denied.*nonsense/,
  });
  t.match(await condition('AuthorizationPolicy', 'good'), { status: 'True', reason: 'Accepted' });
  t.ok(inputs.AuthorizationPolicy.has('shop/good'));
  await api.patch(RESOURCES.AuthorizationPolicy, metadata('bad'), { spec: { rules: [{}] } });
  await until('it is accepted', async () => (await read('AuthorizationPolicy', 'bad'))?.reason === 'Accepted');
  t.match(await condition('AuthorizationPolicy', 'bad'), { observedGeneration: 2 });
});

t.test('conditions of others stay, and a status that we wrote sets nothing in motion', async (t) => {
  const theirs = { type: 'Theirs', status: 'True' };
  await api.apply(
    RESOURCES.AuthorizationPolicy,
    { metadata: metadata('good'), status: { conditions: [theirs] } },
    { subresource: 'status', fieldManager: 'another', force: true },
  );
  await api.patch(RESOURCES.AuthorizationPolicy, metadata('good'), { spec: { action: 'DENY' } });
  await until('both are there', async () => (await all('AuthorizationPolicy', 'good')).length === 2);
  t.match(await all('AuthorizationPolicy', 'good'), [theirs, { type: 'ZtunnelAccepted', observedGeneration: 2 }]);
  const version = async () =>
    (await api.get(RESOURCES.AuthorizationPolicy, metadata('good')))?.metadata.resourceVersion;
  const before = await version();
  // Whatever comes after has seen that nothing is left to do.
  await api.create(RESOURCES.WorkloadEntry, { metadata: metadata('later'), spec: { address: '10.9.0.2' } });
  await condition('WorkloadEntry', 'later');
  t.equal(await version(), before);
});

type Kind = 'AuthorizationPolicy' | 'PeerAuthentication' | 'ServiceEntry' | 'WorkloadEntry';
type Written = Readonly<Record<string, unknown>>;

async function all(kind: Kind, name: string): Promise<readonly Written[]> {
  const object: ApiObject | undefined = await api.get(RESOURCES[kind], { namespace: 'shop', name });
  return (object?.status as { conditions?: readonly Written[] } | undefined)?.conditions ?? [];
}

async function read(kind: Kind, name: string): Promise<Written | undefined> {
  return (await all(kind, name)).find(({ type }) => type !== 'Theirs');
}

async function condition(kind: Kind, name: string): Promise<Written | undefined> {
  await until(`${kind} ${name} has a condition`, async () => (await read(kind, name)) !== undefined);
  return read(kind, name);
}
