import { chmodSync, mkdirSync, renameSync, rmSync, symlinkSync, utimesSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import t, { type Test } from 'tap';
import {
  type DirectoryOptions,
  DirectorySource,
} from '../../../../../src/control/inputs/directory/directory-source.js';
import type { BadFile } from '../../../../../src/control/inputs/directory/ledger.js';
import type { ObjectChange } from '../../../../../src/control/inputs/inputs.js';
import { type Clock, systemClock } from '../../../../../src/lib/clock.js';
import { ManualClock } from '../../../../../src/lib/manual-clock.js';
import { idOf } from '../../../../../src/model/kubernetes/object.js';

interface Rig {
  readonly root: string;
  readonly source: DirectorySource;
  readonly clock: ManualClock;
  /** Each transaction as `+Pod default/a` and `-Pod default/a`, since the last call. */
  transactions(): string[][];
  readonly rejected: BadFile[];
  readonly troubles: string[];
  write(path: string, text: string): void;
}

function rig(t: Test, options: Partial<DirectoryOptions> = {}, clock: Clock = new ManualClock()): Rig {
  const root = join(t.testdir({ root: {} }), 'root');
  const transactions: string[][] = [];
  const rejected: BadFile[] = [];
  const troubles: string[] = [];
  const show = ({ object, gone }: ObjectChange) => {
    const version = object.metadata.labels.v;
    return `${gone ? '-' : '+'}${idOf(object)}${version === undefined ? '' : `=${version}`}`;
  };
  const source = new DirectorySource(
    root,
    {
      apply: (changes) => transactions.push(changes.map(show).sort()),
      rejected: (file) => rejected.push(file),
      trouble: (path, problem) => troubles.push(`${path.slice(root.length)} ${problem}`),
    },
    clock,
    options,
  );
  t.teardown(() => source.close());
  return {
    root,
    source,
    clock: clock as ManualClock,
    transactions: () => transactions.splice(0),
    rejected,
    troubles,
    write(path, text) {
      mkdirSync(dirname(join(root, path)), { recursive: true });
      writeFileSync(join(root, path), text);
    },
  };
}

function pod(name: string, version?: string): string {
  const labels = version === undefined ? '' : `, labels: { v: "${version}" }`;
  return `---\napiVersion: v1\nkind: Pod\nmetadata: { name: ${name}${labels} }\n`;
}

t.test('reads a whole tree as one transaction: documents, lists, JSON, folders', async (t) => {
  const { source, write, transactions } = rig(t);
  write('a.yaml', pod('a') + pod('b'));
  write('deep/down/c.yml', `apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: Pod, metadata: {name: c}}\n`);
  write('d.json', '{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "d"}}');
  write('notes.txt', 'kind: Pod');
  write('.hidden.yaml', pod('hidden'));
  write('e.yaml', 'apiVersion: apps/v1\nkind: Deployment\nmetadata: { name: e }\n');
  await source.scan();
  t.same(transactions(), [['+Namespace d', '+Pod default/a', '+Pod default/b', '+Pod default/c']]);
  t.match(source.status(), {
    files: 4,
    objects: 4,
    notes: [/e\.yaml: line 1: Deployment e \(apps\/v1\) is of no kind the mesh reads/],
  });
  await source.scan();
  t.same(transactions(), [], 'nothing new is no transaction');
});

t.test('tells of changes and removals, also of whole folders', async (t) => {
  const { root, source, write, transactions } = rig(t);
  write('a.yaml', pod('a', '1') + pod('b'));
  write('folder/c.yaml', pod('c'));
  await source.scan();
  transactions();
  write('a.yaml', pod('a', '2'));
  rmSync(join(root, 'folder'), { recursive: true });
  await source.scan();
  t.same(transactions(), [['+Pod default/a=2', '-Pod default/b', '-Pod default/c']]);
});

t.test('keeps the last good version of a file that is no good, and says so once for each version', async (t) => {
  const { root, source, write, transactions, rejected } = rig(t);
  write('a.yaml', pod('a', '1') + pod('b'));
  write('never-good.yaml', 'a: [');
  await source.scan();
  t.same(transactions(), [['+Pod default/a=1', '+Pod default/b']]);
  t.match(rejected, [{ path: join(root, 'never-good.yaml'), kept: 0, problems: [/^line 1, column 5: Flow sequence/] }]);
  rejected.length = 0;

  write(
    'a.yaml',
    `${pod('a', '2')}---\nkind: Pod\napiVersion: v1\nmetadata: {name: Not_A_Name}\nspec: {hostNetwork: 1}\n`,
  );
  await source.scan();
  t.same(transactions(), [], 'not half of it either');
  t.equal(rejected.length, 1);
  t.equal(rejected[0]?.kept, 2);
  t.match(rejected[0]?.problems, [/line 6: Pod Not_A_Name: metadata\.name is "Not_A_Name".*; spec\.hostNetwork is 1/]);
  utimesSync(join(root, 'a.yaml'), 1, 1);
  await source.scan();
  t.equal(rejected.length, 1, 'the same content again is no news');
  t.equal(source.status().badFiles.length, 2);

  write('a.yaml', pod('a', '3'));
  await source.scan();
  t.same(transactions(), [['+Pod default/a=3', '-Pod default/b']]);
  t.equal(source.counts().badFiles, 1);
  rmSync(join(root, 'never-good.yaml'));
  await source.scan();
  t.equal(source.counts().badFiles, 0);
});

t.test('of an object in several files the first path has it, in whatever order they come', async (t) => {
  const { root, source, write, transactions } = rig(t);
  write('b.yaml', pod('x', 'b'));
  await source.scan();
  write('c.yaml', pod('x', 'c'));
  await source.scan();
  write('a.yaml', pod('x', 'a'));
  await source.scan();
  t.same(transactions(), [['+Pod default/x=b'], ['+Pod default/x=a']]);
  t.same(source.status().duplicates, [
    {
      id: 'Pod default/x',
      winner: join(root, 'a.yaml'),
      others: [join(root, 'b.yaml'), join(root, 'c.yaml')],
    },
  ]);
  rmSync(join(root, 'a.yaml'));
  rmSync(join(root, 'b.yaml'));
  await source.scan();
  t.same(transactions(), [['+Pod default/x=c']]);
  t.same(source.status().duplicates, []);
  write('twice.yaml', pod('y') + pod('y'));
  await source.scan();
  t.match(source.status().badFiles, [{ problems: [/Pod default\/y is in this file twice/] }]);
});

t.test('a renamed file changes nothing, and a moved object neither comes nor goes', async (t) => {
  const { root, source, write, transactions } = rig(t);
  write('a.yaml', pod('a'));
  await source.scan();
  transactions();
  renameSync(join(root, 'a.yaml'), join(root, 'z.yaml'));
  await source.scan();
  t.same(transactions(), []);
  t.equal(source.counts().files, 1);
});

t.test('follows a mounted ConfigMap, whose files all turn over at once', async (t) => {
  const { root, source, write, transactions } = rig(t);
  write('..1/a.yaml', pod('a', '1'));
  write('..1/b.yaml', pod('b', '1'));
  write('..2/a.yaml', pod('a', '2'));
  write('..2/b.yaml', pod('b', '2'));
  symlinkSync('..1', join(root, '..data'));
  symlinkSync('..data/a.yaml', join(root, 'a.yaml'));
  symlinkSync('..data/b.yaml', join(root, 'b.yaml'));
  symlinkSync('.', join(root, 'cycle'));
  symlinkSync('gone.yaml', join(root, 'dangling.yaml'));
  await source.scan();
  symlinkSync('..2', join(root, '..data_tmp'));
  renameSync(join(root, '..data_tmp'), join(root, '..data'));
  await source.scan();
  t.same(transactions(), [
    ['+Pod default/a=1', '+Pod default/b=1'],
    ['+Pod default/a=2', '+Pod default/b=2'],
  ]);
});

t.test('a root that is gone is trouble, and what it said stays in force until it is back', async (t) => {
  const { root, source, write, transactions, troubles } = rig(t);
  write('a.yaml', pod('a'));
  write('b.yaml', pod('b'));
  await source.scan();
  transactions();
  renameSync(root, `${root}-away`);
  await source.scan();
  await source.scan();
  t.same(transactions(), []);
  t.same(troubles, [' is not there; what it said stays in force']);
  mkdirSync(root);
  write('a.yaml', pod('a'));
  await source.scan();
  t.same(transactions(), [['-Pod default/b']]);
  t.same(source.status().troubles, []);
});

t.test('waits for a directory that is not there yet', { timeout: 30_000 }, async (t) => {
  const { root, source, clock, write, transactions } = rig(t);
  rmSync(root, { recursive: true });
  let started = false;
  const start = source.start().then(() => {
    started = true;
  });
  while (clock.pending === 0) await new Promise((resolve) => setImmediate(resolve));
  t.notOk(started);
  write('a.yaml', pod('a'));
  clock.advance(1_000);
  await start;
  t.same(transactions(), [['+Pod default/a']]);
});

t.test(
  'what cannot be looked at keeps what it said',
  { skip: process.getuid?.() === 0 && 'root may look at all' },
  async (t) => {
    const { root, source, write, transactions } = rig(t);
    write('folder/a.yaml', pod('a'));
    await source.scan();
    transactions();
    chmodSync(join(root, 'folder'), 0);
    await source.scan();
    chmodSync(join(root, 'folder'), 0o700);
    t.same(transactions(), []);
  },
);

t.test('limits are kept and reported, and what is left out comes in when there is room', async (t) => {
  const { root, source, write, transactions } = rig(t, { maxFiles: 2, maxFileBytes: 200, maxObjects: 2, maxDepth: 2 });
  write('a.yaml', pod('a'));
  write('b.yaml', pod('b'));
  write('c.yaml', pod('c'));
  write('1/2/deep.yaml', pod('deep'));
  await source.scan();
  t.same(transactions(), [['+Pod default/a', '+Pod default/b']]);
  const { badFiles, troubles } = source.status();
  t.match(badFiles, [{ path: join(root, 'c.yaml'), problems: [/one file too many: .* may hold 2/] }]);
  t.match(troubles, [{ path: join(root, '1/2'), problem: 'is nested too deeply' }]);
  write('b.yaml', pod('b') + pod('b2'));
  await source.scan();
  t.match(source.status().badFiles, [{ problems: [/1 objects more than before, too many/], kept: 1 }, {}]);
  rmSync(join(root, 'a.yaml'));
  await source.scan();
  await source.scan();
  t.same(transactions().flat().sort(), ['+Pod default/b', '+Pod default/b2', '-Pod default/a']);
  write('b.yaml', `${pod('b')}# ${'long '.repeat(50)}`);
  await source.scan();
  t.match(source.status().badFiles, [{ problems: [/has \d+ bytes, more than 200/], kept: 2 }, {}]);
});

t.test('what others write while it looks belongs to the same transaction', { timeout: 30_000 }, async (t) => {
  const { source, write, transactions } = rig(t, { maxSettleMs: 30_000 }, systemClock);
  write('first.yaml', pod('first'));
  await source.start();
  transactions();
  // Long enough to parse that the other file appears in the middle.
  write('large.yaml', Array.from({ length: 1000 }, (_, i) => pod(`pod-${i}`)).join(''));
  const scan = source.scan();
  let turns = 0;
  while (turns++ < 5) await new Promise((resolve) => setImmediate(resolve));
  write('first.yaml', pod('second'));
  await scan;
  const [only, ...others] = transactions();
  t.same(others, []);
  t.ok(only?.includes('+Pod default/pod-999') && only.includes('+Pod default/second'));
  t.ok(only?.includes('-Pod default/first'));
});

t.test('text that is not UTF-8 is no good', async (t) => {
  const { root, source } = rig(t);
  writeFileSync(join(root, 'a.yaml'), Uint8Array.of(0x61, 0xff, 0xfe));
  await source.scan();
  t.match(source.status().badFiles, [{ problems: ['is not UTF-8 text'] }]);
});

t.test('looks again after a while for what no event told of', async (t) => {
  const { source, clock, write, transactions } = rig(t, { rescanMs: 10_000, settleMs: 1e9, maxSettleMs: 1e9 });
  await source.start();
  write('a.yaml', pod('a'));
  clock.advance(9_999);
  t.same(transactions(), []);
  clock.advance(1);
  await source.scan();
  t.same(transactions(), [['+Pod default/a']]);
});

t.test('sees changes as they happen and takes what comes together as one', { timeout: 30_000 }, async (t) => {
  let next = Promise.withResolvers<void>();
  const root = join(t.testdir({ root: { sub: {} } }), 'root');
  const transactions: string[][] = [];
  // Quiet is decided by hand: the clock's callbacks run when an event has come and the test says so.
  const clock = new ManualClock();
  const source = new DirectorySource(
    root,
    {
      apply(changes) {
        transactions.push(changes.map(({ object }) => idOf(object)).sort());
        next.resolve();
      },
      rejected: (file) => t.fail(file.problems.join()),
      trouble: (path, problem) => t.fail(`${path} ${problem}`),
    },
    clock,
    { rescanMs: 1e9 },
  );
  t.teardown(() => source.close());
  await source.start();
  const settle = async () => {
    // Lets the kernel's events in, then time passes until the transaction is there.
    let done = false;
    void next.promise.then(() => {
      done = true;
    });
    while (!done) {
      await new Promise((resolve) => setImmediate(resolve));
      clock.advance(1);
    }
    next = Promise.withResolvers();
  };
  writeFileSync(join(root, 'a.yaml'), pod('a'));
  writeFileSync(join(root, 'sub/b.yaml'), pod('b'));
  await settle();
  t.same(transactions.splice(0).flat().sort(), ['Pod default/a', 'Pod default/b']);
  mkdirSync(join(root, 'new'));
  writeFileSync(join(root, 'new/.tmp'), pod('c'));
  renameSync(join(root, 'new/.tmp'), join(root, 'new/c.yaml'));
  await settle();
  t.same(transactions.splice(0), [['Pod default/c']], 'in a folder that was not there before');
  rmSync(join(root, 'new'), { recursive: true });
  await settle();
  t.same(transactions.splice(0), [['Pod default/c']]);
  mkdirSync(join(root, 'new'));
  writeFileSync(join(root, 'new/d.yaml'), pod('d'));
  await settle();
  t.same(transactions.splice(0), [['Pod default/d']], 'and in its successor of the same name');
});
