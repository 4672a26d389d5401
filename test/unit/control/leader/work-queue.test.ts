import t from 'tap';
import { WorkQueue } from '../../../../src/control/leader/work-queue.js';
import { ManualClock } from '../../../../src/lib/manual-clock.js';
import { pass } from '../../../support/pass.js';

function setup(work: (key: string) => Promise<void>, concurrency = 2) {
  const clock = new ManualClock();
  const failed: string[] = [];
  const queue = new WorkQueue({ work, failed: (key) => failed.push(key), clock, concurrency });
  return { clock, failed, queue };
}

t.test('a key is worked on once however often it is asked for, and again when it is asked for meanwhile', async (t) => {
  const done: string[] = [];
  const gate = Promise.withResolvers<void>();
  const { clock, queue } = setup(async (key) => {
    if (done.length === 0) await gate.promise;
    done.push(key);
  });
  for (let count = 0; count < 5; count++) queue.add('a');
  queue.add('a');
  t.equal(queue.pending, 2, 'the one in work, and once more');
  gate.resolve();
  await pass(clock, 0);
  t.same(done, ['a']);
  await pass(clock, 200);
  t.same(done, ['a', 'a']);
  t.equal(queue.pending, 0);
});

t.test('what waits is done also when timers run a little ahead of the clock', async (t) => {
  let done = 0;
  const clock = new ManualClock();
  const early = {
    now: () => Math.floor(clock.now()),
    schedule: (ms: number, callback: () => void) => clock.schedule(Math.floor(ms) - 1, callback),
  };
  const queue = new WorkQueue({
    work: async () => {
      done++;
    },
    failed: () => t.fail('nothing fails'),
    clock: early,
  });
  for (let count = 1; count <= 5; count++) {
    queue.add('a');
    await pass(clock, 10_000);
    t.equal(done, 2 * count - 1);
    queue.add('a');
    queue.add('a');
    await pass(clock, 10_000);
    t.equal(done, 2 * count);
  }
});

t.test('only so many are worked on at a time, and none is forgotten', async (t) => {
  let inWork = 0;
  let most = 0;
  const done: string[] = [];
  const { clock, queue } = setup(async (key) => {
    most = Math.max(most, ++inWork);
    await new Promise((resolve) => setImmediate(resolve));
    inWork--;
    done.push(key);
  });
  for (let index = 0; index < 20; index++) queue.add(`k${index}`);
  for (let turn = 0; turn < 5; turn++) await pass(clock, 0);
  t.equal(most, 2);
  t.equal(done.length, 20);
});

t.test('what fails is tried again, later each time, and does not hold up the others', async (t) => {
  let tries = 0;
  const done: string[] = [];
  const { clock, failed, queue } = setup(async (key) => {
    if (key === 'bad' && ++tries < 5) throw new Error('no');
    done.push(key);
  });
  queue.add('bad');
  queue.add('good');
  await pass(clock, 0);
  t.same(done, ['good']);
  await pass(clock, 200);
  t.equal(tries, 2);
  for (let second = 0; second < 10; second++) await pass(clock, 1000);
  t.same(done, ['good', 'bad']);
  t.equal(failed.length, 4);
});

t.test('against somebody who undoes it again and again the queue slows down', async (t) => {
  let done = 0;
  const { clock, queue } = setup(async () => {
    done++;
  });
  for (let step = 0; step < 600; step++) {
    queue.add('a');
    await pass(clock, 100);
  }
  t.ok(done > 3 && done < 18, `${done} times in a minute`);
  await pass(clock, 60_000);
  await pass(clock, 600_000);
  const before = done;
  queue.add('a');
  await pass(clock, 0);
  t.equal(done, before + 1, 'and after a while it is quick again');
});

t.test('news wait for nothing, however often there were some', async (t) => {
  let done = 0;
  const { clock, queue } = setup(async () => {
    done++;
  });
  for (let step = 1; step <= 20; step++) {
    queue.add('a', true);
    await pass(clock, 100);
    t.equal(done, step);
  }
});

t.test('what is forgotten or closed is not worked on', async (t) => {
  const done: string[] = [];
  const { clock, queue } = setup(async (key) => {
    done.push(key);
    throw new Error('no');
  });
  queue.add('a');
  await pass(clock, 0);
  queue.forget('a');
  await pass(clock, 10_000);
  t.same(done, ['a']);
  queue.add('b');
  await pass(clock, 0);
  queue.close();
  queue.add('c');
  await pass(clock, 100_000);
  t.same(done, ['a', 'b']);
});
