import t from 'tap';
import { PodLookup } from '../../../../src/control/ca/pod-lookup.js';
import { StatusCode } from '../../../../src/grpc/status.js';
import { ApiError } from '../../../../src/kube/api.js';
import { RESOURCES } from '../../../../src/kube/resources.js';
import { ManualClock } from '../../../../src/lib/manual-clock.js';
import { logger, setLevel } from '../../../../src/telemetry/log.js';
import { createRegistry } from '../../../../src/telemetry/metrics.js';
import { MemoryApi } from '../../../support/memory-api.js';

setLevel('silent');

function setup() {
  const api = new MemoryApi();
  const clock = new ManualClock();
  const metrics = createRegistry();
  const lookup = new PodLookup({ api, clock, log: logger('ca'), metrics });
  const lives = (node: string, serviceAccount = 'cart', namespace = 'shop') =>
    lookup.lives(node, { trustDomain: 'cluster.local', namespace, serviceAccount });
  const pod = (name: string, nodeName: string, phase = 'Pending') =>
    api.create(RESOURCES.Pod, {
      metadata: { namespace: 'shop', name },
      spec: { nodeName, serviceAccountName: 'cart' },
      status: { phase },
    });
  return { api, clock, metrics, lives, pod };
}

t.test('a pod counts on its node, for its account, in its namespace, and while it lives', async (t) => {
  const { lives, pod } = setup();
  await pod('a', 'node-1');
  await pod('b', 'node-2', 'Succeeded');
  await pod('c', 'node-3', 'Failed');
  t.ok(await lives('node-1'));
  t.notOk(await lives('node-1', 'db'));
  t.notOk(await lives('node-1', 'cart', 'other'));
  for (const node of ['node-2', 'node-3', 'node-4']) t.notOk(await lives(node));
});

t.test('the same question is asked once at a time, and once a second while the answer is no', async (t) => {
  const { api, clock, lives, pod } = setup();
  t.same(await Promise.all([lives('node-1'), lives('node-1'), lives('node-1')]), [false, false, false]);
  await pod('a', 'node-1');
  api.calls.length = 0;
  t.notOk(await lives('node-1'));
  t.equal(api.calls.length, 0);
  clock.advance(1_000);
  t.ok(await lives('node-1'));
});

t.test('an API server that cannot be asked refuses nobody', async (t) => {
  const { api, metrics, lives } = setup();
  api.before = () => {
    throw new ApiError(0, '', 'no way');
  };
  await t.rejects(lives('node-1'), { code: StatusCode.UNAVAILABLE });
  t.match(await metrics.render(), /meltemi_ca_pod_lookups_total\{result="failed"\} 1/);
});

t.test('an agent cannot make us ask without end', async (t) => {
  const { api, lives } = setup();
  const hung = Promise.withResolvers<void>();
  api.before = () => hung.promise;
  const waiting = Array.from({ length: 32 }, (_, index) => lives('node-1', `sa-${index}`));
  await t.rejects(lives('node-1', 'one-more'), { code: StatusCode.UNAVAILABLE });
  hung.resolve();
  await Promise.all(waiting);
});
