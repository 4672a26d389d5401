import t from 'tap';
import { CniHandler } from '../../../../src/agent/cni/handler.js';
import type { CniRequest } from '../../../../src/agent/cni/request.js';
import type { Sandbox } from '../../../../src/agent/enroll/sandboxes.js';
import { ManualClock } from '../../../../src/lib/manual-clock.js';
import { logger, setLogSink } from '../../../../src/telemetry/log.js';
import { createRegistry } from '../../../../src/telemetry/metrics.js';
import { pass } from '../../../support/pass.js';

setLogSink(() => undefined);

const ASKED: CniRequest = {
  containerId: 'c1',
  namespace: 'shop',
  name: 'web',
  uid: 'u1',
  netns: '/run/netns/x',
  ips: ['10.0.0.7'],
  waitMs: 9000,
};
const STAYS = new AbortController().signal;

/** An enrolment whose pods are admitted, or not, when the test says so. */
function setUp(options: { readonly maxWaiting?: number } = {}) {
  const clock = new ManualClock();
  const metrics = createRegistry();
  const sandboxes = { put: [] as Sandbox[], removed: [] as string[], refuses: undefined as string | undefined };
  const asked: { name: string; settle(outcome: { captured: boolean; because?: string } | Error): void }[] = [];
  const enrolment = {
    settled: true,
    admission(_namespace: string, name: string, _uid: string, signal: AbortSignal) {
      return new Promise<{ captured: boolean; because?: string }>((resolve, reject) => {
        const settle = (outcome: { captured: boolean } | Error) =>
          outcome instanceof Error ? reject(outcome) : resolve(outcome);
        asked.push({ name, settle });
        signal.addEventListener('abort', () => reject(new Error('listeners: no room')), { once: true });
      });
    },
  };
  const handler = new CniHandler({
    sandboxes: {
      async put(sandbox) {
        if (sandboxes.refuses !== undefined) throw new Error(sandboxes.refuses);
        sandboxes.put.push(sandbox);
      },
      remove: (uid) => sandboxes.removed.push(uid),
    },
    enrolment,
    hostRoot: '/nowhere',
    clock,
    log: logger('cni'),
    metrics,
    ...options,
  });
  const counted = async (verb: string, result: string) => {
    const line = new RegExp(`^meltemi_cni_requests_total\\{verb="${verb}",result="${result}"\\} (\\d+)$`, 'm');
    return Number(line.exec(await metrics.render())?.[1] ?? 0);
  };
  return { clock, metrics, sandboxes, asked, enrolment, handler, counted };
}

t.test('a pod is answered for when it is enrolled, and not before', async (t) => {
  const { handler, asked, sandboxes, clock, counted, metrics } = setUp();
  let answered = false;
  const answer = handler.answer('add', ASKED, STAYS).finally(() => {
    answered = true;
  });
  await pass(clock, 3000);
  t.equal(answered, false);
  t.match(await metrics.render(), /^meltemi_cni_waiting 1$/m);
  t.same(sandboxes.put, [
    { uid: 'u1', namespace: 'shop', name: 'web', netns: '/nowhere/run/netns/x', ips: ['10.0.0.7'] },
  ]);
  asked[0]?.settle({ captured: true });
  t.same(await answer, { status: 200, body: { result: 'enrolled', because: '' } });
  t.equal(await counted('add', 'enrolled'), 1);
  t.match(await metrics.render(), /^meltemi_cni_waiting 0$/m);
  t.match(await metrics.render(), /^meltemi_cni_add_duration_seconds_sum 3$/m);
  t.equal(clock.pending, 0);
});

t.test('a pod that is not to be captured starts, and is told why', async (t) => {
  const { handler, asked, clock } = setUp();
  const answer = handler.answer('add', ASKED, STAYS);
  await pass(clock, 0);
  asked[0]?.settle({ captured: false, because: 'no-label' });
  t.same(await answer, { status: 200, body: { result: 'not-captured', because: 'no-label' } });
});

t.test('when the plugin’s time is over it is told what the pod waits for', async (t) => {
  const { handler, clock, counted } = setUp();
  const answer = handler.answer('add', ASKED, STAYS);
  await pass(clock, 8999);
  await pass(clock, 1);
  t.match(await answer, { status: 500, body: { because: 'listeners: no room', remedy: /kubelet tries again/ } });
  t.equal(await counted('add', 'failed'), 1);
});

t.test('a sandbox that cannot be taken in is told at once', async (t) => {
  const { handler, sandboxes } = setUp();
  sandboxes.refuses = '/run/netns/x is no network namespace';
  t.match(await handler.answer('add', ASKED, STAYS), { status: 500, body: { because: /is no network namespace/ } });
  t.match(await handler.answer('add', { ...ASKED, netns: '' }, STAYS), { status: 400 });
});

t.test('a plugin that goes away is not waited for', async (t) => {
  const { handler, clock, counted, metrics } = setUp();
  const gone = new AbortController();
  const answer = handler.answer('add', ASKED, gone.signal);
  await pass(clock, 0);
  gone.abort();
  await answer;
  t.equal(await counted('add', 'abandoned'), 1);
  t.match(await metrics.render(), /^meltemi_cni_waiting 0$/m);
});

t.test('no more pods wait than there is room for', async (t) => {
  const { handler, asked, clock, counted } = setUp({ maxWaiting: 2 });
  const answers = ['a', 'b'].map((uid) => handler.answer('add', { ...ASKED, uid }, STAYS));
  await pass(clock, 0);
  t.match(await handler.answer('add', ASKED, STAYS), { status: 503, body: { retry: true, because: /^2 pods/ } });
  t.equal(await counted('add', 'busy'), 1);
  for (const each of asked) each.settle({ captured: true });
  await Promise.all(answers);
  const later = handler.answer('add', ASKED, STAYS);
  await pass(clock, 0);
  asked.at(-1)?.settle({ captured: true });
  t.match(await later, { status: 200 });
});

t.test('an agent that is being replaced sends everybody on, also those who wait', async (t) => {
  const { handler, clock, counted } = setUp();
  const answer = handler.answer('add', ASKED, STAYS);
  await pass(clock, 0);
  handler.close();
  for (const each of [await answer, await handler.answer('check', ASKED, STAYS)]) {
    t.match(each, { status: 503, body: { retry: true } });
  }
  t.equal(await counted('add', 'stopping'), 1);
  t.match(handler.status(), { status: 503 });
});

t.test('the end of a sandbox is passed on, that of a former one of the same pod is not', async (t) => {
  const { handler, asked, sandboxes, clock } = setUp();
  for (const containerId of ['c1', 'c2']) {
    const answer = handler.answer('add', { ...ASKED, containerId }, STAYS);
    await pass(clock, 0);
    asked.at(-1)?.settle({ captured: true });
    await answer;
  }
  t.match(await handler.answer('del', { ...ASKED, containerId: 'c1' }, STAYS), { status: 200 });
  t.same(sandboxes.removed, []);
  await handler.answer('del', { ...ASKED, containerId: 'c2', netns: '' }, STAYS);
  t.same(sandboxes.removed, ['u1']);
  await handler.answer('del', { ...ASKED, uid: 'never-seen' }, STAYS);
  t.same(sandboxes.removed, ['u1']);
});

t.test('the status tells whether pods could start', async (t) => {
  const { handler, enrolment } = setUp();
  t.match(handler.status(), { status: 200, body: { result: 'ok' } });
  enrolment.settled = false;
  t.match(handler.status(), { status: 503 });
});
