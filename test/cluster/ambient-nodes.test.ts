import { join } from 'node:path';
import t from 'tap';
import { AMBIENT, agentPods, captured, fieldOf, MESH, podOn } from './harness/in-mesh.js';
import { meshCluster } from './harness/mesh.js';
import { sh, until } from './harness/shell.js';
import { namespaceFor } from './harness/tap-cluster.js';

/** A node joins a cluster with the mesh in it, and leaves again. Some 40 s. */
t.setTimeout(400_000);
const cluster = await meshCluster();
const { own } = cluster;
const skip = own === undefined ? 'needs machines of our own' : false;
const TAINT = 'cni.istio.io/not-ready';

t.test('a node that joins takes no pods until its agent is ready, and then only captured ones', { skip }, async (t) => {
  if (own === undefined) return;
  const [first = ''] = await cluster.nodes();
  const namespace = await namespaceFor(t, cluster, AMBIENT);
  await upgrade('startupTaint.enabled=true');
  t.teardown(() => upgrade('startupTaint.enabled=false'));
  const node = await own.addNode();
  t.teardown(() => own.removeNode(node.name));

  // Its agent has no image yet.
  t.equal(await taints(node.name), TAINT);
  const selector = { nodeSelector: { 'kubernetes.io/hostname': node.name } };
  await cluster.kubectl(
    ['create', '-f', '-'],
    podOn('', { namespace, name: 'web', spec: { nodeName: null, ...selector } }),
  );
  const reason = '{.status.conditions[?(@.type=="PodScheduled")].message}';
  await until('the pod is told why it waits', async () =>
    (await fieldOf(cluster, namespace, 'web', reason)).includes('untolerated taint'),
  );
  t.equal(await fieldOf(cluster, namespace, 'web', '{.spec.nodeName}'), '');

  const image = (await own.kubectl(['get', 'daemonset', '-n', MESH, 'meltemi-agent', '-o', IMAGE])).trim();
  const archive = '/var/tmp/meltemi-agent.tar';
  t.teardown(() => cluster.exec(first, ['rm', '-f', archive]));
  await own.node(first).exec(['ctr', '-n', 'k8s.io', 'images', 'export', archive, `docker.io/library/${image}`]);
  await node.load(own.node(first).path(archive));
  // It would try again, later and later.
  const [agent = ''] = await agentPods(cluster, node.name);
  await cluster.kubectl(['delete', 'pod', '-n', MESH, agent, '--wait=false']);
  await until('the taint is taken away', async () => (await taints(node.name)) === '', { timeoutMs: 120_000 });
  await cluster.kubectl(
    ['wait', '-n', namespace, 'pod/web', '--for=condition=Ready', '--timeout=90s'],
    undefined,
    100_000,
  );
  await captured(cluster, namespace, 'web');
  t.equal(await fieldOf(cluster, namespace, 'web', '{.spec.nodeName}'), node.name);
  const events = ['get', 'events', '-n', namespace, '-o', 'jsonpath={range .items[*]}{.reason}{"\\n"}{end}'];
  t.notMatch(await cluster.kubectl(events), 'FailedCreatePodSandBox', 'it did not even have to wait for the agent');
});

function taints(node: string): Promise<string> {
  return cluster.kubectl(['get', 'node', node, '-o', 'jsonpath={.spec.taints[*].key}']);
}

async function upgrade(value: string): Promise<void> {
  const meltemi = join(import.meta.dirname, '../../../bin/meltemi');
  const command = [meltemi, 'upgrade', '--kubeconfig', cluster.kubeconfig, '--set', value, '--timeout', '180'];
  await sh(command, { timeoutMs: 300_000 });
}

const IMAGE = 'jsonpath={.spec.template.spec.containers[0].image}';
