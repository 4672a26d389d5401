import t, { type Test } from 'tap';
import { TokenReviewVerifier } from '../../../../src/control/ca/token-review-verifier.js';
import { StatusCode } from '../../../../src/grpc/status.js';
import { ApiError } from '../../../../src/kube/api.js';
import { RESOURCES } from '../../../../src/kube/resources.js';
import { ManualClock } from '../../../../src/lib/manual-clock.js';
import { logger, setLevel, setLogSink } from '../../../../src/telemetry/log.js';
import { createRegistry } from '../../../../src/telemetry/metrics.js';
import { MemoryApi } from '../../../support/memory-api.js';

const logged: string[] = [];
setLogSink((line) => logged.push(line));
setLevel('debug');

const PREFIX = 'authentication.kubernetes.io/';
const GOOD = {
  authenticated: true,
  audiences: ['istio-ca'],
  user: {
    username: 'system:serviceaccount:istio-system:ztunnel',
    extra: { [`${PREFIX}pod-name`]: ['z-1'], [`${PREFIX}pod-uid`]: ['u-1'], [`${PREFIX}node-name`]: ['node-1'] },
  },
};

function setup(_t: Test, status: unknown = GOOD) {
  const api = new MemoryApi();
  const clock = new ManualClock();
  const metrics = createRegistry();
  api.review = () => status;
  const verifier = new TokenReviewVerifier({
    api,
    audience: 'istio-ca',
    trustDomain: 'cluster.local',
    clock,
    log: logger('ca'),
    metrics,
  });
  const asked = () => api.calls.filter(({ verb }) => verb === 'create').length;
  return { api, clock, metrics, verifier, asked };
}

t.test('the audience is asked for, and an answer that does not name it is none', async (t) => {
  const { api, verifier } = setup(t, { ...GOOD, audiences: undefined });
  t.match(await verifier.verify('a.b.c'), { ok: false, error: /not for "istio-ca"/ });
  t.match(api.calls[0]?.object, { spec: { token: 'a.b.c', audiences: ['istio-ca'] } });
  t.match(await setup(t, { ...GOOD, audiences: ['https://kubernetes'] }).verifier.verify('x'), { ok: false });
});

t.test('an answer of a strange shape is a refusal', async (t) => {
  for (const status of [null, 'yes', [], { authenticated: 'true' }, { ...GOOD, user: undefined }]) {
    t.match(await setup(t, status).verifier.verify('x'), { ok: false });
  }
});

t.test('a token bound to a node without a pod speaks for no node', async (t) => {
  const extra = { [`${PREFIX}node-name`]: ['node-1'], [`${PREFIX}node-uid`]: ['n'] };
  const { verifier } = setup(t, { ...GOOD, user: { ...GOOD.user, extra } });
  t.match(await verifier.verify('x'), { ok: true, value: { node: undefined } });
});

t.test('where the API server does not say the node, it is that of the pod itself', async (t) => {
  const { [`${PREFIX}node-name`]: _, ...extra } = GOOD.user.extra;
  const { api, verifier } = setup(t, { ...GOOD, user: { ...GOOD.user, extra } });
  t.match(await verifier.verify('x'), { ok: false, error: /pod istio-system\/z-1 is gone/ });
  await api.create(RESOURCES.Pod, {
    metadata: { namespace: 'istio-system', name: 'z-1' },
    spec: { nodeName: 'node-7' },
  });
  t.match(await verifier.verify('y'), { ok: false }, 'of the same name, and another one');
  const uid = (await api.get(RESOURCES.Pod, { namespace: 'istio-system', name: 'z-1' }))?.metadata.uid ?? '';
  extra[`${PREFIX}pod-uid`] = [uid];
  t.match(await verifier.verify('z'), { ok: true, value: { node: 'node-7' } });
});

t.test('an answer is remembered for 30 s, a refusal for 3 s, and by the whole token', async (t) => {
  const { api, clock, verifier, asked } = setup(t);
  await verifier.verify('a');
  clock.advance(29_000);
  t.match(await verifier.verify('a'), { ok: true });
  t.equal(asked(), 1);
  api.review = () => ({ authenticated: false });
  t.match(await verifier.verify('aa'), { ok: false });
  t.match(await verifier.verify('aa'), { ok: false });
  t.equal(asked(), 2);
  clock.advance(3_000);
  t.match(await verifier.verify('a'), { ok: false });
  t.match(await verifier.verify('aa'), { ok: false });
  t.equal(asked(), 4);
});

t.test('equal tokens at the same time are asked for once', async (t) => {
  const { verifier, asked } = setup(t);
  const results = await Promise.all(Array.from({ length: 50 }, () => verifier.verify('a')));
  t.ok(results.every(({ ok }) => ok));
  t.equal(asked(), 1);
});

t.test('while the API server cannot be asked nobody is refused, and nothing of it is remembered', async (t) => {
  const { api, metrics, verifier } = setup(t);
  api.before = () => {
    throw new ApiError(503, 'ServiceUnavailable', 'POST tokenreviews: 503');
  };
  await t.rejects(verifier.verify('SECRET'), { code: StatusCode.UNAVAILABLE });
  await t.rejects(verifier.verify('SECRET'), { code: StatusCode.UNAVAILABLE });
  t.equal(logged.filter((line) => line.includes('tokens cannot be verified now')).length, 1, 'said once');
  t.notMatch(logged.join('\n'), /SECRET/);
  api.before = () => {};
  t.match(await verifier.verify('SECRET'), { ok: true });
  t.match(await metrics.render(), /meltemi_token_reviews_total\{result="failed"\} 2/);
  t.match(await metrics.render(), /meltemi_token_reviews_total\{result="accepted"\} 1/);
});

t.test('an API server that does not answer is waited for 5 s', async (t) => {
  const { api, clock, verifier } = setup(t);
  const hung = Promise.withResolvers<void>();
  api.before = () => hung.promise;
  const verified = verifier.verify('a');
  clock.advance(4_999);
  clock.advance(1);
  await t.rejects(verified, { code: StatusCode.UNAVAILABLE });
  hung.resolve();
});

t.test('strangers cannot make us ask without end, nor remember without end', async (t) => {
  const { api, clock, verifier } = setup(t);
  const hung = Promise.withResolvers<void>();
  api.before = () => hung.promise;
  const waiting = Array.from({ length: 128 }, (_, index) => verifier.verify(`t${index}`).catch(() => undefined));
  await t.rejects(verifier.verify('one more'), { code: StatusCode.UNAVAILABLE });
  hung.resolve();
  await Promise.all(waiting);
  t.match(await verifier.verify('one more'), { ok: true });
  api.before = () => {};
  for (let index = 0; index < 5_000; index++) await verifier.verify(`u${index}`);
  clock.advance(1);
  const before = api.calls.length;
  await verifier.verify('u4999');
  t.equal(api.calls.length, before);
  await verifier.verify('u0');
  t.equal(api.calls.length, before + 1, 'the oldest are forgotten');
});
