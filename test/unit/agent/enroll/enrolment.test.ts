import t from 'tap';
import { Enrolment, type EnrolmentStep } from '../../../../src/agent/enroll/enrolment.js';
import { type PodRecord, parsePodRecord } from '../../../../src/agent/enroll/pod-record.js';
import type { PodSource } from '../../../../src/agent/enroll/pod-source.js';
import { ManualClock } from '../../../../src/lib/manual-clock.js';
import { logger, setLogSink } from '../../../../src/telemetry/log.js';

setLogSink(() => undefined);

const AMBIENT = { 'istio.io/dataplane-mode': 'ambient' };

function pod(name: string, more: Partial<Record<keyof PodRecord, unknown>> = {}): PodRecord {
  const parsed = parsePodRecord({
    uid: `${name}-uid`,
    name,
    namespace: 'shop',
    serviceAccount: name,
    namespaceLabels: AMBIENT,
    netns: `/run/netns/${name}`,
    ips: ['10.0.0.1'],
    phase: 'Running',
    ...more,
  });
  if (!parsed.ok) throw new Error(parsed.error);
  return parsed.value;
}

async function setUp(leftovers: readonly string[] = [], begin: 'start' | 'prepare' = 'start') {
  const clock = new ManualClock();
  const did: string[] = [];
  const failing = new Set<string>();
  const drifted: string[] = [];
  const reports = new Map<string, string>();
  const netnsIds = new Map<string, string>();
  const released: string[] = [];
  const step = (name: string): EnrolmentStep => ({
    name,
    staysInPod: name === 'two',
    async enrol({ record }) {
      did.push(`${name}+ ${record.name}`);
      return failing.has(`${name} ${record.name}`) ? 'it broke' : undefined;
    },
    async unenrol({ record }, why) {
      did.push(`${name}- ${record.name}: ${why}`);
      return failing.has(`${name}- ${record.name}`) ? 'it broke' : undefined;
    },
    audit: async () => (name === 'two' ? drifted.splice(0) : []),
  });
  let list: (pods: readonly PodRecord[]) => void = () => undefined;
  const source: PodSource = {
    start: async (changed) => {
      list = changed;
    },
    report: (record, redirection) => {
      if (redirection === undefined) reports.delete(record.name);
      else reports.set(record.name, redirection);
    },
    leaving: (record) => did.push(`leaving ${record.name}`),
    wasRedirected: (record) => leftovers.includes(record.name),
    released: (record) => released.push(record.name),
    close: () => undefined,
  };
  const enrolment = new Enrolment({
    source,
    steps: [
      { ...step('one'), ahead: true },
      { ...step('two'), ofNode: true },
    ],
    cluster: 'Kubernetes',
    netnsId: (path) => netnsIds.get(path) ?? (path === '' ? '' : `id of ${path}`),
    untunnelled: async (uid) => {
      did.push(`untunnelled ${uid}`);
    },
    clock,
    log: logger('enroll'),
    random: () => 0,
  });
  if (begin === 'start') await enrolment.start();
  else await enrolment.prepare();
  return {
    clock,
    enrolment,
    failing,
    drifted,
    reports,
    netnsIds,
    released,
    /** What was done since the last time. */
    async done(): Promise<string[]> {
      await settled();
      return did.splice(0);
    },
    /** Shows the list, and what was done since the last time. */
    async show(...pods: PodRecord[]): Promise<string[]> {
      list(pods);
      await settled();
      return did.splice(0);
    },
    async later(ms: number): Promise<string[]> {
      clock.advance(ms);
      await settled();
      return did.splice(0);
    },
  };
}

t.test('a captured pod goes through the steps in order, and back in reverse order', async (t) => {
  const { show, reports, enrolment } = await setUp();
  t.equal(enrolment.settled, false);
  t.strictSame(await show(pod('a')), ['one+ a', 'two+ a']);
  t.equal(enrolment.settled, true);
  t.equal(reports.get('a'), 'enabled');
  t.match(enrolment.states(), [{ uid: 'Kubernetes//Pod/shop/a', state: 'enabled', because: 'namespace-label' }]);
  t.strictSame(await show(pod('a', { namespaceLabels: {} })), [
    'leaving a',
    'untunnelled Kubernetes//Pod/shop/a',
    'two- a: pod left the mesh',
    'one- a: pod left the mesh',
  ]);
  t.notOk(reports.has('a'));
  t.strictSame(await show(pod('a')), ['one+ a', 'two+ a']);
  t.strictSame(await show(), ['two- a: pod deleted', 'one- a: pod deleted']);
  t.strictSame(enrolment.states(), []);
});

t.test('while a predecessor serves only what may be done ahead is done', async (t) => {
  const { show, enrolment, done, reports } = await setUp([], 'prepare');
  t.equal(enrolment.prepared, false);
  t.strictSame(await show(pod('a'), pod('b'), pod('c', { namespaceLabels: {} })), ['one+ a', 'one+ b']);
  t.equal(enrolment.prepared, true);
  t.equal(enrolment.settled, false);
  t.strictSame(await show(pod('a')), ['one- b: pod deleted', 'one+ a']);
  t.equal(reports.size, 0);
  await enrolment.start();
  t.strictSame(await done(), ['one+ a', 'two+ a']);
  t.equal(enrolment.settled, true);
  t.equal(reports.get('a'), 'enabled');
});

t.test('what was prepared and is gone at the start is undone', async (t) => {
  const { show, enrolment } = await setUp([], 'prepare');
  await show(pod('a'));
  const started = enrolment.start();
  t.strictSame(await show(), ['one+ a', 'two+ a', 'two- a: pod deleted', 'one- a: pod deleted']);
  await started;
});

t.test("beside a successor it lets go of pods that go, and leaves to the node what is the node's", async (t) => {
  const { show, enrolment, reports, later, drifted } = await setUp();
  await show(pod('a'), pod('b'), pod('c'), pod('d'));
  enrolment.standBy();
  t.strictSame(await show(pod('b'), pod('c', { namespaceLabels: {} }), pod('d', { uid: 'new' }), pod('e')), [
    'one- a: pod deleted',
    'one- c: pod left the mesh',
    'one- d: pod replaced',
  ]);
  t.equal(reports.get('c'), 'enabled', 'what is reported is the business of the successor');
  drifted.push('something');
  t.strictSame(await later(120_000), [], 'no audit');
  enrolment.resume();
  t.strictSame((await later(0)).sort(), ['one+ b', 'one+ d', 'one+ e', 'two+ b', 'two+ d', 'two+ e']);
  t.same(
    enrolment
      .states()
      .map(({ name, state }) => `${name} ${state}`)
      .sort(),
    ['b enabled', 'c none', 'd enabled', 'e enabled'],
  );
});

t.test('a retry that is due when a successor takes over is left to it', async (t) => {
  const { show, enrolment, later, failing } = await setUp();
  failing.add('two a');
  t.strictSame(await show(pod('a')), ['one+ a', 'two+ a']);
  enrolment.standBy();
  t.strictSame(await later(60_000), []);
  t.strictSame(await show(), ['one- a: pod deleted']);
});

t.test('showing the same again does nothing', async (t) => {
  const { show } = await setUp();
  await show(pod('a'));
  t.strictSame(await show(pod('a')), []);
});

t.test('a change of labels enrols again, without a gap', async (t) => {
  const { show } = await setUp();
  await show(pod('a'));
  t.strictSame(await show(pod('a', { labels: { app: 'x' } })), ['one+ a', 'two+ a']);
});

t.test('another network namespace, address or object is another pod', async (t) => {
  const { show, netnsIds, later } = await setUp();
  await show(pod('a'));
  const replaced = ['two- a: pod replaced', 'one- a: pod replaced', 'one+ a', 'two+ a'];
  t.strictSame(await show(pod('a', { netns: '/run/netns/other' })), replaced);
  t.strictSame(await show(pod('a', { netns: '/run/netns/other', ips: ['10.0.0.9'] })), replaced);
  t.strictSame(await show(pod('a', { uid: 'b', netns: '/run/netns/other', ips: ['10.0.0.9'] })), replaced);
  netnsIds.set('/run/netns/other', 'made anew');
  t.strictSame(await later(30_000), replaced, 'found by the audit');
});

t.test('a step that fails is tried again, and other pods go on', async (t) => {
  const { show, later, failing, reports, enrolment } = await setUp();
  failing.add('two a');
  t.strictSame((await show(pod('a'), pod('b'))).sort(), ['one+ a', 'one+ b', 'two+ a', 'two+ b']);
  t.equal(reports.get('a'), 'pending: two: it broke');
  t.equal(reports.get('b'), 'enabled');
  t.equal(enrolment.pending, 1);
  t.equal(enrolment.settled, true, 'one try is enough to be settled');
  t.strictSame(await later(50), ['one+ a', 'two+ a']);
  failing.clear();
  t.strictSame(await later(100), ['one+ a', 'two+ a']);
  t.equal(reports.get('a'), 'enabled');
});

t.test('what failed half-way is undone when the pod leaves', async (t) => {
  const { show, failing } = await setUp();
  failing.add('two a');
  await show(pod('a'));
  t.strictSame(await show(), ['two- a: pod deleted', 'one- a: pod deleted']);
});

t.test('an undoing that fails is tried again before anything else', async (t) => {
  const { show, later, failing } = await setUp();
  await show(pod('a'));
  failing.add('two- a');
  t.strictSame(await show(), ['two- a: pod deleted']);
  failing.clear();
  t.strictSame(await later(50), ['two- a: pod deleted', 'one- a: pod deleted']);
});

t.test('the pod label wins, and host network, sidecars and ended pods stay out', async (t) => {
  const { show, enrolment } = await setUp();
  await show(
    pod('in', { namespaceLabels: {}, labels: AMBIENT }),
    pod('out', { labels: { 'istio.io/dataplane-mode': 'none' } }),
    pod('host', { hostNetwork: true }),
    pod('side', { annotations: { 'sidecar.istio.io/status': '{}' } }),
    pod('done', { phase: 'Succeeded' }),
  );
  t.strictSame(
    enrolment.states().map(({ name, state, because }) => [name, state, because]),
    [
      ['in', 'enabled', 'pod-label'],
      ['out', 'none', 'pod-label'],
      ['host', 'none', 'host-network'],
      ['side', 'none', 'sidecar'],
      ['done', 'none', 'ended'],
    ],
  );
});

t.test('a pod without a network namespace waits for one', async (t) => {
  const { show, reports } = await setUp();
  t.strictSame(await show(pod('a', { netns: '' })), []);
  t.equal(reports.get('a'), 'pending: it has no network namespace yet');
  t.strictSame(await show(pod('a')), ['one+ a', 'two+ a']);
});

t.test('what a former process left is undone, or enrolled over', async (t) => {
  const { show } = await setUp(['a', 'b']);
  t.strictSame((await show(pod('a', { namespaceLabels: {} }), pod('b'))).sort(), [
    'one+ b',
    'one- a: pod left the mesh',
    'two+ b',
    'two- a: pod left the mesh',
  ]);
});

t.test('of two pods of one name the living one counts', async (t) => {
  const { show } = await setUp();
  const old = pod('a', { uid: 'old', phase: 'Failed' });
  t.strictSame(await show(pod('a', { uid: 'new' }), old), ['one+ a', 'two+ a']);
});

t.test('drift is mended', async (t) => {
  const { show, later, drifted } = await setUp();
  await show(pod('a'));
  t.strictSame(await later(30_000), []);
  drifted.push('a rule is gone');
  t.strictSame(await later(30_000), ['one+ a', 'two+ a']);
});

t.test(
  'a pod that moves to another revision is given up but stays captured, and nobody else’s pod is touched',
  async (t) => {
    const { show, reports, released, enrolment } = await setUp(['theirs']);
    const moved = { notOurs: 'other-revision' as const };
    t.strictSame(await show(pod('a'), { ...pod('theirs'), ...moved }), ['one+ a', 'two+ a']);
    t.strictSame(await show({ ...pod('a'), ...moved }), ['one- a: pod moved to another revision']);
    t.equal(reports.get('a'), 'enabled', 'the annotation is the other agent’s now');
    t.ok(released.includes('a'));
    t.match(enrolment.states()[0], { because: 'other-revision', state: 'none' });
  },
);

t.test('a suspicion is looked into at once, and mended', async (t) => {
  const { show, later, drifted, enrolment } = await setUp();
  await show(pod('a'));
  drifted.push('a rule is gone');
  enrolment.suspect('Kubernetes//Pod/shop/a');
  t.strictSame(await later(0), ['one+ a', 'two+ a']);
  drifted.push('and another');
  enrolment.suspect('Kubernetes//Pod/shop/a');
  t.strictSame(await later(0), [], 'but nobody keeps us busy');
  t.strictSame(await later(500), ['one+ a', 'two+ a']);
});

t.test('a pod may start once it is captured, or is known to be left alone', async (t) => {
  const { show, later, failing, enrolment } = await setUp();
  const ended = new AbortController();
  const admitted: unknown[] = [];
  for (const name of ['a', 'out', 'never']) {
    enrolment.admission('shop', name, '', ended.signal).then(
      (admission) => admitted.push([name, admission]),
      (error) => admitted.push([name, error.message]),
    );
  }
  failing.add('two a');
  await show(pod('a'), pod('out', { namespaceLabels: {} }));
  t.strictSame(admitted, [['out', { captured: false, because: 'no-label' }]]);
  failing.clear();
  await later(100);
  t.strictSame(admitted[1], ['a', { captured: true }]);
  ended.abort();
  await later(0);
  t.strictSame(admitted[2], ['never', 'pod shop/never is not captured yet: the agent has not heard of it']);
  await t.rejects(enrolment.admission('shop', 'a', 'another uid', ended.signal), /not captured yet/);
});

async function settled(): Promise<void> {
  for (let i = 0; i < 50; i++) await Promise.resolve();
}
