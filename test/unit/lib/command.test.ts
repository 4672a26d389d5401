import { test } from 'tap';
import { limitRun, run } from '../../../src/lib/command.js';
import { err, ok } from '../../../src/lib/result.js';

test('the output of a program comes back as it is', async (t) => {
  t.same(await run('cat', [], { input: 'one\ntwo\n' }), ok('one\ntwo\n'));
});

test('a program that fails is named with its code and what it said', async (t) => {
  t.same(
    await run('sh', ['-c', 'echo no such thing >&2; exit 3']),
    err('"sh -c echo no such thing >&2; exit 3" failed with code 3: no such thing'),
  );
});

test('a missing program is told from a failing one', async (t) => {
  t.same(await run('no-such-program', []), err('"no-such-program" cannot be started: is the program installed?'));
});

test('a program that hangs is ended', async (t) => {
  t.same(await run('sleep', ['60'], { timeoutMs: 20 }), err('"sleep 60" did not end within 20 ms'));
});

test('no more programs run at once than are allowed, and each in its turn', async (t) => {
  const started: string[] = [];
  const ends = new Map<string, () => void>();
  const limited = limitRun(async (command) => {
    started.push(command);
    await new Promise<void>((resolve) => ends.set(command, resolve));
    if (command === 'b') throw new Error('a bug');
    return { ok: true, value: command };
  }, 2);
  const turn = () => new Promise((resolve) => setImmediate(resolve));
  const all = ['a', 'b', 'c', 'd'].map((command) => limited(command, []).catch(() => undefined));
  await turn();
  t.same(started, ['a', 'b']);
  ends.get('b')?.();
  await turn();
  t.same(started, ['a', 'b', 'c'], 'also after one that throws');
  ends.get('a')?.();
  await turn();
  t.same(started, ['a', 'b', 'c', 'd']);
  for (const command of ['c', 'd']) ends.get(command)?.();
  await Promise.all(all);
  const again = limited('e', []);
  ends.get('e')?.();
  t.match(await again, { value: 'e' });
});
