import { setTimeout as delay } from 'node:timers/promises';
import t, { type Test } from 'tap';
import { soleLeader } from '../../../../src/control/leader/leader.js';
import { agentPod, decideTaint, taintedNode } from '../../../../src/control/taint/decide.js';
import { untaintNodes } from '../../../../src/control/taint/untaint-nodes.js';
import { ApiError, type ApiObject } from '../../../../src/kube/api.js';
import { RESOURCES } from '../../../../src/kube/resources.js';
import { systemClock } from '../../../../src/lib/clock.js';
import { logger, setLogSink } from '../../../../src/telemetry/log.js';
import { createRegistry } from '../../../../src/telemetry/metrics.js';
import { MemoryApi } from '../../../support/memory-api.js';

setLogSink(() => undefined);

const TAINT = { key: 'cni.istio.io/not-ready', effect: 'NoSchedule' };
const OTHER = { key: 'gpu', value: 'yes', effect: 'NoExecute' };

function node(name: string, taints?: readonly object[]): ApiObject {
  return { apiVersion: 'v1', kind: 'Node', metadata: { name }, spec: { podCIDR: '10.0.0.0/24', taints } };
}

function agent(nodeName: string, ready: boolean, more: object = {}): ApiObject {
  return {
    apiVersion: 'v1',
    kind: 'Pod',
    metadata: {
      name: `agent-${nodeName}`,
      namespace: 'istio-system',
      labels: { 'app.kubernetes.io/name': 'meltemi-agent' },
      ...more,
    },
    spec: { nodeName },
    status: { conditions: [{ type: 'Ready', status: ready ? 'True' : 'False' }] },
  };
}

t.test('the taint goes when the agent of the very node is ready, and nothing else goes', async (t) => {
  const tainted = taintedNode(node('a', [OTHER, TAINT]));
  const decide = (...agents: ApiObject[]) => decideTaint(tainted, agents.map(agentPod));
  t.match(decide(), { action: 'keep', because: 'it has no agent yet' });
  t.match(decide(agent('b', true)), { action: 'keep', because: 'it has no agent yet' });
  t.match(decide(agent('a', false)), { action: 'keep', because: 'its agent is not ready yet' });
  t.match(decide(agent('a', true, { deletionTimestamp: 'now' })), { action: 'keep' });
  t.same(decide(agent('a', false), agent('a', true)), {
    action: 'remove',
    taints: [OTHER],
    because: 'agent-a is ready',
  });
  t.match(decideTaint(taintedNode(node('a', [OTHER])), [agentPod(agent('a', true))]), { because: /no startup taint/ });
  t.match(taintedNode({ metadata: { name: 'x' } }), { taints: [] });
  t.match(agentPod({ metadata: { name: 'x' } }), { node: '', ready: false });
});

async function setUp(t: Test) {
  const api = new MemoryApi();
  const metrics = createRegistry();
  const leader = soleLeader({ clock: systemClock, log: logger('leader'), metrics });
  t.teardown(() => leader.close());
  const start = () => untaintNodes({ kube: api, leader, rootNamespace: 'istio-system', clock: systemClock, metrics });
  const taints = async (name: string) => {
    const found = await api.get(RESOURCES.Node, { name });
    return found === undefined ? [] : taintedNode(found).taints.map(({ key }) => key);
  };
  const until = async (holds: () => Promise<boolean>) => {
    for (const deadline = Date.now() + 10_000; !(await holds()); await delay(2)) {
      if (Date.now() > deadline) throw new Error('it never came to be');
    }
  };
  return { api, metrics, start, taints, until };
}

t.test('nodes are freed as their agents become ready, and keep what others put on them', async (t) => {
  const { api, metrics, start, taints, until } = await setUp(t);
  await api.create(RESOURCES.Node, node('a', [TAINT]));
  await api.create(RESOURCES.Node, node('b', [TAINT, OTHER]));
  await api.create(RESOURCES.Pod, agent('a', true));
  start();
  await until(async () => (await taints('a')).length === 0);
  t.same(await taints('b'), [TAINT.key, OTHER.key]);
  t.match(await metrics.render(), /^meltemi_tainted_nodes 1$/m);
  await api.create(RESOURCES.Pod, agent('b', true));
  await until(async () => (await taints('b')).join() === OTHER.key);
  t.same((await api.get(RESOURCES.Node, { name: 'b' }))?.spec, { podCIDR: '10.0.0.0/24', taints: [OTHER] });
  t.match(await metrics.render(), /^meltemi_nodes_untainted_total 2$/m);
});

t.test('a node that was changed meanwhile is not written over', async (t) => {
  const { api, start, taints, until } = await setUp(t);
  await api.create(RESOURCES.Node, node('a', [TAINT]));
  await api.create(RESOURCES.Pod, agent('a', true));
  let raced = false;
  api.before = async ({ verb }) => {
    if (verb !== 'patch' || raced) return;
    raced = true;
    const current = await api.get(RESOURCES.Node, { name: 'a' });
    if (current !== undefined) await api.replace(RESOURCES.Node, { ...current, spec: { taints: [TAINT, OTHER] } });
  };
  start();
  await until(async () => (await taints('a')).join() === OTHER.key);
  t.ok(raced);
});

t.test('a write that fails is tried again', async (t) => {
  const { api, start, taints, until } = await setUp(t);
  await api.create(RESOURCES.Node, node('a', [TAINT]));
  await api.create(RESOURCES.Pod, agent('a', true));
  let failures = 0;
  api.before = ({ verb }) => {
    if (verb !== 'patch' || failures > 0) return;
    failures += 1;
    throw new ApiError(500, 'InternalError', 'it fails');
  };
  start();
  await until(async () => (await taints('a')).length === 0);
  t.equal(failures, 1);
});
