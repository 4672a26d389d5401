/** A certificate is revoked at the control plane: its live connections end, new ones are refused, others go on. */
import { execFileSync } from 'node:child_process';
import root, { test } from 'tap';
import { nodeOf, until } from '../support/mesh.js';
import { callerId, identityOf, serverId, startTown, type Town } from './town.js';

// Each test has a limit of its own, and the runner has one for the file.
root.setTimeout(0);

let town: Town;

test('a town comes up', { timeout: 60_000 }, async () => {
  town = await startTown('revoke-command');
});

test('a server with a revoked certificate is cut off, and nobody else', { timeout: 60_000 }, async (t) => {
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
  log.restart();
  for (let i = 0; i < 3; i++) t.match(await caller.probe(town.at('server.app')), { outcome: 'refused' });
  const refused = await log.wait('records of refusals', ({ error }) => error?.includes('revoked') === true, 3);
  t.match(refused[0], { direction: 'outbound', error: `the certificate of ${serverId}` });
  t.ok((await countedAsRevoked('node-1')) >= countedBefore + 3, 'counted as CERT_REVOKED');

  t.equal(await untouched.ask('ping still'), 'pong still', 'another pod of that node goes on');
  t.match(await caller.churn({ ...town.at('second.app'), count: 20 }), { ok: 20 });
  t.match(await streams.stop(), { wrong: 0, cut: 0 });
  t.not(await serialOf('node-2', identityOf('second')), serial);
});

test('a caller with a revoked certificate is let in nowhere', { timeout: 60_000 }, async (t) => {
  const { caller, mesh } = town;
  const neighbour = await mesh.prober('neighbour.app');
  const target = town.at('second.app');
  const live = await neighbour.open(target);
  t.equal(await live.ask('ping before'), 'pong before');
  const log = mesh.accessLog('node-2');
  await revoke('node-1', identityOf('neighbour'));
  t.match((await live.end(10)).how, /eof|reset/, 'the live connection ends');
  const [closed] = await log.wait('a record of the end', ({ error }) => error?.includes('revoked') === true);
  t.match(closed, { direction: 'inbound', 'src.identity': identityOf('neighbour') });
  t.equal(await countedAsRevoked('node-2'), 1, 'counted as CERT_REVOKED');
  const callerLog = mesh.accessLog('node-1');
  t.match(await neighbour.probe(target), { outcome: 'refused' });
  await callerLog.wait('the caller is told why', ({ error }) => error?.includes('certificate revoked') === true);
  t.match(await caller.churn({ ...target, count: 20 }), { ok: 20 }, 'another caller of the same node goes on');
});

test('what is revoked stays so when the control plane and the agents start again', { timeout: 60_000 }, async (t) => {
  const { caller, mesh } = town;
  const serial = await serialOf('node-2', serverId);
  await mesh.daemon('restart', 'control-plane', true);
  await until('the control plane is back', async () => (await mesh.control('/ca')).includes(serial));
  await mesh.daemon('restart', 'node-1', true);
  await until('others are served', async () => {
    return (await caller.probe({ ...town.at('second.app'), timeout: 3 })).outcome === 'connected';
  });
  t.match(await caller.probe({ ...town.at('server.app'), timeout: 3 }), { outcome: 'refused' });
});

test('a pod is back when its agent has made it a new key', { timeout: 60_000 }, async () => {
  await town.mesh.daemon('restart', 'node-2', true);
  await until('a new certificate counts', async () => {
    return (await town.caller.probe({ ...town.at('server.app'), timeout: 3 })).outcome === 'connected';
  });
});

test('the town goes', async () => {
  await town[Symbol.asyncDispose]();
});

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
