import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import root, { test } from 'tap';
import { type LabFile, LabLayout, labNames } from '../../src/lab/layout.js';
import { markedProcesses } from '../../src/lab/reap.js';
import { idlePod, namespace, pod, serverPod, service } from '../support/manifests.js';
import { Mesh, meltemi } from '../support/mesh.js';

/** The lab itself, mostly without a mesh in it: what the other mesh tests stand on. */
/** Two runs of this file at once do not meet. */
const [FIRST, SECOND, THIRD] = [1, 2, 3].map(
  (index) => `lab-test-${index}${process.env.LAB_SUFFIX ?? `-${process.pid}`}`,
) as [string, string, string];
const NO_MESH = { args: ['--no-mesh'] };
const WEB_VIP = '10.96.77.1';
const WEB_VIP6 = 'fd00:10:96::4d01';

const shop = [
  namespace('shop'),
  idlePod({ name: 'shopper', namespace: 'shop', node: 1 }),
  serverPod({ name: 'web', namespace: 'shop', node: 2 }, [8080]),
  service({
    name: 'web',
    namespace: 'shop',
    selector: { app: 'web' },
    ports: [{ port: 80, targetPort: 8080 }],
    addresses: [WEB_VIP, WEB_VIP6],
  }),
  service({ name: 'webs', namespace: 'shop', selector: { app: 'web' }, ports: [{ port: 8080, targetPort: 8080 }] }),
  service({
    name: 'nobody',
    namespace: 'shop',
    selector: { app: 'nobody' },
    ports: [{ port: 80, targetPort: 8080 }],
    addresses: ['10.96.77.2'],
  }),
];

let mesh: Mesh;
root.setTimeout(0);
root.teardown(() => mesh[Symbol.asyncDispose]());

test('a lab starts detached', { timeout: 60_000 }, async (t) => {
  mesh = await Mesh.up(FIRST, NO_MESH);
  const status = await mesh.status();
  t.match(status, {
    name: FIRST,
    mesh: false,
    controlPlane: null,
    nodes: [{ name: 'node-1' }, { name: 'node-2' }],
    pods: [],
    problems: [],
  });
});

test('pods run, are probed, and have addresses of both families', { timeout: 60_000 }, async (t) => {
  await mesh.apply(shop);
  const { pods } = await mesh.ready([]);
  t.match(pods, [
    { name: 'shopper', node: 'node-1', phase: 'Running', restarts: 0, redirection: '', serviceAccount: 'shopper' },
    { name: 'web', node: 'node-2', phase: 'Running' },
  ]);
  for (const { addresses, pids, netns } of pods) {
    t.match(addresses, [/^10\.244\./, /^fd00:10:244:/]);
    t.equal(pids.length, 1);
    t.ok(existsSync(netns));
  }
});

test('pods, Services and names are reached over both families', { timeout: 60_000 }, async (t) => {
  const shopper = await mesh.prober('shopper.shop');
  const { addresses } = await mesh.pod('web.shop');
  const targets = [
    ...addresses.map((host) => ({ host, port: 8080 })),
    { host: WEB_VIP, port: 80 },
    { host: WEB_VIP6, port: 80 },
  ];
  for (const target of targets)
    t.match(await shopper.probe(target), { outcome: 'connected', server: 'web' }, target.host);
  for (const [name, port] of [
    ['web', 80],
    ['web.shop', 80],
    ['web.shop.svc.cluster.local', 80],
    ['webs.shop', 8080],
  ] as const) {
    t.match(await shopper.probe({ host: name, port }), { outcome: 'connected', server: 'web' }, name);
  }
});

test('a pod reaches itself by its Service', { timeout: 60_000 }, async (t) => {
  const web = await mesh.prober('web.shop');
  for (const host of [WEB_VIP, WEB_VIP6])
    t.match(await web.probe({ host, port: 80 }), { outcome: 'connected', server: 'web' });
});

test('a Service without a ready pod refuses, an unknown name does not exist', { timeout: 60_000 }, async (t) => {
  const shopper = await mesh.prober('shopper.shop');
  t.match(await shopper.probe({ host: '10.96.77.2', port: 80 }), { outcome: 'refused' });
  const { exitCode, stderr } = await mesh.lab(
    'exec',
    'shopper.shop',
    '--',
    'curl',
    '-sS',
    '-m',
    '5',
    'http://no-such.shop/',
  );
  t.equal(exitCode, 6, stderr);
});

test('a command in a pod has its files, its input, and its exit code', { timeout: 60_000 }, async (t) => {
  t.equal(
    await mesh.must(
      'exec',
      'shopper',
      '--',
      'cat',
      '/proc/sys/kernel/hostname',
      '/var/run/secrets/kubernetes.io/serviceaccount/namespace',
    ),
    'shopper\nshop',
  );
  t.match(
    await mesh.must('exec', 'shopper.shop', '--', 'cat', '/etc/resolv.conf'),
    'search shop.svc.cluster.local svc.cluster.local cluster.local',
  );
  t.match(await mesh.must('exec', 'shopper.shop', '--', 'cat', '/etc/hosts'), /10\.244\.1\.\d+ shopper/);
  const { exitCode, stdout, stderr } = await mesh.lab(
    'exec',
    'shopper.shop',
    '--',
    'sh',
    '-c',
    'echo out; echo err >&2; exit 7',
  );
  t.same({ exitCode, stdout, stderr }, { exitCode: 7, stdout: 'out\n', stderr: 'err\n' });
  t.match(await mesh.lab('exec', 'no-such.shop', '--', 'true'), {
    exitCode: 1,
    stderr: /there is no pod no-such\.shop; there are shopper\.shop, web\.shop/,
  });
  t.match(await mesh.must('exec', 'node/node-1', '--', 'ip', '-o', 'addr'), '10.10.1.1/16');
});

test('logs are what the processes wrote', { timeout: 60_000 }, async (t) => {
  await mesh.apply([
    pod(
      { name: 'talker', namespace: 'shop', node: 1 },
      { command: ['sh', '-c', 'echo "I am $ME"; exec sleep infinity'], env: [{ name: 'ME', value: 'the talker' }] },
    ),
  ]);
  await mesh.ready([]);
  t.equal(await mesh.must('logs', 'talker.shop'), 'I am the talker\n');
});

test('a process that ends is started again, with growing pauses', { timeout: 60_000 }, async (t) => {
  await mesh.apply([pod({ name: 'crasher', namespace: 'shop', node: 1 }, { command: ['sh', '-c', 'exit 3'] })]);
  await mesh.settled('it was started twice more', ({ pods }) =>
    pods.some(({ name, restarts }) => name === 'crasher' && restarts >= 2),
  );
  const manifest = join(mesh.directory, 'manifests/Pod_shop_crasher.yaml');
  const { pods } = await mesh.settled('the manifest says so', () =>
    readFileSync(manifest, 'utf8').includes('reason: CrashLoopBackOff'),
  );
  t.match(
    pods.find(({ name }) => name === 'crasher'),
    { phase: 'Running', ready: false },
  );
  await mesh.remove([pod({ name: 'crasher', namespace: 'shop', node: 1 }, {})]);
});

test('a pod that is not ready is no endpoint', { timeout: 60_000 }, async (t) => {
  const ready = { exec: { command: ['sh', '-c', 'test ! -e /run/sick'] }, periodSeconds: 1, failureThreshold: 1 };
  const command = (await readCommand('web')) as string[];
  await mesh.apply([
    pod({ name: 'ward', namespace: 'shop', node: 1, labels: { app: 'nobody' } }, { command, readinessProbe: ready }),
  ]);
  await mesh.settled('it is ready', ({ services }) =>
    services.some(({ name, readyPods }) => name === 'nobody' && readyPods === 1),
  );
  await mesh.must('exec', 'ward.shop', '--', 'touch', '/run/sick');
  const after = await mesh.settled('it is no endpoint any more', ({ services }) =>
    services.some(({ name, readyPods }) => name === 'nobody' && readyPods === 0),
  );
  t.match(
    after.pods.find(({ name }) => name === 'ward'),
    { ready: false, phase: 'Running', restarts: 0 },
  );
  await mesh.remove([pod({ name: 'ward', namespace: 'shop', node: 1 }, {})]);
});

test('a Deployment makes pods, follows its template and its replicas, and goes', { timeout: 60_000 }, async (t) => {
  const deployment = (replicas: number, word: string) => ({
    apiVersion: 'apps/v1',
    kind: 'Deployment',
    metadata: { name: 'fleet', namespace: 'shop' },
    spec: {
      replicas,
      template: {
        metadata: { labels: { app: 'fleet' } },
        spec: { containers: [{ name: 'main', command: ['sleep', 'infinity'], env: [{ name: 'WORD', value: word }] }] },
      },
    },
  });
  const fleet = (count: number) =>
    mesh.settled(`${count} of the fleet`, ({ pods }) => {
      const ours = pods.filter(({ name }) => name.startsWith('fleet-'));
      return ours.length === count && ours.every(({ ready, stopping }) => ready && !stopping);
    });
  await mesh.apply([deployment(2, 'one')]);
  const first = (await fleet(2)).pods.filter(({ name }) => name.startsWith('fleet-'));
  t.same(first.map(({ node }) => node).sort(), ['node-1', 'node-2'], 'spread over the nodes');
  await mesh.apply([deployment(3, 'two')]);
  const second = (await fleet(3)).pods.filter(({ name }) => name.startsWith('fleet-'));
  t.same(
    second.filter(({ uid }) => first.some((pod) => pod.uid === uid)),
    [],
  );
  await mesh.remove([deployment(3, 'two')]);
  await fleet(0);
});

test('labels are changed as with kubectl, and written to the manifests', { timeout: 60_000 }, async (t) => {
  await mesh.must('label', 'namespace', 'shop', 'istio.io/dataplane-mode=ambient', 'team=coffee');
  const path = join(mesh.directory, 'manifests/Namespace_shop.yaml');
  await mesh.settled('the label is written', () =>
    readFileSync(path, 'utf8').includes('istio.io/dataplane-mode: ambient'),
  );
  await mesh.must('label', 'ns', 'shop', 'istio.io/dataplane-mode-');
  await mesh.settled('it is gone again', () => !readFileSync(path, 'utf8').includes('dataplane-mode'));
  t.match(await mesh.lab('label', 'ns', 'no-such', 'a=b'), {
    exitCode: 1,
    stderr: /no-such: there is none in this lab/,
  });
});

test('a bad file is named, the others are applied', { timeout: 60_000 }, async (t) => {
  const folder = mkdtempSync(join(tmpdir(), 'meltemi-lab-'));
  t.teardown(() => rmSync(folder, { recursive: true }));
  writeFileSync(join(folder, 'a-broken.yaml'), 'kind: [');
  writeFileSync(
    join(folder, 'b-image.yaml'),
    JSON.stringify({
      apiVersion: 'v1',
      kind: 'Pod',
      metadata: { name: 'x' },
      spec: { containers: [{ name: 'main', image: 'nginx' }] },
    }),
  );
  writeFileSync(join(folder, 'c-good.yaml'), JSON.stringify(namespace('good')));
  const { exitCode, stdout, stderr } = await mesh.lab('apply', '-f', folder);
  t.equal(exitCode, 1);
  t.match(stdout, 'Namespace good created');
  t.match(stderr, /a-broken\.yaml: line 1/);
  t.match(stderr, /b-image\.yaml: Pod default\/x: .*the lab ignores images/);
  t.match(await mesh.lab('apply', '-f', join(folder, 'no-such')), {
    exitCode: 1,
    stderr: /there is no such file or directory/,
  });
});

test('the directory of manifests holds pods as Kubernetes shows them', { timeout: 60_000 }, async (t) => {
  const text = readFileSync(join(mesh.directory, 'manifests/Pod_shop_web.yaml'), 'utf8');
  for (const part of [
    'phase: Running',
    'podIP: 10.244.2.',
    'hostIP: 10.10.1.2',
    'nodeName: node-2',
    'type: Ready\n      status: "True"',
  ])
    t.match(text, part);
  t.ok(readdirSync(join(mesh.directory, 'manifests')).every((name) => name.endsWith('.yaml')));
});

test('a pod may use no address but its own', { timeout: 60_000 }, async (t) => {
  await mesh.must('exec', 'shopper.shop', '--', 'ip', 'addr', 'add', '169.254.7.127/32', 'dev', 'lo');
  const { addresses } = await mesh.pod('web.shop');
  const { exitCode } = await mesh.lab(
    'exec',
    'shopper.shop',
    '--',
    'curl',
    '-sS',
    '-m',
    '1',
    '--interface',
    '169.254.7.127',
    `http://${addresses[0]}:8080/`,
  );
  t.equal(exitCode, 28, 'its packets are dropped');
});

test('two labs at once have the same addresses and do not meet', { timeout: 60_000 }, async (t) => {
  await using other = await Mesh.up(SECOND, NO_MESH);
  await other.apply(shop);
  await other.ready([]);
  const [one, two] = [await mesh.pod('shopper.shop'), await other.pod('shopper.shop')];
  t.same(one.addresses, two.addresses);
  t.not(one.netns, two.netns);
  t.match(await (await other.prober('shopper.shop')).probe({ host: WEB_VIP, port: 80 }), {
    outcome: 'connected',
    server: 'web',
  });
  t.match(await meltemi('lab', 'up', '--name', FIRST, '--no-mesh'), {
    exitCode: 1,
    stderr: /lab .* is up already/,
  });
});

test('down leaves neither a process nor a file', { timeout: 60_000 }, async (t) => {
  const marker = markerOf(FIRST);
  t.ok(markedProcesses(marker).length > 4);
  await mesh[Symbol.asyncDispose]();
  t.same(markedProcesses(marker), []);
  t.notOk(labNames().includes(FIRST));
  t.match(await meltemi('lab', 'status', '--name', FIRST), {
    exitCode: 1,
    stderr: /there is no lab .*; start it with/,
  });
});

test('a supervisor that is killed takes everything with it, and the next command removes the rest', {
  timeout: 60_000,
}, async (t) => {
  const doomed = await Mesh.up(THIRD, NO_MESH);
  await doomed.apply(shop);
  const { pid } = await doomed.ready([]);
  const marker = markerOf(THIRD);
  process.kill(pid, 'SIGKILL');
  await doomed.lab('down');
  t.same(markedProcesses(marker), []);
  t.notOk(labNames().includes(THIRD));
});

async function readCommand(name: string): Promise<unknown> {
  const { pids } = await mesh.pod(`${name}.shop`);
  return readFileSync(`/proc/${pids[0]}/cmdline`, 'utf8').split('\0').filter(Boolean);
}

function markerOf(name: string): string {
  return (JSON.parse(readFileSync(new LabLayout(name).labFile, 'utf8')) as LabFile).marker;
}
