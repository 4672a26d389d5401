import { existsSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import t from 'tap';
import { Cluster } from './harness/cluster.js';
import { appPod } from './harness/manifests.js';
import { sh, until } from './harness/shell.js';
import { suiteName } from './harness/suite.js';

/** The life of an installation, on a cluster of its own: what it puts there, what it may do, and what it leaves. */
t.setTimeout(900_000);
const root = resolve(import.meta.dirname, '../../..');
const skip =
  (process.env.TEST_KUBECONFIG !== undefined && 'takes the mesh of the cluster away') ||
  (!existsSync(join(root, 'native/binding/meltemi.node')) && 'the engine is not built');

t.test('install, check, upgrade, a second revision, uninstall', { skip }, async (t) => {
  const name = suiteName('install');
  const cluster = (await Cluster.find(name)) ?? (await Cluster.up({ name }));
  t.teardown(() => cluster.down());
  const image = join(tmpdir(), `meltemi-${process.pid}.tar`);
  t.teardown(() => sh(['rm', '-f', image]));
  await sh(['make', '-s', '-C', root, 'crds'], { timeoutMs: 120_000 });
  await sh([join(root, 'daemonset/images/build'), image], { timeoutMs: 120_000 });
  await cluster.load(image);
  const meltemi = (...args: readonly string[]) =>
    sh([join(root, 'bin/meltemi'), ...args, '--kubeconfig', cluster.kubeconfig], { timeoutMs: 300_000 });
  const before = await traces(cluster);

  await t.test('an empty cluster is fit, and the mesh is ready in it', async (t) => {
    t.match(await meltemi('check', '--pre'), /Nothing is wrong/);
    t.match(await meltemi('install', '--timeout', '120'), /Meltemi is installed/);
    await until('a clean check', async () => /Nothing is wrong/.test(await meltemi('check').catch(String)), {
      timeoutMs: 60_000,
    });
    t.match(await meltemi('status'), /2 of 2 agents are connected/);
  });

  await t.test('to install twice changes nothing, and an upgrade keeps what was chosen', async (t) => {
    t.notMatch(await meltemi('install'), /: (created|changed|removed)/);
    t.match(await meltemi('upgrade', '--set', 'logLevel=debug'), /ConfigMap istio-system\/meltemi-agent: changed/);
    t.notMatch(await meltemi('upgrade', '--dry-run'), /would be (created|changed|removed)/);
  });

  await t.test('an agent changes one annotation of its own node’s pods, and nothing else', async (t) => {
    const pod = (node: string) => appPod({ namespace: 'default', name: `on-${node}`, spec: { nodeName: node } });
    for (const node of ['node-1', 'node-2']) await cluster.kubectl(['create', '-f', '-'], pod(node));
    const bound = ['--bound-object-kind', 'Node', '--bound-object-name', 'node-1'];
    const token = (await cluster.kubectl(['create', 'token', '-n', 'istio-system', 'meltemi-agent', ...bound])).trim();
    const kubeconfig = (await cluster.kubectl(['config', 'view', '--minify', '--raw', '-o', 'json'])).trim();
    const config = JSON.parse(kubeconfig) as { users: { user: object }[] };
    const file = join(tmpdir(), `meltemi-agent-${process.pid}.json`);
    t.teardown(() => sh(['rm', '-f', file]));
    await sh(['sh', '-c', `cat > ${file}`], {
      input: JSON.stringify({ ...config, users: config.users.map((each) => ({ ...each, user: { token } })) }),
    });
    const asAgent = (...args: readonly string[]) => cluster.kubectl(['--kubeconfig', file, ...args]);
    await asAgent('annotate', 'pod', 'on-node-1', 'ambient.istio.io/redirection=pending');
    await asAgent('annotate', 'pod', 'on-node-1', 'ambient.istio.io/redirection-');
    await t.rejects(asAgent('annotate', 'pod', 'on-node-1', 'other=1'), /redirection only/);
    await t.rejects(asAgent('label', 'pod', 'on-node-1', 'tier=other'), /redirection only/);
    await t.rejects(asAgent('annotate', 'pod', 'on-node-2', 'ambient.istio.io/redirection=x'), /its own node only/);
    await t.rejects(asAgent('delete', 'pod', 'on-node-1'), /cannot delete/);
    await t.rejects(asAgent('get', 'secrets', '-n', 'istio-system'), /cannot list/);
    await cluster.kubectl(['delete', 'pod', 'on-node-1', 'on-node-2', '--now']);
  });

  await t.test('a second revision takes over a namespace that asks for it, and goes again', async (t) => {
    await meltemi('install', '--revision', 'canary', '--set', 'controlPlane.replicas=1', '--timeout', '120');
    const labels = { 'istio.io/dataplane-mode': 'ambient' };
    await cluster.kubectl(['create', '-f', '-'], {
      apiVersion: 'v1',
      kind: 'Namespace',
      metadata: { name: 'shop', labels },
    });
    await cluster.kubectl(['create', '-f', '-'], appPod({ namespace: 'shop', name: 'web' }));
    await until('nothing captured', async () => (await capturedBy(meltemi, 'meltemi-agent-canary')) === 0, {
      timeoutMs: 30_000,
    });
    await until('captured by the first', async () => (await capturedBy(meltemi, 'meltemi-agent')) === 1, {
      timeoutMs: 60_000,
    });
    await cluster.kubectl(['label', 'namespace', 'shop', 'istio.io/rev=canary']);
    await until('captured by the second', async () => (await capturedBy(meltemi, 'meltemi-agent-canary')) === 1, {
      timeoutMs: 60_000,
    });
    await t.rejects(meltemi('uninstall'), /uninstall --revision that first/);
    await cluster.kubectl(['label', 'namespace', 'shop', 'istio.io/rev-']);
    await until('moved back', async () => (await capturedBy(meltemi, 'meltemi-agent-canary')) === 0, {
      timeoutMs: 60_000,
    });
    t.match(await meltemi('uninstall', '--revision', 'canary'), /Still installed: meltemi/);
  });

  await t.test('an uninstall leaves nothing, and pods go on', async (t) => {
    await meltemi('uninstall', '--purge');
    t.same(await traces(cluster), before);
    t.match(await meltemi('uninstall'), /Nothing of meltemi is in the cluster/, 'and is no trouble twice');
    const left = await cluster.kubectl(['get', 'clusterroles,crds,configmaps,secrets,leases', '-A', '-o', 'name']);
    t.notMatch(left, /meltemi|istio/);
    t.match(await cluster.kubectl(['get', 'pod', '-n', 'shop', 'web', '-o', 'jsonpath={.status.phase}']), 'Running');
  });
});

/** What an agent could leave on the nodes. */
async function traces(cluster: Cluster): Promise<Readonly<Record<string, string>>> {
  const script =
    'nft list tables; ip -o rule; ls /opt/cni/bin; cat /etc/cni/net.d/*; ls -d /run/meltemi* 2>&1; ls /proc/*/root/opt/meltemi -d 2>/dev/null; true';
  const names = cluster.nodes.map((node) => node.name);
  const found = await Promise.all(names.map((node) => cluster.node(node).exec(['sh', '-c', script])));
  return Object.fromEntries(names.map((node, index) => [node, found[index] ?? '']));
}

/** Pods that the agents of one DaemonSet have captured. */
async function capturedBy(meltemi: (...args: readonly string[]) => Promise<string>, set: string): Promise<number> {
  const { agents } = JSON.parse(await meltemi('status', '--json')) as {
    agents: { pod: string; captured?: number }[];
  };
  const ours = agents.filter(({ pod }) => pod.replace(/-[^-]+$/, '') === set);
  return ours.reduce((sum, { captured = 0 }) => sum + captured, 0);
}
