import t, { type Test } from 'tap';
import { applyChanges } from '../../../../src/control/inputs/inputs.js';
import { merged, StatusWriter } from '../../../../src/control/status/status-writer.js';
import { ApiError, type ApiObject } from '../../../../src/kube/api.js';
import { RESOURCES } from '../../../../src/kube/resources.js';
import { ManualClock } from '../../../../src/lib/manual-clock.js';
import { parseObject } from '../../../../src/model/kubernetes/object.js';
import { logger } from '../../../../src/telemetry/log.js';
import { createRegistry } from '../../../../src/telemetry/metrics.js';
import { emptyMesh } from '../../../support/derived-mesh.js';
import { MemoryApi } from '../../../support/memory-api.js';

const policy = (name: string, spec: object = { rules: [{}] }, more: object = {}): ApiObject => ({
  apiVersion: 'security.istio.io/v1',
  kind: 'AuthorizationPolicy',
  metadata: { name, namespace: 'shop', generation: 1 },
  spec,
  ...more,
});
const AUDIT = { action: 'AUDIT', rules: [{}] };

async function start(t: Test, objects: readonly ApiObject[] = []) {
  const { graph, inputs, mesh } = emptyMesh();
  const api = new MemoryApi();
  const clock = new ManualClock(Date.UTC(2030, 0, 1));
  const metrics = createRegistry();
  const writer = new StatusWriter({ api, inputs, mesh, clock, log: logger('status'), metrics });
  const see = (object: ApiObject, gone = false) => {
    const parsed = parseObject(object);
    if (parsed.ok && 'object' in parsed.value) {
      const change = { object: parsed.value.object, gone };
      graph.transact(() => applyChanges(inputs, [change]));
    } else writer.rejected(`${object.kind} ${object.metadata.namespace}/${object.metadata.name}`);
  };
  for (const object of objects) {
    await api.create(RESOURCES.AuthorizationPolicy, object);
    see(object);
  }
  const ended = new AbortController();
  const running = writer.run(ended.signal);
  t.teardown(async () => {
    ended.abort();
    await running;
  });
  return {
    api,
    clock,
    metrics,
    see,
    /** Lets the writer do what it has to. */
    async settle() {
      for (let i = 0; i < 200; i++) {
        await new Promise((resolve) => setImmediate(resolve));
        clock.advance(20);
      }
    },
    async conditions(name: string) {
      const object = await api.get(RESOURCES.AuthorizationPolicy, { namespace: 'shop', name });
      return (object?.status as { conditions?: unknown[] } | undefined)?.conditions;
    },
    get writes() {
      return api.calls.filter(({ verb }) => verb === 'apply').length;
    },
  };
}

t.test('says of everything there is how it stands, and since when', async (t) => {
  const { settle, conditions } = await start(t, [policy('fine'), policy('audit', AUDIT)]);
  await settle();
  t.match(await conditions('fine'), [
    {
      type: 'ZtunnelAccepted',
      status: 'True',
      reason: 'Accepted',
      message: 'enforced by node agents',
      observedGeneration: 1,
      lastTransitionTime: /^2030-01-01T00:00:\d\dZ$/,
    },
  ]);
  t.match(await conditions('audit'), [{ status: 'False', reason: 'UnsupportedValue' }]);
});

t.test('writes nothing twice, and nothing when only the status changed', async (t) => {
  const mesh = await start(t, [policy('fine')]);
  await mesh.settle();
  t.equal(mesh.writes, 1);
  await mesh.api.patch(RESOURCES.AuthorizationPolicy, { namespace: 'shop', name: 'fine' }, { status: { x: 1 } });
  mesh.see(policy('fine'));
  await mesh.settle();
  t.equal(mesh.writes, 1);
});

t.test('keeps the time of a status that stays, and what others wrote', async (t) => {
  const theirs = { type: 'Theirs', status: 'Unknown', lastProbeTime: 'x' };
  const mesh = await start(t, [policy('fine', AUDIT, { status: { conditions: [theirs] } })]);
  await mesh.settle();
  const [, first] = (await mesh.conditions('fine')) as [unknown, { lastTransitionTime: string }];
  const next = policy('fine', { action: 'CUSTOM', provider: { name: 'x' }, rules: [{}] });
  const changed = { ...next, metadata: { ...next.metadata, generation: 2 } };
  mesh.clock.advance(60_000);
  await mesh.api.apply(RESOURCES.AuthorizationPolicy, changed);
  mesh.see(changed);
  await mesh.settle();
  t.match(await mesh.conditions('fine'), [
    theirs,
    { message: /CUSTOM/, observedGeneration: 2, lastTransitionTime: first.lastTransitionTime },
  ]);
});

t.test('a bad object that got in says so, until it is mended', async (t) => {
  const mesh = await start(t);
  const bad = policy('bad', { action: 'deny' });
  await mesh.api.create(RESOURCES.AuthorizationPolicy, bad);
  mesh.see(bad);
  await mesh.settle();
  t.match(await mesh.conditions('bad'), [
    { status: 'False', reason: 'Invalid', message: /spec\.action is "deny", none of ALLOW/ },
  ]);
  const good = policy('bad', { action: 'DENY', rules: [{}] });
  await mesh.api.apply(RESOURCES.AuthorizationPolicy, good);
  mesh.see(good);
  await mesh.settle();
  t.match(await mesh.conditions('bad'), [{ status: 'True', reason: 'Accepted' }]);
});

t.test('a conflict is looked at again; what is gone, refused or failing stops nothing else', async (t) => {
  const mesh = await start(
    t,
    ['a', 'b', 'c', 'd'].map((name) => policy(name)),
  );
  let conflicts = 2;
  let failures = 1;
  mesh.api.before = ({ verb, object, name }) => {
    if (verb === 'apply' && object?.metadata.name === 'a' && conflicts-- > 0) throw new ApiError(409, 'Conflict', 'x');
    if (verb === 'apply' && object?.metadata.name === 'b') throw new ApiError(422, 'Invalid', 'no such subresource');
    if (verb === 'get' && name?.name === 'c' && failures-- > 0) throw new ApiError(0, '', 'no answer');
  };
  await mesh.settle();
  t.ok(await mesh.conditions('a'));
  t.notOk(await mesh.conditions('b'));
  t.ok(await mesh.conditions('c'));
  t.ok(await mesh.conditions('d'));
  const metrics = await mesh.metrics.render();
  t.match(metrics, 'meltemi_status_writes_total{outcome="written"} 3');
  t.match(metrics, 'meltemi_status_writes_total{outcome="conflict"} 2');
  t.match(metrics, 'meltemi_status_writes_total{outcome="failed"} 2');
});

t.test('what is to be warned of may change without the object', async (t) => {
  const mesh = await start(t, [policy('fine')]);
  await mesh.settle();
  mesh.see({ apiVersion: 'v1', kind: 'Namespace', metadata: { name: 'shop' } });
  await mesh.settle();
  t.match(await mesh.conditions('fine'), [{ status: 'True', message: /namespace shop is not enrolled/ }]);
});

t.test('writes slowly: fifty a second', async (t) => {
  const mesh = await start(
    t,
    Array.from({ length: 200 }, (_, i) => policy(`p${i}`)),
  );
  const seen: number[] = [];
  const from = mesh.clock.now();
  while (mesh.writes < 200) {
    await new Promise((resolve) => setImmediate(resolve));
    mesh.clock.advance(10);
    seen.push(mesh.writes);
  }
  t.ok(mesh.clock.now() - from >= 200 * 20 - 20, `${mesh.clock.now() - from} ms`);
});

t.test('of ours, what is not to be said any more goes', async (t) => {
  const condition = { type: 'istio.io/WaypointMissing', status: 'True' } as const;
  t.same(merged([condition, { type: 'x' }], [], 1, 0), [{ type: 'x' }]);
  t.equal(merged([{ type: 'x' }], [], 1, 0), undefined);
});
