import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import t from 'tap';
import { appPod, appService } from './harness/manifests.js';
import { meshCluster } from './harness/mesh.js';
import { sh, until } from './harness/shell.js';
import { applyAndWait, clientIn, namespaceFor } from './harness/tap-cluster.js';

/**
 * Which pods of a real cluster are captured, when, and what holds when somebody meddles.
 */
t.setTimeout(600_000);
const cluster = await meshCluster();
const ownSkip = cluster.own === undefined ? 'needs machines of our own' : false;
const [first = '', second = first] = await cluster.nodes();
const AMBIENT = { 'istio.io/dataplane-mode': 'ambient' };

t.test('running pods are captured when their namespace is labelled, and released when it no longer is', async (t) => {
  const namespace = await namespaceFor(t, cluster);
  const out = { namespace, name: 'out', labels: { 'istio.io/dataplane-mode': 'none' } };
  const host = {
    namespace,
    name: 'host',
    spec: { nodeName: first, hostNetwork: true },
    args: ['load', '--tcp', '127.0.0.1:1', '--rate', '1'],
  };
  await applyAndWait(
    cluster,
    pod(namespace, 'web', first),
    pod(namespace, 'client', second),
    appPod(out),
    appPod(host),
  );
  t.equal(await redirection(namespace, 'web'), '');
  await label(namespace, 'istio.io/dataplane-mode=ambient');
  for (const name of ['web', 'client']) await enabled(namespace, name);
  t.same(
    await clientIn(cluster, namespace, 'client', ['--url', await urlOf(namespace, 'web'), '--count', '5']).then(
      ({ ok }) => ok,
    ),
    5,
  );
  t.equal(await redirection(namespace, 'out'), '', 'opted out');
  t.equal(await redirection(namespace, 'host'), '', 'on the host network');
  await cluster.kubectl(['label', 'pod', '-n', namespace, 'web', 'istio.io/dataplane-mode=none']);
  await released(namespace, 'web');
  t.equal(
    (await clientIn(cluster, namespace, 'client', ['--url', await urlOf(namespace, 'web')])).ok,
    1,
    'from a captured pod to one that left',
  );
  await label(namespace, 'istio.io/dataplane-mode-');
  await released(namespace, 'client');
  await cluster.kubectl(['label', 'pod', '-n', namespace, 'out', '--overwrite', 'istio.io/dataplane-mode=ambient']);
  await enabled(namespace, 'out');
});

t.test('kubelet probes reach the app under STRICT, over HTTP and TCP, and nobody else does in plaintext', async (t) => {
  const namespace = await namespaceFor(t, cluster, AMBIENT);
  const outside = await namespaceFor(t, cluster);
  const probes = {
    readinessProbe: { httpGet: { path: '/', port: 8080 }, periodSeconds: 1, failureThreshold: 1 },
    livenessProbe: { tcpSocket: { port: 9000 }, periodSeconds: 1, failureThreshold: 1 },
  };
  await applyAndWait(
    cluster,
    strict(namespace),
    appPod({ namespace, name: 'web', spec: { nodeName: first }, container: probes }),
    pod(outside, 'client', first),
    pod(namespace, 'friend', second),
  );
  const url = await urlOf(namespace, 'web');
  await until(
    'plaintext is refused',
    async () => (await clientIn(cluster, outside, 'client', ['--url', url])).ok === 0,
  );
  t.equal((await clientIn(cluster, namespace, 'friend', ['--url', url, '--count', '3'])).ok, 3);
  await new Promise((resolve) => setTimeout(resolve, 4000)); // four probes of each kind
  const { containerStatuses, conditions } = (await podOf(namespace, 'web')).status;
  t.equal(containerStatuses[0]?.restartCount, 0);
  t.equal(containerStatuses[0]?.ready, true);
  t.ok(conditions.some(({ type, status }) => type === 'Ready' && status === 'True'));
});

t.test('init containers and Jobs are captured from their first packet', async (t) => {
  const namespace = await namespaceFor(t, cluster, AMBIENT);
  await applyAndWait(cluster, strict(namespace), pod(namespace, 'web', first), appService({ namespace, name: 'web' }));
  const dial = {
    name: 'dial',
    image: 'meltemi-test/app:1',
    imagePullPolicy: 'IfNotPresent',
    command: ['/bin/app', 'client', '--url', 'http://web/', '--count', '3'],
  };
  const spec = { nodeName: second, initContainers: [dial] };
  await applyAndWait(cluster, appPod({ namespace, name: 'starts', spec }));
  const init = await cluster.kubectl(['logs', '-n', namespace, 'starts', '-c', 'dial']);
  t.match(JSON.parse(init), { ok: 3, errors: {} }, init);
  await cluster.kubectl(['apply', '-f', '-'], {
    apiVersion: 'batch/v1',
    kind: 'Job',
    metadata: { name: 'once', namespace },
    spec: { template: { spec: { nodeName: second, restartPolicy: 'Never', containers: [dial] } } },
  });
  await cluster.kubectl(
    ['wait', '-n', namespace, 'job/once', '--for=condition=Complete', '--timeout=60s'],
    undefined,
    70_000,
  );
  const job = await cluster.kubectl(['logs', '-n', namespace, 'job/once']);
  t.match(JSON.parse(job), { ok: 3, errors: {} }, job);
  const [name = ''] = (await cluster.kubectl(['get', 'pods', '-n', namespace, '-l', 'job-name=once', '-o', 'name']))
    .trim()
    .split('/')
    .slice(1);
  await released(namespace, name);
});

t.test('a StatefulSet: its next pod of the same name is captured in its turn, headless names lead there', async (t) => {
  const namespace = await namespaceFor(t, cluster, AMBIENT);
  const template = appPod({ namespace, name: 'db' }) as { metadata: object; spec: object };
  await applyAndWait(cluster, strict(namespace), pod(namespace, 'client', second));
  await cluster.kubectl(['apply', '-f', '-'], {
    apiVersion: 'v1',
    kind: 'List',
    items: [
      {
        apiVersion: 'v1',
        kind: 'Service',
        metadata: { name: 'db', namespace },
        spec: { clusterIP: 'None', selector: { app: 'db' }, ports: [{ name: 'http', port: 8080 }] },
      },
      {
        apiVersion: 'apps/v1',
        kind: 'StatefulSet',
        metadata: { name: 'db', namespace },
        spec: {
          serviceName: 'db',
          replicas: 1,
          selector: { matchLabels: { app: 'db' } },
          template: { metadata: { labels: { app: 'db' } }, spec: template.spec },
        },
      },
    ],
  });
  const works = () =>
    until(
      'db answers',
      async () => (await clientIn(cluster, namespace, 'client', ['--url', 'http://db:8080/'])).ok === 1,
    );
  await enabled(namespace, 'db-0');
  await works();
  const { uid } = (await podOf(namespace, 'db-0')).metadata;
  await cluster.kubectl(['delete', 'pod', '-n', namespace, 'db-0']);
  await until('another db-0 runs', async () => (await podOf(namespace, 'db-0')).metadata.uid !== uid);
  await enabled(namespace, 'db-0');
  await works();
});

t.test(
  'a hostPort is plaintext from outside and comes to the app; an ExternalName leads where it says',
  { skip: ownSkip },
  async (t) => {
    const namespace = await namespaceFor(t, cluster, AMBIENT);
    const hostPort = { ports: [{ containerPort: 8080, hostPort: 30880 }] };
    await applyAndWait(
      cluster,
      appPod({ namespace, name: 'web', spec: { nodeName: first }, container: hostPort }),
      pod(namespace, 'client', second),
      appService({ namespace, name: 'web' }),
    );
    await enabled(namespace, 'web');
    const address = cluster.own?.node(first).address ?? '';
    const answer = JSON.parse(await sh(['curl', '-sS', '--max-time', '5', `http://${address}:30880/`])) as {
      pod: string;
      source: string;
    };
    t.equal(answer.pod, 'web');
    t.notMatch(answer.source, '169.254.7.127', 'no exemption for what comes from outside');
    const alias = {
      apiVersion: 'v1',
      kind: 'Service',
      metadata: { name: 'alias', namespace },
      spec: { type: 'ExternalName', externalName: `web.${namespace}.svc.cluster.local` },
    };
    await applyAndWait(cluster, alias);
    t.equal((await clientIn(cluster, namespace, 'client', ['--url', 'http://alias/', '--count', '3'])).ok, 3);
  },
);

t.test('a terminating pod is served until it is gone', async (t) => {
  const namespace = await namespaceFor(t, cluster, AMBIENT);
  const lingers = {
    namespace,
    name: 'web',
    args: ['serve', '--linger', '15s'],
    spec: { nodeName: first, terminationGracePeriodSeconds: 30 },
  };
  await applyAndWait(cluster, strict(namespace), appPod(lingers), pod(namespace, 'client', second));
  const url = await urlOf(namespace, 'web');
  await cluster.kubectl(['delete', 'pod', '-n', namespace, 'web', '--wait=false']);
  const { ok, errors } = await clientIn(cluster, namespace, 'client', ['--url', url, '--count', '20', '--rate', '10']);
  t.equal(ok, 20, JSON.stringify(errors));
});

t.test('a connection that is older than the capture is reset', { skip: ownSkip }, async (t) => {
  const namespace = await namespaceFor(t, cluster);
  await applyAndWait(cluster, pod(namespace, 'web', first), pod(namespace, 'client', second));
  const talk = await inPod(namespace, 'client', TALK, (await podOf(namespace, 'web')).status.podIP, '9000');
  t.teardown(() => leave(talk));
  t.match(await say(talk, 'one'), 'one');
  await label(namespace, 'istio.io/dataplane-mode=ambient');
  await enabled(namespace, 'web');
  await enabled(namespace, 'client');
  t.match(await say(talk, 'two'), /reset|eof/);
});

t.test(
  'after a flush inside a captured pod the rules are back within 10 s, and nothing left in plaintext',
  { skip: ownSkip },
  async (t) => {
    const namespace = await namespaceFor(t, cluster, AMBIENT);
    await applyAndWait(
      cluster,
      pod(namespace, 'web', first),
      pod(namespace, 'client', second),
      appService({ namespace, name: 'web' }),
    );
    await enabled(namespace, 'client');
    await enabled(namespace, 'web');
    const ips = await Promise.all(['web', 'client'].map(async (name) => (await podOf(namespace, name)).status.podIP));
    await until('the mesh knows both', async () => (await dialMarked(namespace, 'client', ips[0] ?? '')) === 'refused');
    const filter = `host ${ips[0]} and host ${ips[1]} and tcp and not port 15008`;
    const captures = [first, second].map((node) =>
      start(node, ['timeout', '120', 'tcpdump', '-i', 'eth0', '-nn', '-l', '-A', filter]),
    );
    t.teardown(() => {
      for (const { child } of captures) leave(child);
    });
    for (const { said } of captures) await until('tcpdump listens', () => said.error.includes('listening on'));
    const load = clientIn(cluster, namespace, 'client', [
      '--tcp',
      `${ips[0]}:9000`,
      '--count',
      '600',
      '--rate',
      '100',
      '--timeout',
      '1s',
    ]);
    const drift = await metric('meltemi_redirection_drift_total');
    for (let round = 0; round < 3; round++) {
      for (const [name, node] of [
        ['client', second],
        ['web', first],
      ] as const) {
        await cluster.exec(node, [
          'nsenter',
          `--net=${await netnsOf(namespace, name, node)}`,
          'nft',
          'flush',
          'ruleset',
        ]);
        const started = Date.now();
        const rules = () =>
          cluster.exec(node, [
            'sh',
            '-c',
            `nsenter --net=$(echo ${pathOf(namespace, name)}) nft list table inet meltemi`,
          ]);
        await until('the rules are back', async () => (await rules()).includes('redirect to :15001'), {
          timeoutMs: 10_000,
          everyMs: 20,
        });
        t.ok(Date.now() - started < 10_000, `${name}: back after ${Date.now() - started} ms`);
      }
    }
    const sums = await load;
    t.comment(JSON.stringify(sums));
    t.ok(sums.ok > 300, 'most of the load went through');
    const plaintext = captures.flatMap(({ said }) => said.output.split('\n').filter((line) => line.includes('hello')));
    t.same(plaintext, [], 'no payload in plaintext on the wire');
    t.same(
      captures.flatMap(({ said }) => said.output.split('\n').filter((line) => /Flags/.test(line))),
      [],
      'nor any packet at all',
    );
    t.ok((await metric('meltemi_redirection_drift_total')) >= drift + 6, 'drift is counted');
  },
);

t.test('a pod that sets the mark of the engine itself is held by the node', { skip: ownSkip }, async (t) => {
  const namespace = await namespaceFor(t, cluster, AMBIENT);
  const outside = await namespaceFor(t, cluster);
  await applyAndWait(
    cluster,
    pod(namespace, 'web', first),
    pod(namespace, 'client', second),
    pod(namespace, 'near', second),
    pod(outside, 'plain', first),
  );
  const ipOf = async (where: string, name: string) => (await podOf(where, name)).status.podIP;
  const held = await metric('meltemi_plaintext_held_total');
  for (const name of ['web', 'near']) {
    const ip = await ipOf(namespace, name);
    await until(
      `the mark leads nowhere to ${name}`,
      async () => (await dialMarked(namespace, 'client', ip)) === 'refused',
    );
  }
  t.match(
    await dialMarked(namespace, 'client', await ipOf(outside, 'plain')),
    'connected',
    'who is not of the mesh is reached, as any pod may',
  );
  await until('it is counted', async () => (await metric('meltemi_plaintext_held_total')) > held, {
    timeoutMs: 15_000,
  });
});

interface PodObject {
  readonly metadata: { readonly uid: string; readonly annotations?: Readonly<Record<string, string>> };
  readonly status: {
    readonly podIP: string;
    readonly containerStatuses: readonly { readonly restartCount: number; readonly ready: boolean }[];
    readonly conditions: readonly { readonly type: string; readonly status: string }[];
  };
}

function pod(namespace: string, name: string, node: string): object {
  return appPod({ namespace, name, spec: { nodeName: node } });
}

function strict(namespace: string): object {
  return {
    apiVersion: 'security.istio.io/v1',
    kind: 'PeerAuthentication',
    metadata: { name: 'default', namespace },
    spec: { mtls: { mode: 'STRICT' } },
  };
}

async function podOf(namespace: string, name: string): Promise<PodObject> {
  return JSON.parse(await cluster.kubectl(['get', 'pod', '-n', namespace, name, '-o', 'json']));
}

async function urlOf(namespace: string, name: string): Promise<string> {
  return `http://${(await podOf(namespace, name)).status.podIP}:8080/`;
}

async function redirection(namespace: string, name: string): Promise<string> {
  return (await podOf(namespace, name)).metadata.annotations?.['ambient.istio.io/redirection'] ?? '';
}

async function enabled(namespace: string, name: string): Promise<void> {
  await until(`${name} is captured`, async () => (await redirection(namespace, name)) === 'enabled');
}

async function released(namespace: string, name: string): Promise<void> {
  await until(`${name} is released`, async () => (await redirection(namespace, name)) === '');
}

async function label(namespace: string, change: string): Promise<void> {
  await cluster.kubectl(['label', 'namespace', namespace, change]);
}

/** Over all agents. */
async function metric(name: string): Promise<number> {
  const pods = await cluster.kubectl([
    'get',
    'pods',
    '-A',
    '-l',
    'app.kubernetes.io/name=meltemi-agent',
    '-o',
    'jsonpath={range .items[*]}{.metadata.namespace}/pods/{.metadata.name}{"\\n"}{end}',
  ]);
  let sum = 0;
  for (const path of pods.split('\n').filter(Boolean)) {
    const text = await cluster.kubectl(['get', '--raw', `/api/v1/namespaces/${path}:15020/proxy/metrics`]);
    sum += Number(new RegExp(`^${name} (\\S+)$`, 'm').exec(text)?.[1] ?? 0);
  }
  return sum;
}

/** On the node, the network namespace of a pod's first process. */
async function netnsOf(namespace: string, name: string, node: string): Promise<string> {
  const { uid } = (await podOf(namespace, name)).metadata;
  const found = await cluster.exec(node, ['sh', '-c', `grep -l ${uid} /proc/[0-9]*/cgroup | head -1`]);
  const path = found.trim().replace(/cgroup$/, 'ns/net');
  paths.set(`${namespace}/${name}`, path);
  return path;
}

function pathOf(namespace: string, name: string): string {
  return paths.get(`${namespace}/${name}`) ?? '';
}

/** A connection from within a pod's network namespace under the mark 0x539: `connected`, or why not. */
async function dialMarked(namespace: string, name: string, ip: string): Promise<string> {
  const netns = await netnsOf(namespace, name, second);
  return (await cluster.exec(second, ['nsenter', `--net=${netns}`, 'python3', '-c', DIAL, ip])).trim();
}

async function inPod(namespace: string, name: string, script: string, ...args: string[]): Promise<ChildProcess> {
  const netns = await netnsOf(namespace, name, second);
  return start(second, ['nsenter', `--net=${netns}`, 'python3', '-uc', script, ...args]).child;
}

function start(node: string, command: readonly string[]) {
  const [file = '', ...args] = cluster.own?.node(node).on(command) ?? [];
  const child = spawn(file, args, { stdio: ['pipe', 'pipe', 'pipe'] });
  const said = { output: '', error: '' };
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    said.output += text;
  });
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    said.error += text;
  });
  return { child, said };
}

/** What runs on the node ends by itself: at the end of its input, or of its time. */
function leave(child: ChildProcess): void {
  for (const pipe of [child.stdin, child.stdout, child.stderr]) pipe?.destroy();
  child.kill('SIGKILL');
  child.unref();
}

async function say(child: ChildProcess, word: string): Promise<string> {
  if (child.stdout === null || child.stdin === null) throw new Error('it has no pipes');
  const heard = once(child.stdout, 'data');
  child.stdin.write(`${word}\n`);
  return String((await heard)[0]);
}

const paths = new Map<string, string>();
const DIAL = `
import socket, sys
s = socket.socket(); s.settimeout(2); s.setsockopt(socket.SOL_SOCKET, 36, 0x539)
try:
    s.connect((sys.argv[1], 9000)); print("connected")
except ConnectionRefusedError: print("refused")
except OSError as error: print(error)
`;
const TALK = `
import socket, sys
s = socket.create_connection((sys.argv[1], int(sys.argv[2]))); s.settimeout(10)
for line in sys.stdin:
    try:
        s.sendall(line.encode()); answer = s.recv(100).decode()
    except OSError as error: answer = "reset " + str(error) + "\\n"
    sys.stdout.write(answer or "eof\\n")
`;
