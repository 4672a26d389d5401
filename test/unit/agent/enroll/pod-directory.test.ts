import { existsSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import t, { type Test } from 'tap';
import { PodDirectory } from '../../../../src/agent/enroll/pod-directory.js';
import type { PodRecord } from '../../../../src/agent/enroll/pod-record.js';
import { ManualClock } from '../../../../src/lib/manual-clock.js';
import { logger, setLogSink } from '../../../../src/telemetry/log.js';

const lines: string[] = [];
setLogSink((line) => lines.push(line));

/** A directory, and what was shown of it. */
async function setUp(t: Test, files: Readonly<Record<string, string>> = {}) {
  const directory = join(t.testdir({ pods: files }), 'pods');
  const clock = new ManualClock();
  const pods = new PodDirectory(directory, clock, logger('enroll'));
  const shown: string[][] = [];
  let wake = (): void => undefined;
  const names = (records: readonly PodRecord[]) => records.map(({ name }) => name).sort();
  await pods.start((records) => {
    shown.push(names(records));
    wake();
  });
  t.teardown(() => pods.close());
  return {
    directory,
    pods,
    shown,
    put(name: string, text: string): void {
      writeFileSync(join(directory, `.${name}.tmp`), text);
      renameSync(join(directory, `.${name}.tmp`), join(directory, name));
    },
    /** Resolves with the next list that has these names; the clock makes it look. */
    async until(...wanted: string[]): Promise<void> {
      while (shown.at(-1)?.join() !== wanted.join()) {
        const { promise, resolve } = Promise.withResolvers<void>();
        wake = resolve;
        clock.advance(2000);
        await promise;
      }
    },
  };
}

t.test('shows what is there, what comes and what goes', async (t) => {
  const { directory, put, shown, until } = await setUp(t, { 'a.json': pod('a') });
  t.strictSame(shown, [['a']]);
  put('b.json', pod('b'));
  await until('a', 'b');
  rmSync(join(directory, 'a.json'));
  await until('b');
});

t.test('an empty directory is a complete list too', async (t) => {
  const { shown } = await setUp(t);
  t.strictSame(shown, [[]]);
});

t.test('a bad file is reported and its last good record kept', async (t) => {
  const { put, until } = await setUp(t, { 'a.json': pod('a') });
  put('a.json', '{"uid": 7');
  put('c.json', JSON.stringify({ uid: 'c', name: 'c' }));
  put('b.json', pod('b'));
  await until('a', 'b');
  t.ok(lines.some((line) => line.includes('a.json')));
  t.ok(lines.some((line) => line.includes('c.json') && line.includes('namespace is missing')));
});

t.test('answers are files beside it, and are found again', async (t) => {
  const { directory, pods } = await setUp(t, { 'a.json': pod('a') });
  const record = { ...JSON.parse(pod('a')) } as PodRecord;
  const answer = join(dirname(directory), 'redirection', 'uid-a');
  t.equal(pods.wasRedirected(record), false);
  pods.report(record, 'pending: why');
  t.equal(readFileSync(answer, 'utf8'), 'pending: why');
  pods.report(record, 'enabled');
  t.equal(pods.wasRedirected(record), true);
  pods.report(record, undefined);
  t.equal(existsSync(answer), false);
});

function pod(name: string): string {
  return JSON.stringify({ uid: `uid-${name}`, name, namespace: 'shop', netns: '/n', ips: ['10.0.0.1'] });
}
