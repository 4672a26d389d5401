import { mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { FakeDataplane } from '../../../src/agent/dataplane/fake.js';
import { Succession } from '../../../src/agent/succession.js';
import { ManualClock } from '../../../src/lib/manual-clock.js';
import { logger, setLogSink } from '../../../src/telemetry/log.js';

setLogSink(() => undefined);

const POD = {
  uid: 'Kubernetes//Pod/shop/a',
  name: 'a',
  namespace: 'shop',
  identity: 'spiffe://cluster.local/ns/shop/sa/a',
  netns: '/run/netns/a',
  addresses: ['10.0.0.1'],
};

function agent(t: Test, stateDir: string, clock = new ManualClock(), revision = '') {
  const dataplane = new FakeDataplane();
  const said: string[] = [];
  const resumed = Promise.withResolvers<void>();
  const succession = new Succession({
    dataplane,
    stateDir,
    revision,
    clock,
    log: logger('agent'),
    relieved: (sharesNetwork) => said.push(`relieved ${sharesNetwork}`),
    resumed: async () => {
      said.push('resumed');
      resumed.resolve();
    },
  });
  const end = () => {
    succession.close();
    dataplane.close();
  };
  t.teardown(end);
  return { dataplane, succession, said, resumed: resumed.promise, end };
}

t.test('generations rise by the clock, and by what is kept when the clock goes back', async (t) => {
  const stateDir = join(t.testdir(), 'state');
  const clock = new ManualClock();
  const first = agent(t, stateDir, clock).succession.generation;
  t.equal(first, clock.now());
  t.equal(agent(t, stateDir, new ManualClock(0)).succession.generation, first + 1);
  t.equal(agent(t, stateDir, clock).succession.generation, first + 2);
  clock.advance(60_000);
  t.equal(agent(t, stateDir, clock).succession.generation, clock.now());
  writeFileSync(join(stateDir, 'generation'), 'no number');
  t.equal(agent(t, stateDir, clock).succession.generation, clock.now());
  t.strictSame(readdirSync(stateDir), ['generation']);
  t.equal(readFileSync(join(stateDir, 'generation'), 'utf8'), `${clock.now()}\n`);
});

t.test('a state that cannot be written does not keep an agent from its work', async (t) => {
  const directory = t.testdir({ file: '' });
  t.equal(agent(t, join(directory, 'file'), new ManualClock(7)).succession.generation, 7);
  mkdirSync(join(directory, 'generation'));
  t.equal(agent(t, directory, new ManualClock(8)).succession.generation, 8);
});

t.test('a predecessor serves until its successor does, and again when that one is gone', async (t) => {
  const stateDir = t.testdir();
  const first = agent(t, stateDir);
  t.equal(first.succession.hasPredecessor, false);
  await first.succession.take();
  await first.dataplane.addPod(POD);
  await first.succession.complete();

  const second = agent(t, stateDir);
  t.equal(second.succession.hasPredecessor, true);
  await second.succession.take();
  t.match(await second.dataplane.addPod(POD), { inherited: true });
  t.equal(first.succession.isRelieved, false);
  await second.succession.complete();
  await first.succession.relieved;
  t.equal(first.succession.isRelieved, true);
  t.equal(second.succession.isRelieved, false);

  second.end();
  await first.resumed;
  t.strictSame(first.said, ['relieved true', 'resumed']);
  t.equal(first.succession.isRelieved, false);
  await new Promise(setImmediate);
  const third = agent(t, stateDir);
  t.equal(third.succession.hasPredecessor, true, 'and may be relieved again');
});

t.test('one that is no longer needed does not come back', async (t) => {
  const stateDir = t.testdir();
  const first = agent(t, stateDir);
  await first.succession.complete();
  const second = agent(t, stateDir);
  await second.succession.take();
  await second.succession.complete();
  await first.succession.relieved;
  first.succession.close();
  second.end();
  await new Promise(setImmediate);
  t.strictSame(first.said, ['relieved true']);
});

t.test('agents of different revisions serve side by side', async (t) => {
  const stateDir = t.testdir();
  const first = agent(t, stateDir);
  await first.succession.complete();
  const canary = agent(t, stateDir, new ManualClock(), 'canary');
  t.equal(canary.succession.hasPredecessor, false);
  await canary.succession.complete();
  t.equal(agent(t, stateDir, new ManualClock(), 'canary').succession.hasPredecessor, true);
  t.strictSame(readdirSync(stateDir).sort(), ['generation', 'generation-canary']);
});
