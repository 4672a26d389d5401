import { setImmediate as turn } from 'node:timers/promises';
import t from 'tap';
import { ManualClock } from '../../../src/lib/manual-clock.js';
import { Gate } from '../../../src/xds/gate.js';

t.test('lets a few in at a time, in order; those who leave make room, also while they wait', async (t) => {
  const gate = new Gate(2, 1000, new ManualClock());
  const inside: string[] = [];
  const leave = Object.fromEntries(
    ['a', 'b', 'c', 'd', 'e'].map((name) => [name, gate.enter(() => inside.push(name))]),
  );
  t.same(inside, [], 'never at once');
  await turn();
  t.same(inside, ['a', 'b']);
  leave.c?.();
  leave.a?.();
  leave.a?.();
  t.same(inside, ['a', 'b', 'd'], 'one place, once');
  leave.b?.();
  t.same(inside, ['a', 'b', 'd', 'e']);
});

t.test('who stays for too long no longer keeps others waiting, and leaves no second place', async (t) => {
  const clock = new ManualClock();
  const gate = new Gate(1, 1000, clock);
  const inside: string[] = [];
  const leave = gate.enter(() => inside.push('slow'));
  gate.enter(() => inside.push('next'));
  gate.enter(() => inside.push('last'));
  await turn();
  clock.advance(999);
  t.same(inside, ['slow']);
  clock.advance(1);
  t.same(inside, ['slow', 'next']);
  leave();
  t.same(inside, ['slow', 'next']);
});
