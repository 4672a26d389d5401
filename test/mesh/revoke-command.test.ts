/** A certificate is revoked at the control plane: its live connections end, its pod gets another, others go on. */
import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import root, { test } from 'tap';
import { nodeOf, until } from '../support/mesh.js';
import { callerId, identityOf, serverId, startTown, type Town } from './town.js';

// Each test has a limit of its own, and the runner has one for the file.
root.setTimeout(0);

let town: Town;

test('a town comes up', { timeout: 60_000 }, async () => {
  town = await startTown('revoke-command');
});

test('a server’s revoked certificate ends what was under it, another takes its place, and nobody else notices', {
  timeout: 60_000,
}, async (t) => {
  const { caller, mesh } = town;
  const live = await caller.open(town.at('server.app'));
  const untouched = await caller.open(town.at('second.app'));
  const streams = await caller.streams({ ...town.at('second.app'), workers: 2 });
  t.match([live.greeting.server, untouched.greeting.server], ['server', 'second']);
  const log = mesh.accessLog('node-1');
  const countedBefore = await countedAsRevoked('node-1');

  const serial = await revoke('node-2', serverId);

  t.match((await live.end(10)).how, /eof|reset/, 'the live connection ends');
  const [closed] = await log.wait('a record of the end', ({ error }) => error?.includes('revoked') === true);
  t.match(closed, { direction: 'outbound', 'dst.identity': serverId, 'src.identity': callerId });
  t.ok((await countedAsRevoked('node-1')) > countedBefore, 'counted as CERT_REVOKED');
  await connects('server.app');
  t.not(await serialOf('node-2', serverId), serial, 'with another key and certificate');

  t.equal(await untouched.ask('ping still'), 'pong still', 'another pod of that node goes on');
  t.match(await caller.churn({ ...town.at('second.app'), count: 20 }), { ok: 20 });
  t.match(await streams.stop(), { wrong: 0, cut: 0 });
});

test('a caller’s revoked certificate ends what was under it, and the caller gets another', {
  timeout: 60_000,
}, async (t) => {
  const { caller, mesh } = town;
  const neighbour = await mesh.prober('neighbour.app');
  const target = town.at('second.app');
  const live = await neighbour.open(target);
  t.equal(await live.ask('ping before'), 'pong before');
  const log = mesh.accessLog('node-2');
  const serial = await revoke('node-1', identityOf('neighbour'));
  t.match((await live.end(10)).how, /eof|reset/, 'the live connection ends');
  const [closed] = await log.wait('a record of the end', ({ error }) => error?.includes('revoked') === true);
  t.match(closed, { direction: 'inbound', 'src.identity': identityOf('neighbour') });
  t.equal(await countedAsRevoked('node-2'), 1, 'counted as CERT_REVOKED');
  await until('it is let in again', async () => (await neighbour.probe(target)).outcome === 'connected');
  t.not(await serialOf('node-1', identityOf('neighbour')), serial);
  t.match(await caller.churn({ ...target, count: 20 }), { ok: 20 }, 'another caller of the same node goes on');
});

test('what is revoked stays so when the control plane starts again, and agents live with it', {
  timeout: 60_000,
}, async (t) => {
  const { mesh } = town;
  const before = readFileSync(join(mesh.directory, 'ca/ca-crl.pem'), 'utf8');
  const page = async () => JSON.parse(await mesh.control('/ca')) as { revoked: string[] };
  const { revoked } = await page();
  t.equal(revoked.length, 2);
  await mesh.daemon('restart', 'control-plane', true);
  await until('the control plane is back', async () => (await page()).revoked.length === 2);
  t.same((await page()).revoked, revoked);
  t.equal(readFileSync(join(mesh.directory, 'ca/ca-crl.pem'), 'utf8'), before);
  await mesh.daemon('restart', 'node-1', true);
  await connects('server.app');
});

test('the town goes', async () => {
  await town[Symbol.asyncDispose]();
});

/** Waits until the caller reaches it. */
function connects(pod: string): Promise<void> {
  return until(`${pod} is reached`, async () => {
    return (await town.caller.probe({ ...town.at(pod), timeout: 3 })).outcome === 'connected';
  });
}

/** Revokes what a node has for an identity; resolves with its serial. */
async function revoke(node: string, identity: string): Promise<string> {
  const serial = await serialOf(node, identity);
  const page = JSON.parse(await town.mesh.control(`/ca/revoke?serial=${serial}`, 'POST')) as { revoked: string[] };
  if (!page.revoked.includes(serial)) throw new Error(`${serial} is not among ${page.revoked}`);
  return serial;
}

async function serialOf(node: string, identity: string): Promise<string> {
  const dump = JSON.parse(await town.mesh.agent(node, '/config_dump')) as {
    certificates: { identity: string; serial: string }[];
  };
  const found = dump.certificates.find((each) => each.identity === identity);
  if (found === undefined) throw new Error(`${node} has no certificate of ${identity}`);
  return found.serial;
}

/** Connections that a node counts under this flag. */
async function countedAsRevoked(node: string): Promise<number> {
  const { agentPid } = nodeOf(await town.mesh.status(), node);
  const script = "fetch('http://127.0.0.1:15020/metrics').then((page) => page.text()).then(console.log)";
  const metrics = execFileSync('nsenter', ['-t', String(agentPid), '-n', process.execPath, '-e', script]).toString();
  const counts = [...metrics.matchAll(/^istio_tcp_connections_\w+\{.*"CERT_REVOKED".* (\d+)$/gm)];
  return counts.reduce((sum, [, count]) => sum + Number(count), 0);
}
