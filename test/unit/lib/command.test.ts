import { test } from 'tap';
import { run } from '../../../src/lib/command.js';
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
