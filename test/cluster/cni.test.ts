import t from 'tap';
import { appPod } from './harness/manifests.js';
import { meshCluster } from './harness/mesh.js';
import { until } from './harness/shell.js';
import { applyAndWait, namespaceFor } from './harness/tap-cluster.js';

/**
 * That no pod of a real cluster starts uncaptured, whatever happens to the agent and to the node's CNI.
 */
t.setTimeout(600_000);
const cluster = await meshCluster();
const ownSkip = cluster.own === undefined ? 'needs machines of our own' : false;
const [first = '', second = first] = await cluster.nodes();
const MESH = 'istio-system';
const AMBIENT = { 'istio.io/dataplane-mode': 'ambient' };
const CONF_DIR = '/etc/cni/net.d';
const NEVER_SCHEDULED = 'meltemi-test/nowhere';

/** A kubelet takes 110. */
const PODS = Number(process.env.PODS ?? 100);

t.test('a pod of a labelled namespace is captured before its first init container runs', async (t) => {
  const namespace = await namespaceFor(t, cluster, AMBIENT);
  for (let i = 0; i < 5; i += 1) await create(checkingPod(namespace, `checks-${i}`, i % 2 === 0 ? first : second));
  for (let i = 0; i < 5; i += 1) await phase(namespace, `checks-${i}`, 'Succeeded');
});

t.test(`${PODS} pods at once are all captured before they start`, async (t) => {
  const namespace = await namespaceFor(t, cluster, AMBIENT);
  const names = Array.from({ length: PODS }, (_, i) => `p${i}`);
  const items = names.map((name, i) => pausePod(namespace, name, i % 2 === 0 ? first : second));
  const started = Date.now();
  await cluster.kubectl(['create', '-f', '-'], { apiVersion: 'v1', kind: 'List', items });
  await until(
    'all of them run',
    async () => (await list(namespace, '{.status.phase}')).filter((each) => each === 'Running').length === PODS,
    { timeoutMs: 3_000 * PODS },
  );
  t.comment(`${PODS} pods in ${Date.now() - started} ms`);
  const states = () => list(namespace, '{.metadata.annotations.ambient\\.istio\\.io/redirection}');
  await until('all of them are reported', async () => (await states()).every((each) => each === 'enabled'), {
    timeoutMs: 60_000,
  });
});

t.test('a conflist that somebody rewrites, or puts first, gets the plugin again', { skip: ownSkip }, async (t) => {
  const file = await conflist(second);
  const text = await onNode(second, `cat ${file}`);
  t.match(text, '"meltemi-cni"');
  const without = text.replace(/,\s*\{"type":"meltemi-cni"[^}]*\}/, '');
  t.notMatch(without, 'meltemi-cni');
  await onNode(second, `cat > ${file}.new && mv ${file}.new ${file}`, without);
  await until('it is put back', async () => (await onNode(second, `cat ${file}`)) === text);
  t.teardown(() => onNode(second, `rm -f ${CONF_DIR}/05-other.conflist`));
  await onNode(second, `cat > ${CONF_DIR}/05-other.conflist`, without);
  await until('the new first has it', async () =>
    (await onNode(second, `cat ${CONF_DIR}/05-*`)).includes('meltemi-cni'),
  );
});

t.test('a conflist that is none makes the agent unready and is left alone', { skip: ownSkip }, async (t) => {
  const bad = `${CONF_DIR}/05-bad.conflist`;
  t.teardown(() => onNode(second, `rm -f ${bad}`));
  await onNode(second, `cat > ${bad}`, '{"cniVersion": "1.0.0", "plug');
  const agent = await agentOn(second);
  const ready = () => conditionOf(MESH, agent, 'Ready');
  await until('the agent is not ready', async () => (await ready()) === 'False', { timeoutMs: 60_000 });
  t.equal(await onNode(second, `cat ${bad}`), '{"cniVersion": "1.0.0", "plug');
  t.match(await cluster.kubectl(['logs', '-n', MESH, agent, '--tail=200']), /05-bad.conflist is no JSON/);
  await onNode(second, `rm -f ${bad}`);
  await until('it is ready again', async () => (await ready()) === 'True', { timeoutMs: 60_000 });
});

t.test('while the agent is away exempt pods start, others wait and are told why', async (t) => {
  const namespace = await namespaceFor(t, cluster, AMBIENT);
  t.teardown(() => agents(true));
  await agents(false);
  t.teardown(() =>
    cluster.kubectl(['delete', 'pod', '-n', 'kube-system', 'cni-exempt', '--ignore-not-found', '--wait=false']),
  );
  await create(pausePod('kube-system', 'cni-exempt', second));
  await create(checkingPod(namespace, 'waits', second));
  await phase('kube-system', 'cni-exempt', 'Running');
  const events = ['get', 'events', '-n', namespace, '-o', 'jsonpath={range .items[*]}{.message}{"\\n"}{end}'];
  await until('an event says why', async () => (await cluster.kubectl(events)).includes('waits for the mesh agent'), {
    timeoutMs: 90_000,
  });
  t.match(await cluster.kubectl(events), /kubectl -n istio-system describe daemonset meltemi-agent/);
  t.equal(await field('pod', namespace, 'waits', '{.status.phase}'), 'Pending');
  await create(pausePod(namespace, 'goes', second));
  const deleted = Date.now();
  await cluster.kubectl(['delete', 'pod', '-n', namespace, 'goes', '--timeout=60s'], undefined, 70_000);
  t.comment(`a pod that waits was removed in ${Date.now() - deleted} ms`);
  await agents(true);
  await phase(namespace, 'waits', 'Succeeded');
});

t.test('after a reboot no pod starts until the agent has captured it', { skip: ownSkip }, async (t) => {
  const own = cluster.own;
  if (own === undefined) return;
  const namespace = await namespaceFor(t, cluster, AMBIENT);
  const spec = { nodeName: second, restartPolicy: 'Always' };
  // Whatever starts uncaptured fails, and has a restart more than the reboot gives it.
  const command = ['/bin/sh', '-c', `${CAPTURED} || { echo uncaptured; exit 1; }; exec sleep 1000000`];
  await applyAndWait(cluster, appPod({ namespace, name: 'stays', args: ['load'], spec, container: { command } }));
  t.teardown(() => agents(true));
  await agents(false);
  await own.restartNode(second);
  const events = ['get', 'events', '-n', namespace, '-o', 'jsonpath={range .items[*]}{.message}{"\\n"}{end}'];
  await until('it waits', async () => (await cluster.kubectl(events)).includes('waits for the mesh agent'), {
    timeoutMs: 120_000,
  });
  await agents(true);
  await until('it runs', async () => (await conditionOf(namespace, 'stays', 'Ready')) === 'True', {
    timeoutMs: 120_000,
  });
  t.notMatch(await cluster.kubectl(['logs', '-n', namespace, 'stays', '--prefix']), 'uncaptured');
  t.equal(await field('pod', namespace, 'stays', '{.status.containerStatuses[0].restartCount}'), '1');
});

t.test('the startup taint stays while the agent is away and goes when it is ready', async (t) => {
  const taint = 'cni.istio.io/not-ready';
  const taints = () => field('node', '', second, '{.spec.taints[*].key}');
  await cluster.kubectl(['taint', 'node', second, `${taint}=:NoSchedule`, 'meltemi-test/other=x:PreferNoSchedule']);
  t.teardown(() => cluster.kubectl(['taint', 'node', second, 'meltemi-test/other-']));
  await until('it is taken away', async () => (await taints()) === 'meltemi-test/other', { timeoutMs: 30_000 });
  t.teardown(() => agents(true));
  await agents(false);
  await cluster.kubectl(['taint', 'node', second, `${taint}=:NoSchedule`]);
  await agents(true);
  await until('it is taken away again', async () => (await taints()) === 'meltemi-test/other', { timeoutMs: 60_000 });
});

/** What a container finds when the engine listens in its network namespace: port 15001. */
const CAPTURED = 'cat /proc/net/tcp /proc/net/tcp6 2>/dev/null | grep -q ":3A99 .* 0A "';

/** A pod whose first act, in an init container, is to look whether it is captured; it fails when it is not. */
function checkingPod(namespace: string, name: string, node: string): object {
  const command = ['/bin/sh', '-c', CAPTURED];
  const container = { image: 'meltemi-test/app:1', imagePullPolicy: 'IfNotPresent', command };
  return {
    apiVersion: 'v1',
    kind: 'Pod',
    metadata: { namespace, name },
    spec: {
      nodeName: node,
      restartPolicy: 'Never',
      terminationGracePeriodSeconds: 0,
      initContainers: [{ name: 'first', ...container }],
      containers: [{ name: 'then', ...container }],
    },
  };
}

function pausePod(namespace: string, name: string, node: string): object {
  return {
    apiVersion: 'v1',
    kind: 'Pod',
    metadata: { namespace, name },
    spec: {
      nodeName: node,
      terminationGracePeriodSeconds: 0,
      tolerations: [{ operator: 'Exists' }],
      containers: [{ name: 'pause', image: 'registry.k8s.io/pause:3.10', imagePullPolicy: 'IfNotPresent' }],
    },
  };
}

/** Ends all agents, or has them back. */
async function agents(wanted: boolean): Promise<void> {
  const nodeSelector = { [NEVER_SCHEDULED]: wanted ? null : 'true' };
  const patch = JSON.stringify({ spec: { template: { spec: { nodeSelector } } } });
  await cluster.kubectl(['patch', 'daemonset', '-n', MESH, 'meltemi-agent', '--type=merge', '-p', patch]);
  const count = async () =>
    (
      await list(MESH, '{.metadata.labels.app\\.kubernetes\\.io/name} {.status.conditions[?(@.type=="Ready")].status}')
    ).filter((each) => each.startsWith('meltemi-agent') && (!wanted || each.endsWith('True'))).length;
  const wantedCount = wanted ? (await cluster.nodes()).length : 0;
  await until(`${wantedCount} agents`, async () => (await count()) === wantedCount, { timeoutMs: 120_000 });
}

async function agentOn(node: string): Promise<string> {
  const selector = ['-l', 'app.kubernetes.io/name=meltemi-agent', '--field-selector', `spec.nodeName=${node}`];
  return (
    await cluster.kubectl(['get', 'pods', '-n', MESH, ...selector, '-o', 'jsonpath={.items[0].metadata.name}'])
  ).trim();
}

async function create(object: object): Promise<void> {
  await cluster.kubectl(['create', '-f', '-'], object);
}

async function phase(namespace: string, name: string, wanted: string): Promise<void> {
  let seen = '';
  await until(
    `pod ${namespace}/${name} is ${wanted}`,
    async () => {
      seen = await field('pod', namespace, name, '{.status.phase}');
      return seen === wanted || seen === 'Failed';
    },
    { timeoutMs: 120_000 },
  );
  if (seen !== wanted) throw new Error(`pod ${namespace}/${name} is ${seen}, not ${wanted}`);
}

async function conditionOf(namespace: string, pod: string, type: string): Promise<string> {
  return await field('pod', namespace, pod, `{.status.conditions[?(@.type=="${type}")].status}`);
}

async function field(kind: string, namespace: string, name: string, path: string): Promise<string> {
  const at = namespace === '' ? [] : ['-n', namespace];
  return (await cluster.kubectl(['get', kind, ...at, name, '-o', `jsonpath=${path}`])).trim();
}

/** One line per pod. */
async function list(namespace: string, path: string): Promise<string[]> {
  const template = path.replaceAll(/\{([^}]*)\}/g, '{$1}');
  const output = await cluster.kubectl([
    'get',
    'pods',
    '-n',
    namespace,
    '-o',
    `jsonpath={range .items[*]}${template}{"\\n"}{end}`,
  ]);
  return output.split('\n').filter((line) => line !== '');
}

/** The conflist that the runtime uses. */
async function conflist(node: string): Promise<string> {
  return (await onNode(node, `ls ${CONF_DIR}/*.conflist | head -n 1`)).trim();
}

/** A shell's line on a node; `input` goes to its standard input. */
async function onNode(node: string, line: string, input?: string): Promise<string> {
  const quoted = input === undefined ? line : `printf %s ${quote(input)} | { ${line}; }`;
  return await cluster.exec(node, ['sh', '-c', quoted]);
}

function quote(text: string): string {
  return `'${text.replaceAll("'", `'\\''`)}'`;
}
