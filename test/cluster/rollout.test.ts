import t, { type Test } from 'tap';
import { appDeployment, appPod, appService } from './harness/manifests.js';
import { meshCluster } from './harness/mesh.js';
import { until } from './harness/shell.js';
import { applyAndWait, namespaceFor, type Sums } from './harness/tap-cluster.js';

/**
 * What new connections notice when agents and apps are replaced under load. ROLLOUTS: how often the agents are restarted.
 */
const ROLLOUTS = Number(process.env.ROLLOUTS ?? 2);
t.setTimeout(240_000 + ROLLOUTS * 90_000);
const cluster = await meshCluster();
const found = await cluster.kubectl(['get', 'daemonset', '-A', '-o', agentsPath()]);
const [meshNamespace = ''] = found.split('\n').filter((each) => each !== '');
const [first = '', second = first] = await cluster.nodes();
const AMBIENT = { 'istio.io/dataplane-mode': 'ambient' };

t.test(`${ROLLOUTS} rolling restarts of all agents refuse nobody`, async (t) => {
  const load = await startLoad(t);
  const times: number[] = [];
  for (let round = 0; round < ROLLOUTS; round++) {
    const began = performance.now();
    await cluster.kubectl(['rollout', 'restart', 'daemonset/meltemi-agent', '-n', meshNamespace]);
    await rolledOut('daemonset/meltemi-agent', meshNamespace);
    times.push(Math.round((performance.now() - began) / 1000));
  }
  await load.goesOn();
  await load.check(t);
  t.pass(`a rollout took ${times.join(', ')} s`);
});

t.test('a rolling update of an app shows no error', async (t) => {
  const load = await startLoad(t);
  for (let round = 0; round < 2; round++) {
    await cluster.kubectl(['rollout', 'restart', 'deployment/web', '-n', load.namespace]);
    await rolledOut('deployment/web', load.namespace);
  }
  await load.goesOn();
  await load.check(t);
});

t.test(
  'an agent that is killed is back within seconds',
  { skip: cluster.own === undefined ? 'needs machines of our own' : false },
  async (t) => {
    const load = await startLoad(t);
    const node = cluster.own?.node(first);
    const killed = performance.now();
    await node?.exec(['pkill', '-KILL', '-f', 'max-semi-space-size.*agent --config']);
    await load.goesOn();
    const seconds = (performance.now() - killed) / 1000;
    t.ok(seconds < 30, `everything goes on after ${seconds.toFixed(1)} s at most`);
    await rolledOut('daemonset/meltemi-agent', meshNamespace);
  },
);

interface Load {
  readonly namespace: string;
  /** Resolves when everything has succeeded some times more. */
  goesOn(): Promise<void>;
  check(t: Test): Promise<void>;
}

/** New connections by name from both nodes to a service on both, from captured pods and from one that is none. */
async function startLoad(t: Test): Promise<Load> {
  const namespace = await namespaceFor(t, cluster, AMBIENT);
  const out = { 'istio.io/dataplane-mode': 'none' };
  const app = {
    namespace,
    name: 'web',
    replicas: 3,
    container: { command: ['/bin/app', 'serve', '--linger', '5s'] },
    spec: { terminationGracePeriodSeconds: 10 },
  };
  await applyAndWait(cluster, appDeployment(app), appService({ namespace, name: 'web' }));
  const args = ['load', '--url', 'http://web/', '--rate', '25', '--parallel', '4'];
  const loads = [
    { name: 'captured-1', spec: { nodeName: first } },
    { name: 'captured-2', spec: { nodeName: second } },
    { name: 'plain-2', spec: { nodeName: second }, labels: out },
  ];
  await applyAndWait(cluster, ...loads.map((load) => appPod({ namespace, args, ...load })));
  const sums = async (name: string): Promise<Sums> => {
    return JSON.parse((await cluster.kubectl(['logs', '-n', namespace, name, '--tail=1'])) || '{"ok":0}');
  };
  const all = () => Promise.all(loads.map(({ name }) => sums(name)));
  const goesOn = async () => {
    const before = await all();
    await until('everything goes on', async () => {
      return (await all()).every(({ ok }, at) => ok >= (before[at]?.ok ?? 0) + 50);
    });
  };
  await goesOn();
  return {
    namespace,
    goesOn,
    async check(t) {
      for (const [at, { ok, errors, latencyMs }] of (await all()).entries()) {
        t.same(errors, {}, `${loads[at]?.name}: ${ok} connections, the slowest took ${Math.round(latencyMs.max)} ms`);
      }
    },
  };
}

async function rolledOut(what: string, namespace: string): Promise<void> {
  await cluster.kubectl(['rollout', 'status', what, '-n', namespace, '--timeout=120s'], undefined, 130_000);
}

function agentsPath(): string {
  return 'jsonpath={range .items[?(@.metadata.name=="meltemi-agent")]}{.metadata.namespace}{"\\n"}{end}';
}
