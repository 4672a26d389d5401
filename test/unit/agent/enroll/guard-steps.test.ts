import { test } from 'tap';
import { parsePodRecord } from '../../../../src/agent/enroll/pod-record.js';
import { DELETED } from '../../../../src/agent/enroll/pod-task.js';
import { guardSteps, type PodGuard } from '../../../../src/agent/enroll/steps.js';
import { ok } from '../../../../src/lib/result.js';

/** A guard that notes what it is told. */
function rig() {
  const said: string[] = [];
  const held = new Set<string>();
  const guard: PodGuard = {
    holds: (uid) => held.has(uid),
    async put(uid, { passing }) {
      said.push(passing === true ? 'passing' : 'held');
      if (passing === true) held.delete(uid);
      else held.add(uid);
      return ok(undefined);
    },
    async remove(uid) {
      said.push('removed');
      held.delete(uid);
      return ok(undefined);
    },
  };
  const { guard: first, hold: last } = guardSteps(guard);
  const parsed = parsePodRecord({ name: 'a', namespace: 'shop', uid: 'uid-a', netns: '/ns/a', ips: ['10.1.0.1'] });
  if (!parsed.ok) throw new Error(parsed.error);
  const of = (phase: string) => ({ uid: 'a', record: { ...parsed.value, phase } });
  return {
    enrol: async (phase: string) => {
      await first.enrol(of(phase));
      said.push('steered');
      await last.enrol(of(phase));
      return said.splice(0);
    },
    unenrol: async (why: string) => {
      await last.unenrol(of('Running'), why);
      said.push('not steered');
      await first.unenrol(of('Running'), why);
      return said.splice(0);
    },
  };
}

test('a running pod is held only while its connections are steered', async (t) => {
  const { enrol, unenrol } = rig();
  t.same(await enrol('Running'), ['passing', 'steered', 'held']);
  t.same(await enrol('Running'), ['held', 'steered'], 'again: it stays held');
  t.same(await unenrol('pod left the mesh'), ['passing', 'not steered', 'removed']);
});

test('one that does not run yet is held at once, and one that is gone is not let pass', async (t) => {
  const { enrol, unenrol } = rig();
  t.same(await enrol('Pending'), ['held', 'steered']);
  t.same(await unenrol(DELETED), ['not steered', 'removed']);
});
