import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import root, { test } from 'tap';
import { CAPTURED, idlePod, NOT_CAPTURED, namespace, serverPod, service } from '../support/manifests.js';
import { Mesh, until } from '../support/mesh.js';

/** The lab with a mesh in it: pods wait for their capture, parts of the mesh come and go. */
let mesh: Mesh;
root.setTimeout(0);
root.teardown(() => mesh[Symbol.asyncDispose]());

test('a lab with a mesh is up when all parts are ready', { timeout: 60_000 }, async (t) => {
  mesh = await Mesh.up(`lab-mesh-${process.pid}`);
  const status = await mesh.status();
  t.match(status, {
    mesh: true,
    controlPlane: { ready: true, restarts: 0 },
    nodes: [{ agentReady: true }, { agentReady: true }],
  });
});

test('no process of a captured pod runs before its capture; others need not wait', { timeout: 60_000 }, async (t) => {
  await mesh.daemon('stop', 'node-1');
  await mesh.apply([
    namespace('app', CAPTURED),
    idlePod({ name: 'caller', namespace: 'app', node: 1 }),
    idlePod({ name: 'free', namespace: 'app', node: 1, labels: NOT_CAPTURED }),
    serverPod({ name: 'server', namespace: 'app', node: 2 }, [8080]),
    service({
      name: 'server',
      namespace: 'app',
      selector: { app: 'server' },
      ports: [{ port: 80, targetPort: 8080 }],
      addresses: ['10.96.78.1'],
    }),
  ]);
  const status = await mesh.settled('those that need not wait are ready', ({ pods }) =>
    ['free', 'server'].every((wanted) => pods.some(({ name, ready }) => name === wanted && ready)),
  );
  t.match(
    status.pods.find(({ name }) => name === 'caller'),
    { phase: 'Pending', ready: false, pids: [] },
  );
  await mesh.daemon('start', 'node-1');
  const { pods } = await mesh.ready(['caller.app', 'server.app']);
  t.match(
    pods.find(({ name }) => name === 'caller'),
    { phase: 'Running', redirection: 'enabled' },
  );
  t.match(
    pods.find(({ name }) => name === 'free'),
    { redirection: '' },
  );
});

test('capture is written to the Pod, as in a cluster', { timeout: 60_000 }, async () => {
  const path = join(mesh.directory, 'manifests/Pod_app_caller.yaml');
  await mesh.settled('the annotation is there', () =>
    readFileSync(path, 'utf8').includes('ambient.istio.io/redirection: enabled'),
  );
});

test('names and Services work through the mesh', { timeout: 60_000 }, async (t) => {
  const caller = await mesh.prober('caller.app');
  for (const host of ['server.app', '10.96.78.1'])
    t.match(await caller.probe({ host, port: 80 }), { outcome: 'connected', server: 'server' }, host);
});

test('a captured pod that asks the name server itself, over TCP, is answered', { timeout: 60_000 }, async (t) => {
  const own = { annotations: { 'ambient.istio.io/dns-capture': 'false' } };
  await mesh.apply([idlePod({ name: 'asker', namespace: 'app', node: 1, ...own })]);
  await mesh.ready(['caller.app', 'server.app', 'asker.app']);
  const script = 'RES_OPTIONS=use-vc getent ahostsv4 server.app';
  await until('the name is found', async () =>
    (await mesh.lab('exec', 'asker.app', '--', 'sh', '-c', script)).stdout.startsWith('10.96.78.1'),
  );
  const log = mesh.accessLog('node-1');
  await mesh.lab('exec', 'asker.app', '--', 'sh', '-c', script);
  const [record] = await log.wait('the query has a record', (each) => each['dst.addr'].endsWith(':53'));
  t.match(record, { direction: 'outbound', 'dst.service': 'kube-dns.kube-system.svc.cluster.local' });
});

test('an address among those of pods that nobody has is refused, never dialled in plaintext', {
  timeout: 60_000,
}, async (t) => {
  const log = mesh.accessLog('node-1');
  const caller = await mesh.prober('caller.app');
  t.match(await caller.probe({ host: '10.244.2.250', port: 8080 }), { outcome: 'refused' });
  const [record] = await log.wait('it has a record', (each) => each['dst.addr'].includes('10.244.2.250'));
  t.match(record, { because: 'unknown-mesh-address' });
});

test('parts of the mesh that are killed come back, and the pods did not notice', { timeout: 60_000 }, async (t) => {
  const { pods, nodes, controlPlane } = await mesh.status();
  for (const name of ['node-1', 'node-2', 'control-plane']) await mesh.daemon('restart', name, true);
  const after = await mesh.settled(
    'all are back',
    (status) =>
      status.controlPlane?.ready === true &&
      status.controlPlane.pid !== controlPlane?.pid &&
      status.nodes.every(({ agentReady, agentPid }) => agentReady && !nodes.some((node) => node.agentPid === agentPid)),
  );
  t.same(
    after.pods.map(({ pids }) => pids),
    pods.map(({ pids }) => pids),
  );
  const caller = await mesh.prober('caller.app');
  t.match(await caller.probe({ host: 'server.app', port: 80 }), { outcome: 'connected', server: 'server' });
});

test('a crashed agent is started again', { timeout: 60_000 }, async (t) => {
  const { agentPid, agentRestarts } = await mesh.node('node-1');
  process.kill(agentPid, 'SIGKILL');
  const { nodes } = await mesh.settled('it is back', (status) =>
    status.nodes.some(({ name, agentRestarts: now }) => name === 'node-1' && now > agentRestarts),
  );
  t.not(nodes.find(({ name }) => name === 'node-1')?.agentPid, agentPid);
});

test('a captured pod that is deleted is forgotten by its agent', { timeout: 60_000 }, async () => {
  await mesh.settled('the agent is ready', ({ nodes }) => nodes.every(({ agentReady }) => agentReady));
  await mesh.remove([idlePod({ name: 'caller', namespace: 'app', node: 1 })]);
  await mesh.settled('it is gone', ({ pods }) => pods.every(({ name }) => name !== 'caller'));
  await until(
    'the agent has forgotten it',
    async () => !(await mesh.agent('node-1', '/config_dump')).includes('Kubernetes//Pod/app/caller'),
  );
});

test('the lab goes', { timeout: 60_000 }, async () => {
  await mesh[Symbol.asyncDispose]();
});
