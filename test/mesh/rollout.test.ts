/** Agents follow each other under load, and die at every step of it: what is refused is counted, and must be nothing. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import root, { type Test, test } from 'tap';
import { NAMESERVER } from '../../src/lab/addresses.js';
import { authorizationPolicy, serverPod } from '../support/manifests.js';
import { nodeOf, until as untilWithin } from '../support/mesh.js';
import { Program } from '../support/program.js';
import { CAPTURED_PODS, PORT, SERVERS_NAME, startTown, type Town, theServers } from './town.js';

// Each test has a limit of its own, and the runner has one for the file.
root.setTimeout(0);

let town: Town;
/** In all: half of them on each node. */
const RESTARTS = Number(process.env.RESTARTS ?? 8);

test('a town comes up', async () => {
  town = await startTown('rollout', {
    manifests: [serverPod({ name: 'passer', namespace: 'app', node: 2 }, [PORT])],
    captured: ['passer.app'],
  });
});

test(`of all that is asked during ${RESTARTS} restarts of agents nothing is refused`, {
  timeout: 120_000 + RESTARTS * 30_000,
}, async (t) => {
  const load = await startLoad();
  const times: number[] = [];
  for (let round = 0; round < RESTARTS; round++) {
    const node = `node-${1 + (round % 2)}`;
    const former = nodeOf(await town.mesh.status(), node).agentPid;
    const began = performance.now();
    await town.mesh.daemon('restart', node);
    times.push(Math.round(performance.now() - began));
    t.not(nodeOf(await town.mesh.status(), node).agentPid, former, `${node}: another process`);
  }
  await load.goesOn();
  for (const line of await load.end(t)) t.pass(line);
  t.pass(`a restart took ${times.join(', ')} ms`);
});

test('a successor that is killed on its way leaves the former agent at work', { timeout: 300_000 }, async (t) => {
  const load = await startLoad();
  const node = nodeOf(await town.mesh.status(), 'node-1');
  for (const afterMs of [0, 300, 500, 600, 700, 800, 900, 1000, 1100, 1300, 1600, 2000]) {
    const successor = startAgent('node-1');
    await new Promise((resolve) => setTimeout(resolve, afterMs));
    await successor.close();
  }
  await load.goesOn();
  // The last ones may have been at work already.
  for (const line of await load.end(t, 'killed')) t.pass(line);
  const { agentPid } = nodeOf(await town.mesh.status(), 'node-1');
  t.equal(agentPid, node.agentPid, 'the agent is the same as before');
  await until('it answers', async () => (await town.mesh.agent('node-1', '/')).includes(`process ${agentPid}\n`));
  const changed = authorizationPolicy('after-all', 'app', { action: 'ALLOW', rules: [{}] });
  await town.mesh.change({ apply: [changed] });
  await town.mesh.change({ remove: [changed] });
});

test('a successor that cannot become ready leaves the former agent at work for as long as it takes', {
  timeout: 300_000,
}, async (t) => {
  const { mesh } = town;
  await mesh.daemon('stop', 'control-plane', true);
  const load = await startLoad();
  const streams = await town.caller.streams({ ...theServers, workers: 2 });
  const former = nodeOf(await mesh.status(), 'node-1').agentPid;
  const restarted = mesh.daemon('restart', 'node-1');
  // Longer than an agent waits for the control plane when nobody else serves.
  await until('time has passed', async () => (await streams.progress()).bytes > 0 && load.ranMs > 8000);
  t.match(await mesh.agent('node-1', '/'), new RegExp(`process ${former}\n`), 'the former agent is at work');
  t.match(await streams.progress(), { cut: 0, wrong: 0 });
  await mesh.daemon('start', 'control-plane');
  await restarted;
  t.notMatch(await mesh.agent('node-1', '/'), new RegExp(`process ${former}\n`), 'then the new one is');
  for (const line of await load.end(t)) t.pass(line);
  await streams.stop();
});

test('of two agents on a node the later serves, the former judges what it carries, and comes back when the later dies', {
  timeout: 300_000,
}, async (t) => {
  const { mesh, caller, stranger } = town;
  const first = nodeOf(await mesh.status(), 'node-2').agentPid;
  const tunnelled = await caller.open(town.at('server.app'));
  const plain = await stranger.open(town.at('server.app'));
  const allowed = await caller.open(town.at('second.app'));
  const passing = await caller.open(town.at('passer.app'));
  const log = mesh.accessLog('node-2');
  const load = await startLoad();
  const second = startAgent('node-2');
  await serves('node-2', second);
  await load.goesOn();
  t.ok(isAlive(first), 'the first is there still');
  for (const one of [tunnelled, plain, allowed, passing]) t.equal(await one.ask('ping still'), 'pong still');

  const deny = authorizationPolicy('deny-server', 'app', {
    selector: { matchLabels: { app: 'server' } },
    action: 'DENY',
    rules: [{ to: [{ operation: { ports: [String(PORT)] } }] }],
  });
  await load.end(t);
  await mesh.change({ apply: [deny] });
  t.match(await tunnelled.end(), { how: /reset|eof/ }, 'a policy cuts what the first carries: a tunnelled connection');
  t.match(await plain.end(), { how: /reset|eof/ }, 'and one in plaintext');
  t.equal(await allowed.ask('ping there'), 'pong there', 'another pod is not concerned');
  const records = await log.wait('both have a record', ({ error }) => error?.includes('policy change') === true, 2);
  t.same(records.map(({ direction }) => direction).sort(), ['inbound', 'inbound-plaintext']);
  await mesh.change({ remove: [deny] });

  await mesh.remove([serverPod({ name: 'passer', namespace: 'app', node: 2 }, [PORT])]);
  t.match(await passing.end(), { how: /reset|eof/ });
  await log.wait('the first lets go of a pod that is gone', (record) => {
    return record['src.identity'] !== undefined && /pod deleted|reset/.test(record.error ?? '');
  });
  await mesh.ready(CAPTURED_PODS);

  const again = await startLoad();
  await second.close();
  await serves('node-2', { child: { pid: first } });
  await again.goesOn();
  for (const line of await again.end(t, 'killed')) t.pass(line);
  t.equal(await allowed.ask('ping here'), 'pong here', 'what was never cut');
});

test('agents that follow each other as they like settle on the last, and refuse nobody', {
  timeout: 300_000,
}, async (t) => {
  const load = await startLoad();
  const { agentPid } = nodeOf(await town.mesh.status(), 'node-1');
  const others = [startAgent('node-1'), startAgent('node-1'), startAgent('node-1')];
  t.teardown(() => Promise.all(others.map((other) => other.close())));
  await until('one of them serves', async () => !(await page('node-1')).includes(`process ${agentPid}\n`));
  await load.goesOn();
  const last = others.find(({ child }) => lastPage.includes(`process ${child.pid}\n`));
  t.ok(last, lastPage);
  await last?.close();
  await until('somebody else does', async () => !(await page('node-1')).includes(`process ${last?.child.pid}\n`));
  await load.goesOn();
  for (const other of others) await other.close();
  await serves('node-1', { child: { pid: agentPid } });
  await load.goesOn();
  for (const line of await load.end(t, 'killed')) t.pass(line);
});

test('an agent that ends without a successor serves until its last moment', { timeout: 300_000 }, async (t) => {
  const { mesh, caller } = town;
  const target = town.at('server.app');
  const streams = await caller.streams({ ...target, workers: 1 });
  await until('it runs', async () => (await streams.progress()).streams === 1);
  const connecting = await caller.connecting({ ...target, workers: 1, pause: 0.005, timeout: 2 });
  const began = performance.now();
  const stopped = mesh.daemon('stop', 'node-1');
  await until('it has been asked to', async () => agentLog('node-1').includes('asked to stop'));
  const atBegin = (await connecting.progress()).ok;
  await stopped;
  const took = Math.round(performance.now() - began);
  const { ok, failed } = await connecting.progress();
  t.ok(ok > atBegin + 10, `${ok - atBegin} new connections while it drained for ${took} ms`);
  const failures = Object.values(failed).reduce((sum, one) => sum + one, 0);
  // Between its end and the moment that this test hears of it.
  t.ok(failures < 60, `refused until it had ended: ${failures}`);
  const ended = performance.now();
  await mesh.daemon('start', 'node-1');
  await until('connections work again', async () => (await connecting.progress()).ok > ok);
  t.pass(`again after ${Math.round(performance.now() - ended)} ms`);
  await connecting.stop();
  await streams.stop();
});

test('the town goes', async () => {
  await town[Symbol.asyncDispose]();
});

type Asserts = Pick<Test, 'same' | 'ok'>;

interface Load {
  readonly ranMs: number;
  /** Resolves when everything has succeeded some times more. */
  goesOn(): Promise<void>;
  /** Asserts that nothing failed, but for what an agent that was `killed` had under way. A line for each kind. */
  end(t: Asserts, outcome?: 'killed'): Promise<string[]>;
}

/** New connections through tunnels and in plaintext, into and out of both nodes, and look-ups. */
async function startLoad(): Promise<Load> {
  const { caller, stranger, mesh } = town;
  const began = performance.now();
  const logs = ['node-1', 'node-2'].map((node) => mesh.accessLog(node));
  const neighbour = await mesh.prober('neighbour.app');
  const server = await mesh.prober('server.app');
  const often = { workers: 2, pause: 0.005 };
  const loops = {
    'through tunnels out of node-1': await caller.connecting({ ...theServers, ...often }),
    'through tunnels out of node-2': await server.connecting({ ...town.at('neighbour.app'), ...often }),
    'within node-1': await caller.connecting({ ...town.at('neighbour.app'), ...often }),
    'in plaintext into node-1': await stranger.connecting({ ...town.at('neighbour.app'), ...often }),
    'in plaintext into node-2': await stranger.connecting({ ...town.at('server.app'), ...often }),
    'in plaintext out of node-1': await neighbour.connecting({ ...town.at('bare.street'), ...often }),
  };
  const resolving = {
    'look-ups on node-1': await caller.resolving({ server: NAMESERVER.ipv4, name: SERVERS_NAME, pause: 0.005 }),
    'look-ups on node-2': await server.resolving({ server: NAMESERVER.ipv4, name: 'elsewhere.test', pause: 0.005 }),
  };
  const counts = () => Promise.all([...Object.values(loops), ...Object.values(resolving)].map((one) => one.progress()));
  const goesOn = async () => {
    const before = (await counts()).map(({ ok }) => ok);
    let now = before;
    const seen = () =>
      [...Object.keys(loops), ...Object.keys(resolving)]
        .map((kind, at) => `${kind} ${before[at]} ${now[at]}`)
        .join(', ');
    const has20More = async () => {
      now = (await counts()).map(({ ok }) => ok);
      return now.every((ok, at) => ok >= (before[at] ?? 0) + 20);
    };
    await until('everything goes on', has20More, seen);
  };
  await goesOn();
  return {
    get ranMs() {
      return performance.now() - began;
    },
    goesOn,
    async end(t, outcome) {
      const lines: string[] = [];
      for (const [kind, loop] of Object.entries(loops)) {
        const { ok, failed, lastError, maxMs } = await loop.stop();
        const { eof = 0, reset = 0, ...refused } = failed;
        t.same(refused, {}, `${kind}: none refused. ${lastError}`);
        t.ok(
          eof + reset <= (outcome === 'killed' ? often.workers * 2 : 0),
          `${kind}: ${eof + reset} cut. ${lastError}`,
          { recorded: logs.flatMap((log) => log.records()).filter(({ error }) => error !== undefined) },
        );
        lines.push(`${kind}: ${ok} connections, the slowest took ${Math.round(maxMs)} ms`);
      }
      for (const [kind, loop] of Object.entries(resolving)) {
        const { ok, failed, maxMs } = await loop.stop();
        t.ok(failed <= (outcome === 'killed' ? 2 : 0), `${kind}: ${failed} lost`);
        lines.push(`${kind}: ${ok}, the slowest took ${Math.round(maxMs)} ms`);
      }
      return lines;
    },
  };
}

/** Another agent of a node, beside the lab's. */
function startAgent(node: string): Program {
  const config = join(town.mesh.directory, 'nodes', node, 'agent.yaml');
  const { netns } = nodeOf(town.status, node);
  const program = new Program({ netns }, [
    join(import.meta.dirname, '../../../bin/meltemi'),
    'agent',
    '--config',
    config,
  ]);
  town.mesh.onClose(() => program.close());
  return program;
}

let lastPage = '';

async function page(node: string): Promise<string> {
  lastPage = await town.mesh.agent(node, '/').catch(() => lastPage);
  return lastPage;
}

async function serves(node: string, { child }: { child: { pid?: number | undefined } }): Promise<void> {
  await until(`process ${child.pid} serves`, async () => (await page(node)).includes(`process ${child.pid}\n`));
}

/** Several agents start at once, on machines that do other things, too: nothing is said about how long that takes. */
function until(what: string, condition: () => Promise<boolean>, seen?: () => string): Promise<void> {
  return untilWithin(what, condition, 60_000, seen);
}

function agentLog(node: string): string {
  return readFileSync(join(town.mesh.directory, 'nodes', node, 'agent.log'), 'utf8');
}

function isAlive(pid: number): boolean {
  try {
    return process.kill(pid, 0);
  } catch {
    return false;
  }
}
