import { setImmediate as turn } from 'node:timers/promises';
import t, { type Test } from 'tap';
import type { ObjectChange } from '../../../../../src/control/inputs/inputs.js';
import { Batch } from '../../../../../src/control/inputs/kubernetes/batch.js';
import { ManualClock } from '../../../../../src/lib/manual-clock.js';
import { parseObject } from '../../../../../src/model/kubernetes/object.js';

function change(name: string, version = '1', gone = false): ObjectChange {
  const parsed = parseObject({ apiVersion: 'v1', kind: 'Namespace', metadata: { name, labels: { v: version } } });
  if (!parsed.ok || 'ignored' in parsed.value) throw new Error('no good');
  return { object: parsed.value.object, gone };
}

function rig(t: Test) {
  const clock = new ManualClock();
  const applied: string[] = [];
  const batch = new Batch(
    (changes) =>
      applied.push(
        changes
          .map(({ object: { metadata }, gone }) => `${gone ? '-' : '+'}${metadata.name}${metadata.labels.v}`)
          .join(),
      ),
    5,
    clock,
  );
  t.teardown(() => batch.close());
  return { clock, applied, batch };
}

t.test('holds everything back until it is released, then applies it as one', async (t) => {
  const { clock, applied, batch } = rig(t);
  batch.add([change('a'), change('b')]);
  batch.add([change('c')]);
  clock.advance(1000);
  await turn();
  t.same(applied, []);
  batch.release();
  t.same(applied, ['+a1,+b1,+c1']);
});

t.test('applies a lone change at once, with what came in the same turn', async (t) => {
  const { clock, applied, batch } = rig(t);
  batch.release();
  clock.advance(100);
  batch.add([change('a')]);
  batch.add([change('b')]);
  await turn();
  t.same(applied, ['+a1,+b1'], 'no time has passed');
});

t.test('gathers what follows within the window, and makes nobody wait for longer', async (t) => {
  const { clock, applied, batch } = rig(t);
  batch.release();
  batch.add([change('a')]);
  await turn();
  for (let i = 0; i < 4; i++) {
    batch.add([change(`b${i}`)]);
    clock.advance(1);
    await turn();
  }
  t.same(applied, ['+a1']);
  clock.advance(1);
  t.same(applied, ['+a1', '+b01,+b11,+b21,+b31'], 'changes do not put the end of the window off');
});

t.test('of one object only the last state counts', async (t) => {
  const { applied, batch } = rig(t);
  batch.release();
  batch.add([change('a', '1')]);
  batch.add([change('a', '2')]);
  batch.add([change('b', '1')]);
  batch.add([change('b', '1', true)]);
  await turn();
  t.same(applied, ['+a2,-b1']);
});

t.test('applies nothing after its end', async (t) => {
  const { clock, applied, batch } = rig(t);
  batch.release();
  batch.add([change('a')]);
  batch.close();
  await turn();
  batch.add([change('b')]);
  clock.advance(100);
  await turn();
  t.same(applied, []);
  t.equal(clock.pending, 0);
});
