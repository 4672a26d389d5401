import t from 'tap';
import { progressOf, whyNotReady } from '../../../../src/cli/install/rollout.js';
import type { ApiObject } from '../../../../src/kube/api.js';

const deployment = (status: object): ApiObject => ({
  kind: 'Deployment',
  metadata: { name: 'x', generation: 2 },
  spec: { replicas: 2 },
  status,
});

t.test('a rollout is done when the newest pods are available and no old ones are left', async (t) => {
  const done = { observedGeneration: 2, replicas: 2, updatedReplicas: 2, availableReplicas: 2 };
  t.same(progressOf(deployment(done)), { done: true, text: '2 of 2 ready' });
  t.equal(progressOf(deployment({ ...done, replicas: 3 })).done, false, 'an old one is still there');
  t.equal(progressOf(deployment({ ...done, updatedReplicas: 1 })).done, false, 'one is of the old kind');
  t.match(progressOf(deployment({ ...done, observedGeneration: 1 })), { done: false, text: /not seen/ });
});

t.test('agents are ready when every node that wants one has the newest', async (t) => {
  const set = (status: object): ApiObject => ({ kind: 'DaemonSet', metadata: { name: 'x', generation: 1 }, status });
  const done = { observedGeneration: 1, desiredNumberScheduled: 3, updatedNumberScheduled: 3, numberAvailable: 3 };
  t.equal(progressOf(set(done)).done, true);
  t.same(progressOf(set({ ...done, updatedNumberScheduled: 1 })), { done: false, text: '1 of 3 ready' });
});

t.test('a pod that is not ready says why', async (t) => {
  const pod = (status: object): ApiObject => ({ metadata: { name: 'a' }, spec: { nodeName: 'node-1' }, status });
  const conditions = [{ type: 'PodScheduled', status: 'False', message: 'no node fits' }];
  t.match(whyNotReady(pod({ conditions })), [/pod a on node-1: not scheduled: no node fits/]);
  const state = { waiting: { reason: 'ErrImagePull', message: 'not found' } };
  t.match(whyNotReady(pod({ containerStatuses: [{ name: 'agent', state }] })), [/agent is ErrImagePull: not found/]);
  t.same(whyNotReady(pod({ conditions: [{ type: 'Ready', status: 'True' }] })), []);
});
