import { randomBytes } from 'node:crypto';
import t, { type Test } from 'tap';
import { Capture, shows } from '../support/capture.js';
import { AMBIENT, agentPods, captured, fieldOf, ipOf, MESH, podOn } from './harness/in-mesh.js';
import { appService } from './harness/manifests.js';
import { meshCluster } from './harness/mesh.js';
import { until } from './harness/shell.js';
import { applyAndWait, clientIn, namespaceFor, type Sums } from './harness/tap-cluster.js';

/**
 * Parts are killed, cut off and filled up while captured pods make new connections; docs/faults.md says what happens.
 * Some 80 s. What the mesh does in its own tests is not repeated: reboots and bursts of pods are in cni.test.ts, tokens
 * in identity.test.ts, two agents on a node in the lab (rollout.test.ts), clocks that move, too (outage.test.ts).
 */
t.setTimeout(600_000);
const cluster = await meshCluster();
const { own } = cluster;
const skip = own === undefined ? 'needs machines of our own' : false;
const [first = '', second = first] = await cluster.nodes();
const PATIENCE = { timeoutMs: 120_000, everyMs: 200 };

t.test('an agent that is killed lets nothing out in plaintext', { skip }, async (t) => {
  if (own === undefined) return;
  const secret = `secret-${randomBytes(8).toString('hex')}`;
  const load = await startLoad(t, `/${secret}`);
  const client = await ipOf(cluster, load.namespace, 'near');
  const captures = await Promise.all(
    [first, second].map((node) => Capture.start(`/proc/${own.node(node).pid}/ns/net`, `tcp and host ${client}`)),
  );
  t.teardown(async () => {
    for (const each of captures) await each.stop();
  });
  await load.goesOn();
  const [agent = ''] = await agentPods(cluster, first);
  const restarts = () => fieldOf(cluster, MESH, agent, '{.status.containerStatuses[0].restartCount}');
  const before = await restarts();
  await own.node(first).exec(['pkill', '-KILL', '-f', 'max-semi-space-size.*agent --config']);
  await until('it has been started again', async () => (await restarts()) !== before, PATIENCE);
  await load.goesOn();
  const { ok, errors } = await load.sums('near');
  t.pass(`${ok} connections, ${JSON.stringify(errors)} while the agent was away`);
  for (const { packets } of captures) {
    t.ok(
      packets.some(({ dstPort }) => dstPort === 15008),
      'tunnels are seen',
    );
    t.notOk(shows(packets, secret), 'the secret never');
  }
});

t.test('without a control plane everything goes on, what was never asked before, too', async (t) => {
  const load = await startLoad(t);
  const deployment = ['deployment/meltemi-control-plane', '-n', MESH];
  const [replicas = '2'] = [await cluster.kubectl(['get', ...deployment, '-o', 'jsonpath={.spec.replicas}'])];
  const scale = (count: string) => cluster.kubectl(['scale', ...deployment, `--replicas=${count}`]);
  t.teardown(() => scale(replicas));
  await scale('0');
  const pods = ['get', 'pods', '-n', MESH, '-l', 'app.kubernetes.io/name=meltemi-control-plane', '-o', 'name'];
  await until('it is gone', async () => (await cluster.kubectl(pods)).trim() === '', PATIENCE);
  t.same((await clientIn(cluster, load.namespace, 'quiet', ['--greeting', 'web:9001'])).errors, {});
  await load.goesOn();
  await load.check(t);
  await scale(replicas);
  await cluster.kubectl(['rollout', 'status', ...deployment, '--timeout=120s'], undefined, 130_000);
  await applyAndWait(cluster, podOn(second, { namespace: load.namespace, name: 'later' }));
  await captured(cluster, load.namespace, 'later');
});

t.test('a node that is cut off from the API server serves on', { skip }, async (t) => {
  const load = await startLoad(t);
  t.teardown(() => own?.heal(first));
  await own?.cut(first);
  // The node that is cut off cannot be asked; what goes on there is counted afterwards.
  await load.goesOn('far', 250);
  await own?.heal(first);
  await load.goesOn();
  await load.check(t);
});

t.test('a node whose disk is full serves on, and captures again when there is room', { skip }, async (t) => {
  const load = await startLoad(t);
  if (own === undefined) return;
  const onNode = (script: string) => own.node(first).exec(['sh', '-c', script]);
  const resize = (size: string) => onNode(`mount -o remount,size=${size} /run`);
  t.teardown(() => resize('50%'));
  await resize(`${(await onNode('df -k --output=used /run | tail -n 1')).trim()}k`);
  await t.rejects(onNode('head -c 1000000 /dev/zero > /run/meltemi/full'), /space/);
  await load.goesOn();
  await load.check(t);
  await onNode('rm -f /run/meltemi/full');
  await resize('50%');
  await applyAndWait(cluster, podOn(first, { namespace: load.namespace, name: 'later' }));
  await captured(cluster, load.namespace, 'later');
  t.same((await clientIn(cluster, load.namespace, 'later', ['--url', 'http://web/'])).errors, {});
});

interface Load {
  readonly namespace: string;
  sums(name: string): Promise<Sums>;
  /** Resolves when both clients, or this one, have succeeded some times more. */
  goesOn(only?: string, times?: number): Promise<void>;
  /** Asserts that nothing failed. */
  check(t: Test): Promise<void>;
}

/** New connections from captured pods on both nodes, `near` on the first, to a Service on both; `quiet` only waits. */
async function startLoad(t: Test, path = '/'): Promise<Load> {
  const namespace = await namespaceFor(t, cluster, AMBIENT);
  const labels = { app: 'web' };
  await applyAndWait(
    cluster,
    appService({ namespace, name: 'web' }),
    podOn(first, { namespace, name: 'web-1', labels }),
    podOn(second, { namespace, name: 'web-2', labels }),
    podOn(second, { namespace, name: 'quiet' }),
  );
  await captured(cluster, namespace, 'web-1', 'web-2', 'quiet');
  const ask = () => clientIn(cluster, namespace, 'quiet', ['--url', 'http://web/']);
  await until('the service answers', async () => (await ask()).ok === 1, PATIENCE);
  const args = ['load', '--url', `http://web${path}`, '--rate', '25', '--parallel', '4'];
  const clients = ['near', 'far'];
  const nodes = [first, second];
  await applyAndWait(cluster, ...clients.map((name, at) => podOn(nodes[at] ?? '', { namespace, name, args })));
  const sums = async (name: string): Promise<Sums> => {
    return JSON.parse((await cluster.kubectl(['logs', '-n', namespace, name, '--tail=1'])) || '{"ok":0,"errors":{}}');
  };
  const goesOn = async (only?: string, times = 50) => {
    for (const name of only === undefined ? clients : [only]) {
      const { ok } = await sums(name);
      await until(`${name} goes on`, async () => (await sums(name)).ok >= ok + times, PATIENCE);
    }
  };
  await goesOn();
  return {
    namespace,
    sums,
    goesOn,
    async check(t) {
      for (const name of clients) {
        const { ok, errors, latencyMs } = await sums(name);
        t.same(errors, {}, `${name}: ${ok} connections, the slowest took ${Math.round(latencyMs.max)} ms`);
      }
    },
  };
}
