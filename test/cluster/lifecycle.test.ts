import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, globSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { claimedIndex } from './harness/claim.js';
import { Cluster } from './harness/cluster.js';
import { takeDown } from './harness/down.js';
import { machinePids } from './harness/machine.js';
import { appDeployment, appPod, appService } from './harness/manifests.js';
import { CLUSTERS, clusterDirectory } from './harness/plan.js';
import { until } from './harness/shell.js';
import { suiteCluster, suiteName } from './harness/suite.js';
import { applyAndWait, awaitService, clientIn, namespaceFor } from './harness/tap-cluster.js';

/** What a cluster survives, and that nothing of one is left. */
t.setTimeout(480_000);
const shared = await suiteCluster();
const skip = shared.own === undefined ? 'needs machines of our own' : false;
const settingsBefore = settings();

t.test(
  'two clusters at once do not know of each other, and one goes without the other noticing',
  { skip },
  async (t) => {
    const name = suiteName('second');
    t.teardown(() => takeDown(name));
    const second = await Cluster.up({ name, nodes: 1, proxyMode: 'iptables' });
    t.not(second.plan.index, machines().plan.index);
    t.equal((await second.kubectl(['get', 'nodes', '-o', 'name'])).trim(), 'node/node-1');
    t.equal(
      (await machines().kubectl(['get', 'nodes', '-o', 'name'])).trim().split('\n').length,
      machines().nodes.length,
    );

    const app = { namespace: 'default', name: 'web' };
    const client = appPod({ namespace: 'default', name: 'client' });
    const twin = { ...shared, kubectl: second.kubectl.bind(second) };
    await applyAndWait(twin, appDeployment(app), appService(app), client);
    await awaitService(twin, 'default', 'client', 'http://web/');
    t.equal(
      (await clientIn(twin, 'default', 'client', ['--url', 'http://web/', '--count', '10'])).ok,
      10,
      'iptables mode',
    );

    t.not(traces(name).length, 0, 'traces are seen at all');
    await second.down();
    t.same(settings(), settingsBefore);
    t.same(traces(name), []);
    t.equal((await machines().kubectl(['get', '--raw', '/readyz'])).trim(), 'ok');
  },
);

t.test('a bring-up that is killed midway leaves nothing once it is taken down', { skip }, async (t) => {
  const name = suiteName('killed');
  t.teardown(() => takeDown(name));
  const main = join(import.meta.dirname, 'harness/main.js');
  const up = spawn(process.execPath, [main, 'up'], { env: { ...process.env, CLUSTER: name }, stdio: 'ignore' });
  const ended = once(up, 'exit');
  await until('machines run', () => machinePids(clusterDirectory(name)).length === 3);
  up.kill('SIGKILL');
  await ended;
  await takeDown(name);
  t.same(traces(name), []);
  await t.resolves(takeDown(name), 'there is nothing to end, which is fine');
});

t.test('a bring-up that fails says why and leaves nothing', { skip }, async (t) => {
  const name = suiteName('failed');
  await t.rejects(Cluster.up({ name, taints: ['no taint'] }), /does not come up: "no taint" is no taint/);
  t.same(traces(name), []);
});

t.test('a node that reboots takes its pods up again, with files in /var kept and /run empty', { skip }, async (t) => {
  const namespace = await namespaceFor(t, shared);
  const node = machines().node('node-1');
  await applyAndWait(shared, appPod({ namespace, name: 'web', spec: { nodeName: node.name } }));
  await node.exec(['touch', '/var/lib/kept', '/run/lost', '/etc/kept']);
  await machines().restartNode(node.name);
  t.equal(
    await node.exec(['sh', '-c', 'ls -d /var/lib/kept /run/lost /etc/kept 2>/dev/null; true']),
    '/etc/kept\n/var/lib/kept\n',
  );
  await until(
    'the pod runs again',
    async () => {
      const path = 'jsonpath={.status.containerStatuses[0].restartCount} {.status.containerStatuses[0].ready}';
      return (await machines().kubectl(['get', 'pod', 'web', '-n', namespace, '-o', path])) === '1 true';
    },
    { timeoutMs: 60_000 },
  );
  const sums = await clientIn(shared, namespace, 'web', ['--url', 'http://127.0.0.1:8080/']);
  t.equal(sums.ok, 1);
});

t.test('a part that is killed comes back, one that is stopped comes back when started', { skip }, async (t) => {
  const ready = () =>
    machines()
      .kubectl(['get', '--raw', '/readyz'], undefined, 5_000)
      .then((text) => text.trim() === 'ok');
  machines().stopPart('kube-apiserver');
  await until('the API server is away', () =>
    ready().then(
      () => false,
      () => true,
    ),
  );
  machines().startPart('kube-apiserver');
  await until('the API server is back', ready, { timeoutMs: 60_000 });

  const node = machines().node('node-1');
  const pidOf = () => readFileSync(node.path('/run/services/kubelet.pid'), 'utf8');
  const before = pidOf();
  node.killPart('kubelet');
  await until('kubelet is another process', () => pidOf() !== before);
  t.pass();
});

t.test(
  'a node that is cut off reaches the API server no longer, and does so again when healed',
  { skip },
  async (t) => {
    const node = machines().node('node-1');
    const ask = () => node.exec(['curl', '-sk', '--max-time', '1', `${machines().plan.apiServer}/readyz`]);
    t.equal(await ask(), 'ok');
    t.teardown(() => machines().heal(node.name));
    await machines().cut(node.name);
    await t.rejects(ask());
    await machines().heal(node.name);
    t.equal(await ask(), 'ok');
  },
);

t.test('a node that is added has the taints it was given', { skip }, async (t) => {
  const name = suiteName('grown');
  t.teardown(() => takeDown(name));
  const cluster = await Cluster.up({ name, nodes: 1, taints: ['cni.istio.io/not-ready=:NoSchedule'] });
  await cluster.addNode();
  const taints = await cluster.kubectl(['get', 'nodes', '-o', 'jsonpath={.items[*].spec.taints[*].key}']);
  t.equal(taints, 'cni.istio.io/not-ready cni.istio.io/not-ready');
});

function machines(): Cluster {
  if (shared.own === undefined) throw new Error('not here');
  return shared.own;
}

/** What is on this machine of a cluster: nothing, when it is gone. */
function traces(name: string): readonly string[] {
  const directory = clusterDirectory(name);
  const claims = readdirSync(join(CLUSTERS, '.index'));
  return [
    ...[directory].filter(existsSync),
    ...(claimedIndex(name) === undefined ? [] : ['its index']),
    ...globSync('/sys/class/net/mlt*').filter((link) => !claims.includes(link.replace(/^.*mlt/, ''))),
    ...globSync(`/sys/fs/cgroup/{.,*}/meltemi.${name}`),
    // Whoever is still in one of its mount namespaces, or any mount that leaked out of them.
    ...globSync('/proc/[0-9]*').filter((process) => textOf(`${process}/mountinfo`).includes(`${directory}/`)),
  ];
}

/** Settings that the whole machine shares and a kubelet likes to change. */
function settings(): readonly string[] {
  return ['vm/overcommit_memory', 'kernel/panic', 'kernel/panic_on_oops'].map((each) => textOf(`/proc/sys/${each}`));
}

function textOf(file: string): string {
  try {
    return readFileSync(file, 'utf8');
  } catch {
    return '';
  }
}
