import t from 'tap';
import type { Families, NameAnswer } from '../../../../src/agent/names/name-lookup.js';
import { Names } from '../../../../src/agent/names/names.js';
import type { KnownName } from '../../../../src/agent/store/snapshot.js';
import { ManualClock } from '../../../../src/lib/manual-clock.js';

const FOUND: NameAnswer = { kind: 'addresses', ips: ['192.0.2.1'], ttlSeconds: 30 };
const GONE: NameAnswer = { kind: 'none', problem: 'NXDOMAIN' };
const SILENCE: NameAnswer = { kind: 'failed', problem: 'no nameserver answered' };
const known = (ips: string[], problem = '', isStale = false): KnownName => ({ ips, problem, isStale });

function setUp(limit?: number) {
  const clock = new ManualClock();
  const asked: string[] = [];
  const answers: ((answer: NameAnswer) => void)[] = [];
  const told: [string, KnownName | undefined][] = [];
  const counts = { overLimit: 0, results: [] as string[] };
  let families: Families = { ipv4: true, ipv6: false };
  const parts = {
    lookUp: (host: string) => {
      asked.push(host);
      return new Promise<NameAnswer>((resolve) => answers.push(resolve));
    },
    families: () => families,
    changed: (host: string, record: KnownName | undefined) => {
      told.push([host, record]);
    },
    clock,
    metrics: {
      lookedUp: (result: string) => counts.results.push(result),
      overLimit: () => {
        counts.overLimit += 1;
      },
    },
  };
  const names = limit === undefined ? new Names(parts) : new Names(parts, limit);
  return {
    names,
    clock,
    asked,
    told,
    counts,
    async answer(answer: NameAnswer): Promise<void> {
      answers.shift()?.(answer);
      await turn();
    },
    async pass(ms: number): Promise<void> {
      clock.advance(ms);
      await turn();
    },
    useFamilies(now: Families): void {
      families = now;
    },
  };
}

t.test('a name is asked for once, however many want it', async (t) => {
  const { names, asked, told, answer, counts } = setUp();
  for (let i = 0; i < 5; i++) names.want('api.example.com');
  t.strictSame(asked, ['api.example.com']);
  await answer(FOUND);
  t.strictSame(told, [['api.example.com', known(['192.0.2.1'])]]);
  names.want('api.example.com');
  t.equal(asked.length, 1);
  t.strictSame(counts.results, ['addresses']);
});

t.test('an answer counts for its time to live, and for as long as somebody uses it is renewed', async (t) => {
  const { names, asked, told, answer, pass } = setUp();
  names.want('a');
  await answer(FOUND);
  names.want('a');
  await pass(29_999);
  t.equal(asked.length, 1);
  await pass(1);
  t.equal(asked.length, 2, 'asked again');
  t.equal(told.length, 1, 'the former addresses stay meanwhile');
  await answer({ ...FOUND, ips: ['192.0.2.2'] });
  t.strictSame(told.at(-1), ['a', known(['192.0.2.2'])]);
  await pass(30_000);
  t.strictSame(told.at(-1), ['a', undefined], 'nobody has asked since: forgotten');
  t.equal(asked.length, 2);
  t.equal(names.size, 0);
  names.want('a');
  t.equal(asked.length, 3);
});

t.test('a time to live of nothing counts as a second, one of days as five minutes', async (t) => {
  const { names, asked, answer, pass } = setUp();
  names.want('a');
  await answer({ ...FOUND, ttlSeconds: 0 });
  names.want('a');
  await pass(999);
  t.equal(asked.length, 1);
  await pass(1);
  t.equal(asked.length, 2);
  await answer({ ...FOUND, ttlSeconds: 864_000 });
  names.want('a');
  await pass(299_999);
  t.equal(asked.length, 2);
  await pass(1);
  t.equal(asked.length, 3);
});

t.test('that a name does not exist is believed at once, and for 5 s', async (t) => {
  const { names, asked, told, answer, pass } = setUp();
  names.want('a');
  await answer(FOUND);
  names.want('a');
  await pass(30_000);
  await answer(GONE);
  t.strictSame(told.at(-1), ['a', known([], 'NXDOMAIN')]);
  names.want('a');
  t.equal(asked.length, 2);
  await pass(5000);
  t.strictSame(told.at(-1), ['a', undefined]);
  names.want('a');
  t.equal(asked.length, 3);
});

t.test('when nobody answers, former addresses stay for an hour and are asked for every 5 s', async (t) => {
  const { names, asked, told, answer, pass } = setUp();
  names.want('a');
  await answer(FOUND);
  names.want('a');
  await pass(30_000);
  await answer(SILENCE);
  t.strictSame(told.at(-1), ['a', known(['192.0.2.1'], '', true)]);
  for (let round = 0; round < 750; round++) {
    names.want('a');
    await pass(5000);
    t.equal(asked.length, 3 + round);
    await answer(SILENCE);
    if (told.at(-1)?.[1]?.ips.length === 0) break;
  }
  t.strictSame(told.at(-1), ['a', known([], 'no nameserver answered')]);
  t.ok(asked.length > 600, `${asked.length}`);
});

t.test('a name that nobody ever knew has no address when nobody answers', async (t) => {
  const { names, told, answer } = setUp();
  names.want('a');
  await answer(SILENCE);
  t.strictSame(told, [['a', known([], 'no nameserver answered')]]);
});

t.test('a pod of another family makes it asked for anew', async (t) => {
  const { names, asked, answer, useFamilies } = setUp();
  names.want('a');
  await answer(FOUND);
  useFamilies({ ipv4: true, ipv6: true });
  names.want('a');
  names.want('a');
  t.equal(asked.length, 2);
});

t.test('beyond the limit the name that was used least is given up, and that is counted', async (t) => {
  const { names, told, answer, counts } = setUp(2);
  for (const host of ['a', 'b']) {
    names.want(host);
    await answer(FOUND);
  }
  names.want('a');
  names.want('c');
  await turn();
  t.strictSame(told.at(-1), ['b', undefined]);
  t.equal(counts.overLimit, 1);
  t.equal(names.size, 2);
});

t.test('64 are asked for at a time, the others after them', async (t) => {
  const { names, asked, answer } = setUp();
  for (let i = 0; i < 70; i++) names.want(`n${i}`);
  t.equal(asked.length, 64);
  await answer(FOUND);
  t.equal(asked.length, 65);
  for (let i = 0; i < 69; i++) await answer(GONE);
  t.equal(asked.length, 70);
});

t.test('who waits for a name goes on when it is known, or when there is no more to come', async (t) => {
  const { names, answer } = setUp();
  const waits = names.settled('a');
  await answer(GONE);
  await waits;
  await names.settled('a');
  names.close();
  await names.settled('b');
  t.match(names.states(), [{ name: 'a', problem: 'NXDOMAIN', isAsking: false }]);
});

async function turn(): Promise<void> {
  for (let i = 0; i < 20; i++) await Promise.resolve();
}
