import { test } from 'tap';
import type { KubeObject } from '../../../src/lab/objects.js';
import { expandWorkloads } from '../../../src/lab/workloads.js';

const owner = (kind: string, spec: object, command = ['serve']): KubeObject => ({
  apiVersion: 'apps/v1',
  kind,
  metadata: { name: 'web', namespace: 'shop', labels: {}, annotations: {} },
  spec: {
    ...spec,
    template: { metadata: { labels: { app: 'web' } }, spec: { containers: [{ name: 'main', command }] } },
  },
});
const names = (object: KubeObject, nodes = ['node-1', 'node-2']) =>
  expandWorkloads([object], nodes).pods.map(({ metadata }) => metadata.name);

test('pods of a Deployment are named, labelled and owned as by a ReplicaSet', async (t) => {
  const { pods } = expandWorkloads([owner('Deployment', { replicas: 2 })], []);
  t.equal(pods.length, 2);
  const hash = pods[0]?.metadata.labels['pod-template-hash'];
  for (const { metadata } of pods) {
    t.match(metadata.name, new RegExp(`^web-${hash}-[a-z0-9]{5}$`));
    t.match(metadata, {
      namespace: 'shop',
      labels: { app: 'web' },
      ownerReferences: [{ kind: 'ReplicaSet', name: `web-${hash}` }],
    });
  }
});

test('names are the same at every call; more replicas keep the former ones', async (t) => {
  const two = names(owner('Deployment', { replicas: 2 }));
  t.same(names(owner('Deployment', { replicas: 3 })).slice(0, 2), two);
});

test('another template makes other pods', async (t) => {
  const changed = names(owner('Deployment', { replicas: 2 }, ['serve', '--more']));
  t.same(
    names(owner('Deployment', { replicas: 2 })).filter((name) => changed.includes(name)),
    [],
  );
});

test('pods of a StatefulSet have ordinals and host names', async (t) => {
  const { pods } = expandWorkloads([owner('StatefulSet', { replicas: 2, serviceName: 'db' })], []);
  t.match(pods[1], { metadata: { name: 'web-1' }, spec: { hostname: 'web-1', subdomain: 'db' } });
});

test('a DaemonSet has one pod a node', async (t) => {
  const { pods } = expandWorkloads([owner('DaemonSet', {})], ['node-1', 'node-2']);
  t.match(pods, [{ spec: { nodeName: 'node-1' } }, { spec: { nodeName: 'node-2' } }]);
});

test('no replicas, no pods; an owner without a template is named', async (t) => {
  t.same(names(owner('Deployment', { replicas: 0 })), []);
  const bare = { ...owner('Deployment', {}), spec: {} };
  t.same(expandWorkloads([bare], []).problems, ['Deployment shop/web: spec.template is missing']);
});
