import { setImmediate as turn } from 'node:timers/promises';
import t, { type Test } from 'tap';
import { LeaseElection } from '../../../../src/control/leader/election.js';
import { whileLeading } from '../../../../src/control/leader/fenced-api.js';
import { ApiError } from '../../../../src/kube/api.js';
import { RESOURCES } from '../../../../src/kube/resources.js';
import { ManualClock } from '../../../../src/lib/manual-clock.js';
import { logger, setLevel } from '../../../../src/telemetry/log.js';
import { createRegistry } from '../../../../src/telemetry/metrics.js';
import { MemoryApi } from '../../../support/memory-api.js';

setLevel('silent');

const STEP_MS = 100;
const lease = { namespace: 'istio-system', name: 'meltemi-leader' };

/** Processes with clocks of their own before one API server; `pass` lets time go by for all of them. */
function world(t: Test) {
  const server = new MemoryApi();
  const clocks: { readonly clock: ManualClock; readonly rate: number }[] = [];
  const processes: LeaseElection[] = [];
  const start = (self: string, rate = 1) => {
    const clock = new ManualClock();
    const api = new MemoryApi(server);
    const metrics = createRegistry();
    const election = new LeaseElection({ api, lease, self, clock, log: logger('leader'), metrics });
    clocks.push({ clock, rate });
    processes.push(election);
    t.teardown(() => election.close());
    return { election, api, clock, metrics };
  };
  const settle = async () => {
    for (let count = 0; count < 20; count++) await turn();
  };
  const pass = async (ms: number, each: () => void = () => {}) => {
    for (let passed = 0; passed < ms; passed += STEP_MS) {
      for (const { clock, rate } of clocks) clock.advance(STEP_MS * rate);
      await settle();
      const leaders = processes.filter(({ isLeader }) => isLeader).length;
      if (leaders > 1) throw new Error(`${leaders} lead at the same time`);
      each();
    }
  };
  return { server, start, settle, pass };
}

const cut = () => {
  throw new ApiError(0, '', 'no way to the API server');
};

t.test('of several one leads, and the others wait for as long as it lives', async (t) => {
  const { start, pass } = world(t);
  const all = [start('a'), start('b'), start('c')];
  await pass(60_000);
  t.equal(all.filter(({ election }) => election.isLeader).length, 1);
  const [leader] = all.filter(({ election }) => election.isLeader);
  await pass(60_000);
  t.ok(leader?.election.isLeader);
  for (const { election } of all) t.equal(election.holder, leader?.election.holder);
  t.match(await leader?.metrics.render(), /^meltemi_leader 1$/m);
});

t.test('a leader that is closed is replaced at once, one that is killed within 15 s', async (t) => {
  const { start, pass } = world(t);
  const a = start('a');
  await pass(1000);
  const [b, c] = [start('b'), start('c')];
  await pass(10_000);
  await a.election.close();
  await pass(2000);
  const [second, third] = b.election.isLeader ? [b, c] : [c, b];
  t.ok(second.election.isLeader);
  second.api.before = cut;
  await pass(14_900);
  t.notOk(second.election.isLeader);
  t.ok(third.election.isLeader);
});

t.test(
  'a leader that cannot renew its lease stops before another may begin, also when its clock is slow',
  async (t) => {
    for (const rate of [1, 0.75, 1.3]) {
      const { start, pass } = world(t);
      const a = start('a', rate);
      await pass(2000);
      const b = start('b');
      await pass(20_000);
      t.ok(a.election.isLeader);
      let handedOverMs = 0;
      a.api.before = cut;
      // `pass` itself throws when two lead.
      await pass(20_000, () => {
        if (!b.election.isLeader) handedOverMs += STEP_MS;
      });
      t.ok(b.election.isLeader);
      t.notOk(a.election.isLeader);
      t.ok(handedOverMs > 7000, `nobody interrupts a leader that is heard: ${handedOverMs}`);
      a.api.before = () => {};
      await pass(20_000);
      t.ok(b.election.isLeader, 'the former one waits');
    }
  },
);

t.test('an API server that is away for a moment costs nobody the office', async (t) => {
  const { start, pass } = world(t);
  const a = start('a');
  await pass(2000);
  const b = start('b');
  for (const { api } of [a, b]) api.before = cut;
  await pass(4000);
  for (const { api } of [a, b]) api.before = () => {};
  await pass(10_000);
  t.ok(a.election.isLeader);
  t.match(await a.metrics.render(), /^meltemi_leader_terms_total 1$/m);
  t.match(await a.metrics.render(), /^meltemi_lease_errors_total [1-9]/m);
});

t.test('a request that hangs is given up, and what it writes later harms nobody', async (t) => {
  const { start, pass } = world(t);
  const a = start('a');
  await pass(2000);
  const b = start('b');
  await pass(4000);
  const late = Promise.withResolvers<void>();
  a.api.before = () => late.promise;
  await pass(20_000);
  t.notOk(a.election.isLeader);
  t.ok(b.election.isLeader);
  late.resolve();
  a.api.before = () => {};
  await pass(20_000);
  t.ok(b.election.isLeader);
});

t.test('a lease that somebody removes is made again by its holder, and taken by nobody else meanwhile', async (t) => {
  const { server, start, pass } = world(t);
  const a = start('a');
  await pass(2000);
  const b = start('b');
  await pass(5000);
  await server.delete(RESOURCES.Lease, lease);
  await pass(30_000);
  t.ok(a.election.isLeader);
  t.notOk(b.election.isLeader);
});

t.test('whoever loses the lease to another ends at the next renewal', async (t) => {
  const { server, start, pass } = world(t);
  const a = start('a');
  await pass(2000);
  const stored = await server.get(RESOURCES.Lease, lease);
  if (stored === undefined) throw new Error('there is no lease');
  await server.replace(RESOURCES.Lease, { ...stored, spec: { ...(stored.spec as object), holderIdentity: 'thief' } });
  await pass(2200);
  t.notOk(a.election.isLeader);
  await pass(15_000);
  t.ok(a.election.isLeader, 'the thief never renewed it');
});

t.test('a task runs for each term, never twice at a time, and hears of the end', async (t) => {
  const { start, pass } = world(t);
  const a = start('a');
  const seen: string[] = [];
  a.election.run('bundle', async (signal) => {
    seen.push('begin');
    await new Promise<void>((resolve) => signal.addEventListener('abort', () => resolve()));
    seen.push('end');
  });
  await pass(1000);
  t.same(seen, ['begin']);
  a.api.before = cut;
  await pass(10_000);
  t.same(seen, ['begin', 'end']);
  a.api.before = () => {};
  await pass(3000);
  t.same(seen, ['begin', 'end', 'begin']);
  const stop = a.election.run('late', async () => void seen.push('late'));
  await pass(100);
  t.equal(seen.at(-1), 'late');
  stop();
  await a.election.close();
  t.equal(seen.at(-1), 'end');
});

t.test('a task that fails is started again, and counted', async (t) => {
  const { start, pass } = world(t);
  const a = start('a');
  let tries = 0;
  a.election.run('taints', async () => {
    if (++tries < 3) throw new Error('not yet');
  });
  await pass(10_000);
  t.equal(tries, 3);
  t.match(await a.metrics.render(), /^meltemi_leader_task_failures_total\{task="taints"\} 2$/m);
});

t.test('nothing is written by a process that was held up and does not know yet that it leads no longer', async (t) => {
  const { server, start, pass } = world(t);
  const a = start('a');
  await pass(1000);
  const api = whileLeading(a.api, a.election);
  const map = { metadata: { namespace: 'shop', name: 'x' } };
  await api.create(RESOURCES.ConfigMap, map);
  // The clock is past the end, and no timer has been served.
  const { now } = a.clock;
  a.clock.now = () => now.call(a.clock) + 8000;
  await t.rejects(api.apply(RESOURCES.ConfigMap, map), /no longer leads/);
  await t.rejects(api.delete(RESOURCES.ConfigMap, map.metadata), /no longer leads/);
  await t.rejects(api.request('POST', '/x'), /no longer leads/);
  t.match(await api.get(RESOURCES.ConfigMap, map.metadata), map, 'it may look');
  t.ok(await server.get(RESOURCES.ConfigMap, map.metadata));
});
