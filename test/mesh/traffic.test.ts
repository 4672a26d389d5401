/** What applications do with connections: all of it must look through the mesh as it looks without one. */

import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import root, { test } from 'tap';
import { Capture } from '../support/capture.js';
import { nodeOf, until } from '../support/mesh.js';
import type { Prober, Target } from '../support/prober.js';
import { callerId, SERVERS_NAME, SERVERS_VIP, serverId, startTown, type Town, theServers } from './town.js';

// Each test has a limit of its own, and the runner has one for the file.
root.setTimeout(0);

let town: Town;

test('a town with two nodes comes up', async () => {
  town = await startTown('traffic');
});

test('a server that speaks first is heard, by every way to it', async (t) => {
  for (const target of ways()) {
    const greeting = await town.caller.probe(target);
    t.match(greeting, { outcome: 'connected' }, `${target.host}`);
  }
});

test('the server sees the address of the client and the access records name both', async (t) => {
  const [client, server] = [town.mesh.accessLog('node-1'), town.mesh.accessLog('node-2')];
  const talk = await town.caller.open(town.at('server.app'));
  t.equal(talk.greeting.peer?.split(':')[0], town.at('caller.app').host);
  // Connections of former tests may be recorded only now: this one is told by its size.
  await talk.tell('up 12345');
  await talk.push(12_345);
  await talk.line();
  await talk.close();
  const [outbound] = await client.wait('the outbound record', ({ bytes_sent: bytes }) => bytes === 12_354);
  const [inbound] = await server.wait('the inbound record', ({ bytes_recv: bytes }) => bytes === 12_354);
  t.equal(outbound?.['src.addr'], talk.greeting.local);
  const identities = { 'src.identity': callerId, 'dst.identity': serverId };
  t.match(outbound, { direction: 'outbound', ...identities, message: 'connection complete' });
  t.match(inbound, { direction: 'inbound', ...identities, message: 'connection complete' });
  t.equal(outbound?.bytes_recv, inbound?.bytes_sent, 'both count the same bytes');
  t.equal(outbound?.bytes_sent, inbound?.bytes_recv);
});

test('a Service spreads connections over its pods', async (t) => {
  const { ok, servers } = await town.caller.churn({ ...theServers, count: 200 });
  t.equal(ok, 200);
  t.ok((servers.server ?? 0) > 50 && (servers.second ?? 0) > 50, JSON.stringify(servers));
});

test('a client that has finished sending still receives', async (t) => {
  for (const target of pairs()) {
    const talk = await town.caller.open(target);
    await talk.tell('eof');
    const { sent, sum } = await talk.push(3_000_000);
    await talk.halfClose();
    t.equal(await talk.line(), `sum ${sent} ${sum}`, target.host);
    t.match(await talk.end(), { how: 'eof' });
    await talk.close();
  }
});

test('a server that has finished sending still receives', async (t) => {
  for (const [index, target] of pairs().entries()) {
    const talk = await town.caller.open(target);
    await talk.tell(`first half-${index}`);
    t.match(await talk.end(), { how: 'eof' });
    const { sent, sum } = await talk.push(3_000_000);
    await talk.close();
    t.equal(await fate(town.caller, target, `half-${index}`), `eof ${sent} ${sum}`, target.host);
  }
});

test('a reset of one side is a reset on the other', async (t) => {
  for (const [index, target] of pairs().entries()) {
    const fromServer = await town.caller.open(target);
    await fromServer.tell('reset');
    t.match(await fromServer.end(), { how: 'reset' }, `server resets, ${target.host}`);
    const fromClient = await town.caller.open(target);
    t.equal(await fromClient.ask(`watch reset-${index}`), 'ok');
    await fromClient.close({ reset: true });
    const empty = createHash('sha256').digest('hex');
    t.equal(await fate(town.caller, target, `reset-${index}`), `reset 0 ${empty}`, `client resets, ${target.host}`);
  }
});

test('1 GB arrives unchanged, in both directions', { timeout: 120_000 }, async (t) => {
  const bytes = 1_000_000_000;
  const up = await town.caller.upload({ ...town.at('server.app'), bytes, timeout: 60 });
  const down = await town.caller.download({ ...town.at('server.app'), bytes, timeout: 60 });
  t.match(up, { bytes, same: true }, `up: ${(up.bytes * 8e-9) / up.seconds} Gbit/s`);
  t.match(down, { bytes, same: true }, `down: ${(down.bytes * 8e-9) / down.seconds} Gbit/s`);
});

test('many streams at once do not mix', { timeout: 60_000 }, async (t) => {
  const streams = await town.caller.streams({ ...theServers, workers: 32, pause: 0 });
  await until('100 MB have gone round', async () => (await streams.progress()).bytes > 100_000_000, 40_000);
  t.match(await streams.stop(), { streams: 32, wrong: 0, cut: 0 });
});

test('5,000 short connections all succeed', { timeout: 120_000 }, async (t) => {
  const { ok, lastError } = await town.caller.churn({ ...theServers, count: 5000, workers: 16 });
  t.equal(ok, 5000, lastError);
});

// Each is delivered under the address of the client; from a port that the client itself uses the two would be taken
// for one. Before deliveries had ports of their own, one in some thousand was reset.
test('5,000 short plaintext connections from outside of the mesh all succeed', { timeout: 120_000 }, async (t) => {
  const { ok, lastError } = await town.stranger.churn({ ...town.at('neighbour.app'), count: 5000, workers: 16 });
  t.equal(ok, 5000, lastError);
});

test('a connection to the own pod works and stays out of the tunnel', async (t) => {
  const self = await town.mesh.prober('server.app');
  t.match(await self.probe({ host: '127.0.0.1', port: 8080 }), { outcome: 'connected', server: 'server' });
  t.match(await self.probe(town.at('server.app')), { outcome: 'connected', server: 'server' });
  t.match(await self.probe(town.at('server.app', 6)), { outcome: 'connected', server: 'server' });
  const answers = await self.churn({ ...theServers, count: 20 });
  t.match(answers, { ok: 20 }, 'also through a Service of which it is a part itself');
});

test('a slow reader is held back in bounded memory, and loses nothing', { timeout: 60_000 }, async (t) => {
  const before = memoryOfAgents();
  const talks = await Promise.all(Array.from({ length: 8 }, () => town.caller.open(town.at('server.app'))));
  const pushed = await Promise.all(
    talks.map(async (talk, index) => {
      await talk.tell(`stall slow-${index}`);
      return talk.push(200_000_000, { timeout: 1 });
    }),
  );
  t.ok(
    pushed.every(({ blocked }) => blocked),
    `all writers are held back after ${pushed.map(({ sent }) => sent)}`,
  );
  const grown = memoryOfAgents() - before;
  t.ok(grown < 100_000_000, `the agents grew by ${Math.round(grown / 1e6)} MB for 8 stalled readers`);
  const gate = await town.caller.open(town.at('server.app'));
  for (const [index, talk] of talks.entries()) {
    t.equal(await gate.ask(`resume slow-${index}`), 'ok');
    await talk.halfClose();
    t.equal(await talk.line(), `sum ${pushed[index]?.sent} ${pushed[index]?.sum}`);
  }
});

test('between the nodes only port 15008 has payload, and none of it can be read', async (t) => {
  const hosts = ['caller.app', 'server.app', 'second.app'].flatMap((key) => [town.at(key).host, town.at(key, 6).host]);
  const filter = `tcp and (${hosts.map((host) => `host ${host}`).join(' or ')})`;
  const capture = await Capture.start(nodeOf(town.status, 'node-2').netns, filter);
  for (const target of ways()) await town.caller.probe(target);
  await capture.until((packets) => packets.filter(({ payload }) => payload.length > 0).length > 10);
  const packets = await capture.stop();
  const inClear = packets.filter(({ payload }) => payload.includes('"server"') || payload.includes('pong'));
  t.equal(inClear.length, 0);
  const elsewhere = packets.filter(
    ({ payload, srcPort, dstPort }) => payload.length > 0 && srcPort !== 15008 && dstPort !== 15008,
  );
  t.equal(elsewhere.length, 0, elsewhere.map(({ srcPort, dstPort }) => `${srcPort}>${dstPort}`).join(' '));
});

test('a client outside the mesh reaches it, a client in the mesh reaches outside', async (t) => {
  t.match(await town.stranger.probe(town.at('server.app')), { outcome: 'connected', server: 'server' });
  t.match(await town.stranger.probe(town.at('server.app', 6)), { outcome: 'connected', server: 'server' });
  t.match(await town.caller.probe(town.at('bare.street')), { outcome: 'connected', server: 'bare' });
  t.match(await town.caller.probe(town.at('bare.street', 6)), { outcome: 'connected', server: 'bare' });
});

test('where nobody listens the client is refused at once', async (t) => {
  const closed = await town.caller.probe(town.at('server.app', 4, 9));
  t.match(closed, { outcome: 'refused' });
  t.not(closed.how, 'timeout');
  t.match(await town.caller.probe({ host: SERVERS_VIP, port: 81 }), { outcome: 'refused', how: /reset|eof|refused/ });
  t.match(await town.stranger.probe(town.at('server.app', 4, 9)), { outcome: 'refused', how: /reset|eof|refused/ });
});

test('the town goes', async (t) => {
  await town[Symbol.asyncDispose]();
  t.pass();
});

function ways(): Target[] {
  return [
    town.at('server.app'),
    town.at('server.app', 6),
    theServers,
    { host: SERVERS_NAME, port: 80, family: 4 },
    { host: SERVERS_NAME, port: 80, family: 6 },
    { host: 'servers', port: 80 },
    { host: SERVERS_VIP, port: 82 },
  ];
}

/** The same node and the other, each in both families. */
function pairs(): { host: string; port: number }[] {
  return [town.at('server.app'), town.at('server.app', 6), town.at('neighbour.app'), town.at('neighbour.app', 6)];
}

async function fate(prober: Prober, target: Target, key: string): Promise<string> {
  const asking = await prober.open(target);
  let answer = 'open';
  await until(`the server saw the end of ${key}`, async () => {
    answer = await asking.ask(`fate ${key}`);
    return answer !== 'open';
  });
  await asking.close();
  return answer;
}

function memoryOfAgents(): number {
  return town.status.nodes.reduce((sum, { agentPid }) => {
    const match = /VmRSS:\s+(\d+) kB/.exec(readFileSync(`/proc/${agentPid}/status`, 'utf8'));
    return sum + Number(match?.[1] ?? 0) * 1000;
  }, 0);
}
