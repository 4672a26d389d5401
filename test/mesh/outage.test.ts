/**
 * The control plane is away for an hour, and then for longer than certificates live. The agents' clocks are moved
 * (libfaketime), timers and all; everything else is as ever.
 */
import { globSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'tap';
import { nodeOf, until } from '../support/mesh.js';
import { Program } from '../support/program.js';
import { startTown, type Town, theServers } from './town.js';

const NODES = ['node-1', 'node-2'];
const [library] = globSync('/usr/lib/*/faketime/libfaketimeMT.so.1');

test('an hour without a control plane changes nothing, a day closes', { timeout: 300_000 }, async (t) => {
  if (library === undefined) throw new Error('libfaketime is missing: bin/prerequisites test');
  await using town = await startTown('outage');
  const { mesh, caller } = town;
  const clock = join(mesh.directory, 'clock');
  writeFileSync(clock, '+0\n');
  for (const node of NODES) {
    const agent = startAgent(town, node, {
      LD_PRELOAD: library,
      FAKETIME_TIMESTAMP_FILE: clock,
      FAKETIME_NO_CACHE: '1',
    });
    const isAtWork = async () => (await mesh.agent(node, '/').catch(() => '')).includes(`process ${agent.child.pid}\n`);
    await until(`the agent whose clock can be moved is at work on ${node}`, isAtWork, 60_000, () => agent.output);
  }
  const early = await caller.open(town.at('server.app'));
  t.equal(await early.ask('ping early'), 'pong early');
  await mesh.daemon('stop', 'control-plane', true);

  writeFileSync(clock, '+61m\n');
  const log = mesh.accessLog('node-1');
  const later = await caller.open(town.at('second.app'));
  t.equal(await later.ask('ping later'), 'pong later', 'a pod that was never called before answers');
  t.equal(await early.ask('ping still'), 'pong still', 'what was open stays so');
  const loop = await caller.connecting({ ...theServers, workers: 2, pause: 0.005 });
  await until('many more connect', async () => (await loop.progress()).ok >= 100);
  t.match(await loop.stop(), { failed: {} });
  const [record] = await log.wait('they are recorded', ({ because }) => because === 'service-endpoint');
  const anHourOn = Date.now() + 3_600_000;
  t.ok(Date.parse(String(record?.time)) > anHourOn, `for the agent an hour has passed: ${record?.time}`);

  writeFileSync(clock, '+25h\n');
  const late = await caller.connecting({ ...theServers, workers: 1, pause: 0.005 });
  const [refused] = await log.wait('certificates have expired', ({ error }) => error !== undefined);
  t.match(refused?.error, /certificate of spiffe:.* has expired/);
  const { ok } = await late.progress();
  await until('more are refused', async () => ((await late.progress()).failed.reset ?? 0) >= 20);
  t.match(await late.stop(), { ok });
});

function startAgent(town: Town, node: string, env: NodeJS.ProcessEnv): Program {
  const { mesh } = town;
  const config = join(mesh.directory, 'nodes', node, 'agent.yaml');
  const meltemi = join(import.meta.dirname, '../../../bin/meltemi');
  const program = new Program({ netns: nodeOf(town.status, node).netns }, [meltemi, 'agent', '--config', config], {
    ...process.env,
    ...env,
  });
  mesh.onClose(() => program.close());
  return program;
}
