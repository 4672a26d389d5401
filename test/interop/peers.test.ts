/** HBONE against implementations that are none of ours, both ways: a stock Envoy, and Node's http2. */
import { homedir } from 'node:os';
import { join } from 'node:path';
import root, { type Test, test } from 'tap';
import { installEnvoy } from '../bench/envoy.js';
import { identityOf, PORT, serverId, startTown, type Town } from '../mesh/town.js';
import type { TestCa } from '../support/certificates.js';
import { HbonePeer, type Identity } from '../support/hbone-client.js';
import { labCa } from '../support/lab-ca.js';
import { serverPod } from '../support/manifests.js';
import { addressOf, placeOf, podOf, until } from '../support/mesh.js';
import type { Target } from '../support/prober.js';
import { Program } from '../support/program.js';
import { envoyClient, envoyServer } from './envoy-config.js';

// Each test has a limit of its own, and the runner has one for the file.
root.setTimeout(0);

let town: Town;
let ca: TestCa;
let envoy: string;
const LISTEN_PORT = 19_001;
/** Outside the mesh, but the mesh is told that it speaks HBONE itself. */
const FOREIGN = ['foreign-envoy', 'foreign-node'];

test('a town comes up, with pods in it that speak HBONE themselves', { timeout: 180_000 }, async () => {
  envoy = await installEnvoy(process.env.MELTEMI_TEST_CACHE ?? join(homedir(), '.cache/meltemi'));
  const labels = { 'networking.istio.io/tunnel': 'http' };
  town = await startTown('interop', {
    manifests: FOREIGN.map((name) => serverPod({ name, namespace: 'street', node: 2, labels }, [PORT])),
  });
  ca = labCa(town.mesh);
});

test('Envoy as a client is let in, with its identity in the record', { timeout: 60_000 }, async (t) => {
  const server = town.at('server.app').host;
  const identity = certificateOf('stranger', serverId);
  const config = { listenPort: LISTEN_PORT, authority: `${server}:${PORT}`, address: server, identity };
  startEnvoy('stranger.street', envoyClient(config));
  const target = { host: '127.0.0.1', port: LISTEN_PORT };
  await until('Envoy listens', async () => (await town.stranger.probe(target)).outcome === 'connected');
  const log = town.mesh.accessLog('node-2');
  t.match(await town.stranger.probe(target), { outcome: 'connected', server: 'server' });
  const [record] = await log.wait('the inbound record', ({ direction }) => direction === 'inbound');
  t.match(record, { 'src.identity': identityOf('stranger', 'street'), 'dst.identity': serverId });
  await allKindsOfTraffic(t, 'stranger', target);
});

test('Envoy as a server is tunnelled to, and reads our headers', { timeout: 60_000 }, async (t) => {
  const pod = podOf(town.status, 'foreign-envoy.street');
  const program = startEnvoy(
    'foreign-envoy.street',
    envoyServer({ address: addressOf(pod, 4), appPort: PORT, identity: certificateOf('foreign-envoy') }),
  );
  const target = town.at('foreign-envoy.street');
  const log = town.mesh.accessLog('node-1');
  await until('Envoy listens', async () => (await town.caller.probe(target)).outcome === 'connected');
  const [record] = await log.wait('the outbound record', (each) => each['dst.identity'] !== undefined);
  t.match(record, { direction: 'outbound', 'dst.identity': identityOf('foreign-envoy', 'street') });
  await allKindsOfTraffic(t, 'caller', target);
  await until('Envoy wrote its log', () => Promise.resolve(program.output.includes('CONNECT')), 15_000);
  const line = program.output.split('\n').find((each) => each.startsWith('CONNECT')) ?? '';
  t.match(line, new RegExp(`CONNECT ${target.host}:${PORT} peer=${identityOf('caller')} `), line);
  t.match(line, /forwarded=for="?\d+\.\d+\.\d+\.\d+:\d+"?/);
  t.match(line, /baggage=k8s\.cluster\.name=Kubernetes,k8s\.namespace\.name=app,/);
  t.match(line, /traceparent=00-[0-9a-f]{32}-[0-9a-f]{16}-0[01] 200/);
});

test('http2 of Node as a client is let in, and many tunnels share its connection', async (t) => {
  const peer = new HbonePeer('peer', placeOf(podOf(town.status, 'stranger.street')));
  town.mesh.onClose(() => peer.close());
  const address = town.at('server.app').host;
  const answer = await peer.connect({
    address,
    port: 15008,
    identity: certificateOf('stranger', serverId),
    authority: `${address}:${PORT}`,
    expect: 20,
  });
  t.match(answer, { status: 200, received: /"server": "server"/ });
});

test('http2 of Node as a server is tunnelled to, and refuses what it refuses', async (t) => {
  const pod = podOf(town.status, 'foreign-node.street');
  const peer = new HbonePeer('server', placeOf(pod));
  town.mesh.onClose(() => peer.close());
  const identity = certificateOf('foreign-node');
  const listening = await peer.listen({ address: addressOf(pod, 4), port: 15008, identity, forwardPort: PORT });
  t.match(listening, { outcome: 'connected' });
  const target = town.at('foreign-node.street');
  t.match(await town.caller.probe(target), { outcome: 'connected', server: 'foreign-node' });
  const [request] = await peer.served();
  t.match(request, {
    ':method': 'CONNECT',
    ':authority': `${target.host}:${PORT}`,
    forwarded: /^for="?[0-9.]+:\d+"?/,
    baggage: /k8s.namespace.name=app/,
    traceparent: /^00-/,
    peer: `URI:${identityOf('caller')}`,
  });
  t.notOk(Object.hasOwn(request ?? {}, ':scheme'), 'a CONNECT has no scheme');
  t.notOk(Object.hasOwn(request ?? {}, ':path'), 'nor a path');
  await allKindsOfTraffic(t, 'caller', target);
});

test('a server that shows the certificate of another is refused', async (t) => {
  const pod = podOf(town.status, 'foreign-node.street');
  const peer = new HbonePeer('impostor', placeOf(pod));
  town.mesh.onClose(() => peer.close());
  const identity = certificateOf('foreign-envoy');
  t.match(await peer.listen({ address: addressOf(pod, 6), port: 15008, identity, forwardPort: PORT }), {
    outcome: 'connected',
  });
  t.match(await town.caller.probe(town.at('foreign-node.street', 6)), { outcome: 'refused', how: /reset|eof/ });
  t.same(await peer.served(), []);
});

test('the town goes', async () => {
  ca[Symbol.dispose]();
  await town[Symbol.asyncDispose]();
});

async function allKindsOfTraffic(t: Test, who: 'caller' | 'stranger', target: Target): Promise<void> {
  const prober = town[who];
  const bytes = 50_000_000;
  t.match(await prober.upload({ ...target, bytes }), { bytes, same: true }, 'bulk up');
  t.match(await prober.download({ ...target, bytes }), { bytes, same: true }, 'bulk down');
  t.match(await prober.churn({ ...target, count: 300 }), { ok: 300 }, 'many short ones');
  const streams = await prober.streams({ ...target, workers: 8 });
  await until('they run', async () => (await streams.progress()).bytes > 20_000_000);
  t.match(await streams.stop(), { streams: 8, wrong: 0, cut: 0 }, 'many at once');
  const half = await prober.open(target);
  await half.tell('eof');
  const { sent, sum } = await half.push(1_000_000);
  await half.halfClose();
  t.equal(await half.line(), `sum ${sent} ${sum}`, 'half-close');
}

function certificateOf(name: string, expect?: string): Identity {
  return { ...ca.issue({ uris: [identityOf(name, 'street')] }), ca: ca.root, ...(expect !== undefined && { expect }) };
}

/** The pod has a /run of its own, so that the configuration goes on the command line. */
function startEnvoy(pod: string, config: object): Program {
  const command = [envoy, '--config-yaml', JSON.stringify(config), '--disable-hot-restart', '--log-level', 'warn'];
  const program = new Program(placeOf(podOf(town.status, pod)), [...command, '--concurrency', '1']);
  town.mesh.onClose(() => program.close());
  return program;
}
