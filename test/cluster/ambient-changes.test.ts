import t, { type Test } from 'tap';
import { AMBIENT, captured, OUT, podOn, released } from './harness/in-mesh.js';
import { appDeployment, appPod, appService } from './harness/manifests.js';
import { meshCluster } from './harness/mesh.js';
import { until } from './harness/shell.js';
import { applyAndWait, awaitService, clientIn, namespaceFor, type Sums } from './harness/tap-cluster.js';

/** What traffic notices when pods enter and leave the mesh, and when a Service loses all of its pods. Some 35 s. */
t.setTimeout(300_000);
const cluster = await meshCluster();
const [first = '', second = first] = await cluster.nodes();

t.test('when a server enters the mesh or leaves it at most a connection under way is lost', async (t) => {
  const namespace = await namespaceFor(t, cluster, AMBIENT);
  await applyAndWait(
    cluster,
    podOn(first, { namespace, name: 'web', labels: OUT }),
    appService({ namespace, name: 'web' }),
  );
  const load = await startLoad(namespace);
  for (let round = 0; round < 2; round++) {
    await mode(namespace, 'web', 'ambient');
    await captured(cluster, namespace, 'web');
    await load.goesOn();
    await mode(namespace, 'web', 'none');
    await released(cluster, namespace, 'web');
    await load.goesOn();
  }
  await load.check(t, 4);
});

t.test('the same when a client does', async (t) => {
  const namespace = await namespaceFor(t, cluster, AMBIENT);
  await applyAndWait(cluster, podOn(first, { namespace, name: 'web' }), appService({ namespace, name: 'web' }));
  await captured(cluster, namespace, 'web');
  const load = await startLoad(namespace);
  await mode(namespace, 'plain', 'ambient');
  await captured(cluster, namespace, 'plain');
  await load.goesOn();
  await mode(namespace, 'plain', 'none');
  await released(cluster, namespace, 'plain');
  await load.goesOn();
  await load.check(t, 2);
});

t.test('without a pod behind a Service clients are refused at once, and served again when there is one', async (t) => {
  const namespace = await namespaceFor(t, cluster, AMBIENT);
  await applyAndWait(
    cluster,
    appDeployment({ namespace, name: 'web', replicas: 2 }),
    appService({ namespace, name: 'web' }),
    podOn(second, { namespace, name: 'client' }),
  );
  await awaitService(cluster, namespace, 'client', 'http://web/');
  await cluster.kubectl(['scale', '-n', namespace, 'deployment/web', '--replicas=0']);
  await until('nobody answers', async () => {
    const { ok, errors } = await clientIn(cluster, namespace, 'client', ['--url', 'http://web/', '--count', '5']);
    return ok === 0 && errors.timeout === undefined;
  });
  await cluster.kubectl(['scale', '-n', namespace, 'deployment/web', '--replicas=2']);
  await cluster.kubectl(['rollout', 'status', '-n', namespace, 'deployment/web', '--timeout=60s'], undefined, 70_000);
  await until('both answer', async () => {
    const { ok, pods } = await clientIn(cluster, namespace, 'client', ['--url', 'http://web/', '--count', '20']);
    return ok === 20 && Object.keys(pods).length === 2;
  });
  t.pass();
});

interface Load {
  /** Resolves when everything has succeeded some times more. */
  goesOn(): Promise<void>;
  /** That no more connections were lost than there were changes. */
  check(t: Test, changes: number): Promise<void>;
}

/** New connections by name to `web`, from a captured pod and from one that is none. */
async function startLoad(namespace: string): Promise<Load> {
  const args = ['load', '--url', 'http://web/', '--rate', '25', '--parallel', '4'];
  const names = ['captured', 'plain'];
  await applyAndWait(
    cluster,
    ...names.map((name) =>
      appPod({ namespace, name, args, spec: { nodeName: second }, labels: name === 'plain' ? OUT : {} }),
    ),
  );
  await captured(cluster, namespace, 'captured');
  const sums = async (name: string): Promise<Sums> =>
    JSON.parse((await cluster.kubectl(['logs', '-n', namespace, name, '--tail=1'])) || '{"ok":0,"errors":{}}');
  const all = () => Promise.all(names.map(sums));
  const goesOn = async () => {
    const before = await all();
    const more = async () => (await all()).every(({ ok }, at) => ok >= (before[at]?.ok ?? 0) + 25);
    await until('everything goes on', more, { timeoutMs: 60_000 });
  };
  await goesOn();
  const before = await all();
  return {
    goesOn,
    async check(t, changes) {
      for (const [at, { ok, errors, latencyMs }] of (await all()).entries()) {
        const lost = sum(errors) - sum(before[at]?.errors ?? {});
        const said = `${names[at]}: ${ok} connections, at most ${Math.round(latencyMs.max)} ms, ${JSON.stringify(errors)}`;
        t.ok(lost <= changes, said);
      }
    },
  };
}

async function mode(namespace: string, pod: string, value: string): Promise<void> {
  await cluster.kubectl(['label', 'pod', '-n', namespace, pod, '--overwrite', `istio.io/dataplane-mode=${value}`]);
}

function sum(counts: Readonly<Record<string, number>>): number {
  return Object.values(counts).reduce((total, each) => total + each, 0);
}
