/** Parts of the mesh stop, die and come back while traffic runs. What must not be noticed is counted, and so is what is. */
import { readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import root, { test } from 'tap';
import { NAMESERVER } from '../../src/lab/addresses.js';
import { blockEventLoop } from '../support/agent-loop.js';
import { Capture, type Packet } from '../support/capture.js';
import { authorizationPolicy, idlePod, type Manifest, serverPod } from '../support/manifests.js';
import { nodeOf, until } from '../support/mesh.js';
import { CAPTURED_PODS, callerId, PORT, SERVERS_NAME, startTown, type Town, theServers } from './town.js';

// Each test has a limit of its own, and the runner has one for the file.
root.setTimeout(0);

let town: Town;
const PAUSE_MS = 5000;

test('a town comes up', async () => {
  town = await startTown('faults');
});

test('an event loop blocked for 5 s is noticed by no stream, cached connection or look-up', {
  timeout: 60_000,
}, async (t) => {
  const { caller, mesh } = town;
  const target = town.at('server.app');
  await caller.churn({ ...target, count: 5 });
  const streams = await caller.streams({ ...target, workers: 8 });
  const backwards = await (await mesh.prober('neighbour.app')).streams({ ...target, workers: 2 });
  const connecting = await caller.connecting({ ...target, workers: 2 });
  const resolving = await caller.resolving({ server: NAMESERVER.ipv4, name: SERVERS_NAME });
  await until('all of it runs', async () => {
    const all = await Promise.all([streams.progress(), backwards.progress()]);
    const [{ ok }, resolved] = await Promise.all([connecting.progress(), resolving.progress()]);
    return all.every(({ bytes }) => bytes > 10_000_000) && ok > 20 && resolved.ok > 20;
  });
  const before = { ...(await connecting.progress()) };
  const resolvedBefore = (await resolving.progress()).ok;
  const { nodes } = await mesh.status();
  const pauses = await Promise.all(nodes.map(({ agentPid }) => blockEventLoop(agentPid, PAUSE_MS)));
  const connected = await connecting.stop();
  const resolved = await resolving.stop();
  for (const one of [await streams.stop(), await backwards.stop()]) {
    t.match(one, { wrong: 0, cut: 0 }, `0 of ${one.bytes} bytes lost`);
    t.ok(one.maxGapMs < 1000, `the longest wait of a block was ${Math.round(one.maxGapMs)} ms`);
  }
  t.same(connected.failed, {}, connected.lastError);
  t.ok(connected.ok - before.ok > 100, `${connected.ok - before.ok} new connections in that time`);
  t.ok(connected.maxMs < 1000, `the slowest took ${Math.round(connected.maxMs)} ms`);
  t.match(resolved, { failed: 0 });
  t.ok(resolved.ok - resolvedBefore > 50, `${resolved.ok - resolvedBefore} look-ups in that time`);
  t.ok(resolved.maxMs < 1000, `the slowest took ${Math.round(resolved.maxMs)} ms`);
  t.ok(
    pauses.every((ms) => ms >= PAUSE_MS),
    `the event loops of both agents stood still for ${pauses.join(' and ')} ms`,
  );
});

test('a dead control plane is noticed by nobody, and changes arrive when it is back', {
  timeout: 60_000,
}, async (t) => {
  const { caller, mesh } = town;
  const streams = await caller.streams({ ...theServers, workers: 4 });
  await mesh.daemon('stop', 'control-plane', true);
  t.match(await caller.churn({ ...theServers, count: 100 }), { ok: 100 });
  t.match(await town.stranger.probe(town.at('server.app')), { outcome: 'connected' });
  await mesh.apply([denyStranger]);
  await mesh.daemon('start', 'control-plane');
  await until('the policy written meanwhile is in force', async () => {
    return (await town.stranger.probe(town.at('server.app'))).outcome === 'refused';
  });
  await mesh.change({ remove: [denyStranger] });
  t.match(await town.stranger.probe(town.at('server.app')), { outcome: 'connected' });
  t.match(await streams.stop(), { wrong: 0, cut: 0 });
});

test('an agent that starts while the control plane is away is not ready, and lets nothing out in clear', {
  timeout: 90_000,
}, async (t) => {
  const { caller, mesh } = town;
  const capture = await clearTextCapture();
  await mesh.daemon('stop', 'control-plane', true);
  await mesh.daemon('restart', 'node-1', true);
  await until('the agent answers', async () => (await mesh.agent('node-1', '/')).length > 0);
  const { nodes } = await mesh.status();
  t.equal(nodes.find(({ name }) => name === 'node-1')?.agentReady, false, 'the agent is not ready');
  const attempts = await Promise.all(
    Array.from({ length: 5 }, () => caller.probe({ ...town.at('server.app'), timeout: 3 })),
  );
  t.ok(
    attempts.every(({ outcome }) => outcome === 'refused'),
    'what nobody knows is refused',
  );
  await mesh.daemon('start', 'control-plane');
  await until('connections work again', async () => {
    return (await caller.probe({ ...town.at('server.app'), timeout: 3 })).outcome === 'connected';
  });
  t.same(inClear(await capture.stop()), [], 'nothing went in clear');
});

test('a killed agent cuts its connections, comes back by itself, and nothing goes in clear', {
  timeout: 90_000,
}, async (t) => {
  const { caller, mesh } = town;
  const target = town.at('server.app');
  const capture = await clearTextCapture();
  const streams = await caller.streams({ ...target, workers: 8 });
  const connecting = await caller.connecting({ ...target, workers: 2, timeout: 5 });
  await until('it runs', async () => (await connecting.progress()).ok > 20 && (await streams.progress()).streams === 8);
  const killed = performance.now();
  process.kill(nodeOf(await mesh.status(), 'node-1').agentPid, 'SIGKILL');
  await until('the streams are cut', async () => (await streams.progress()).cut === 8);
  const { ok } = await connecting.progress();
  await until('new connections succeed again', async () => (await connecting.progress()).ok > ok + 20);
  const outage = Math.round(performance.now() - killed);
  const after = await connecting.stop();
  const { cut, wrong, hows } = await streams.stop();
  t.equal(wrong, 0, 'no stream got a wrong byte before its end');
  t.pass(
    `cut: ${cut} streams (${JSON.stringify(hows)}); refused: ${JSON.stringify(after.failed)}; again after ${outage} ms`,
  );
  t.same(inClear(await capture.stop()), [], 'nothing went in clear');
});

test('a closed pod of an agent that is dead stays captured for newcomers too', { timeout: 60_000 }, async (t) => {
  const { mesh } = town;
  const capture = await clearTextCapture();
  await mesh.daemon('stop', 'node-1', true);
  const attempts = await Promise.all(
    Array.from({ length: 10 }, () => town.caller.probe({ ...town.at('server.app'), timeout: 3 })),
  );
  t.ok(attempts.every(({ outcome }) => outcome === 'refused'));
  await mesh.daemon('start', 'node-1');
  await until('connections work again', async () => {
    return (await town.caller.probe({ ...town.at('server.app'), timeout: 3 })).outcome === 'connected';
  });
  t.same(inClear(await capture.stop()), []);
});

test('an agent replaced by its successor refuses nobody', { timeout: 60_000 }, async (t) => {
  const { caller, mesh } = town;
  const target = town.at('server.app');
  const streams = await caller.streams({ ...target, workers: 4 });
  const connecting = await caller.connecting({ ...target, workers: 4, pause: 0.001 });
  const inbound = await town.stranger.connecting({ ...town.at('neighbour.app'), workers: 2, pause: 0.001 });
  await until('it runs', async () => (await connecting.progress()).ok > 100 && (await inbound.progress()).ok > 100);
  const old = nodeOf(await mesh.status(), 'node-1').agentPid;
  await mesh.daemon('restart', 'node-1');
  await until('the successor is at work', async () => {
    const { agentPid, agentReady } = nodeOf(await mesh.status(), 'node-1');
    return agentReady && agentPid !== old;
  });
  const { ok } = await connecting.progress();
  await until('connections go on', async () => (await connecting.progress()).ok > ok + 100);
  const [out, into] = [await connecting.stop(), await inbound.stop()];
  t.same(out.failed, {}, `${out.ok} connections out of the node, none refused: ${out.lastError}`);
  t.same(into.failed, {}, `${into.ok} connections into the node, none refused: ${into.lastError}`);
  const { cut, wrong } = await streams.stop();
  t.equal(wrong, 0);
  t.pass(`${cut} of 4 long streams ended with the drain of the old agent`);
});

test('a policy that would refuse a live connection ends it, and the record says so', { timeout: 60_000 }, async (t) => {
  const { caller, stranger, mesh } = town;
  const tunnelled = await caller.open(town.at('server.app'));
  const plain = await stranger.open(town.at('server.app'));
  const allowed = await caller.open(town.at('second.app'));
  const log = mesh.accessLog('node-2');
  const deny = authorizationPolicy('deny-all', 'app', {
    selector: { matchLabels: { app: 'server' } },
    action: 'DENY',
    rules: [{}],
  });
  await mesh.change({ apply: [deny] });
  t.match(await tunnelled.end(), { how: /reset|eof/ }, 'the tunnelled one ends');
  t.match(await plain.end(), { how: /reset|eof/ }, 'the plaintext one ends');
  t.equal(await allowed.ask('ping still'), 'pong still', 'another pod is not concerned');
  const records = await log.wait('both have a record', ({ error }) => error?.includes('policy') === true, 2);
  t.same(records.map(({ direction }) => direction).sort(), ['inbound', 'inbound-plaintext']);
  for (const { error = '' } of records) t.match(error, /policy change/, error);
  const identities = records.map((record) => record['src.identity']).filter(Boolean);
  t.same(identities, [callerId]);
  await mesh.change({ remove: [deny] });
  t.match(await caller.probe(town.at('server.app')), { outcome: 'connected' });
});

test('bad manifests are named, and what was good before stays', { timeout: 60_000 }, async (t) => {
  const { mesh, stranger } = town;
  await mesh.change({ apply: [denyStranger] });
  t.match(await stranger.probe(town.at('server.app')), { outcome: 'refused' });
  const folder = join(mesh.directory, 'manifests');
  const good = readdirSync(folder, { recursive: true, encoding: 'utf8' }).find((name) => name.includes('no-strangers'));
  if (good === undefined) throw new Error('the lab has no file for the policy');
  const former = readFileSync(join(folder, good));
  const bad = [
    ['broken.yaml', 'apiVersion: v1\nkind: [unclosed\n'],
    ['no-object.yaml', '- just\n- a list\n'],
    [
      'bad-service.yaml',
      `{"apiVersion":"v1","kind":"Service","metadata":{"name":"x","namespace":"app"},"spec":{"ports":7}}`,
    ],
    [good, `${JSON.stringify({ ...denyStranger, spec: { action: 'PERHAPS', rules: 7 } })}\n`],
  ] as const;
  for (const [name, text] of bad) writeFileSync(join(folder, name), text);
  await mesh.change({});
  t.match(await stranger.probe(town.at('server.app')), { outcome: 'refused' }, 'the good policy is still in force');
  t.match(await town.caller.churn({ ...theServers, count: 20 }), { ok: 20 });
  for (const [name] of bad) t.match(mesh.logs(200), new RegExp(name.replaceAll('.', '\\.')), `${name} is reported`);
  for (const [name] of bad) rmSync(join(folder, name));
  writeFileSync(join(folder, good), former);
  await mesh.change({ remove: [denyStranger] });
  t.match(await stranger.probe(town.at('server.app')), { outcome: 'connected' });
});

test('pods that come and go under load disturb nobody else', { timeout: 90_000 }, async (t) => {
  const { mesh, caller } = town;
  const connecting = await caller.connecting({ ...theServers, workers: 2 });
  const passers: Manifest[] = [1, 2].flatMap((node) => [
    serverPod({ name: `passer-${node}`, namespace: 'app', node, serviceAccount: 'passer' }, [PORT]),
    idlePod({ name: `guest-${node}`, namespace: 'app', node, serviceAccount: `guest-${node}` }),
  ]);
  const keys = passers.map(({ metadata }) => `${metadata.name}.${metadata.namespace}`);
  for (let round = 0; round < 3; round++) {
    await mesh.apply(passers);
    await mesh.ready([...CAPTURED_PODS, ...keys]);
    const guest = await mesh.prober('guest-1.app');
    const { addresses } = await mesh.pod('passer-2.app');
    t.match(await guest.probe({ host: addresses[0] ?? '', port: PORT }), { outcome: 'connected', server: 'passer-2' });
    await mesh.remove(passers);
    await mesh.ready(CAPTURED_PODS);
  }
  t.same((await connecting.stop()).failed, {});
});

test('the town goes', async () => {
  await town[Symbol.asyncDispose]();
});

/** Between the nodes: whatever has payload and is not the tunnel. */
function clearTextCapture(): Promise<Capture> {
  const hosts = ['caller.app', 'server.app'].flatMap((key) => [town.at(key).host, town.at(key, 6).host]);
  const filter = `tcp and not port 15008 and (${hosts.map((host) => `host ${host}`).join(' or ')})`;
  return Capture.start(nodeOf(town.status, 'node-2').netns, filter);
}

/** Payload between the caller and the server; others (stranger, probes) have their own ways. */
function inClear(packets: readonly Packet[]): string[] {
  const caller = [town.at('caller.app').host, town.at('caller.app', 6).host];
  return packets
    .filter(({ payload, srcIp, dstIp }) => payload.length > 0 && (caller.includes(srcIp) || caller.includes(dstIp)))
    .map(
      ({ srcIp, srcPort, dstIp, dstPort, payload }) => `${srcIp}:${srcPort}>${dstIp}:${dstPort} ${payload.length} B`,
    );
}

const denyStranger = authorizationPolicy('no-strangers', 'app', {
  action: 'DENY',
  rules: [{ from: [{ source: { notPrincipals: ['*'] } }] }],
});
