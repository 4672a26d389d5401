import t from 'tap';
import { POD_SHAPE } from '../../../src/control/inputs/kubernetes/pod-shape.js';
import { readObject } from '../../../src/control/inputs/kubernetes/read-object.js';
import type { ApiObject, Selection } from '../../../src/kube/api.js';
import { RESOURCES } from '../../../src/kube/resources.js';
import { startApiServer } from '../../support/api-server.js';

/** Pods are listed as protobuf and watched as JSON: of both the same must be read. */
const server = await startApiServer();
t.teardown(() => server.close());
const api = server.api();
t.teardown(() => api.close());
const namespace = 'pods';
await api.create(RESOURCES.Namespace, { metadata: { name: namespace } });

async function put(name: string, pod: object, status?: object): Promise<void> {
  const { metadata, spec } = pod as { metadata?: object; spec?: object };
  const main = { name: 'main', image: 'x' };
  await api.create(RESOURCES.Pod, {
    metadata: { name, namespace, ...metadata },
    spec: { terminationGracePeriodSeconds: 0, containers: [main], ...spec },
  });
  if (status !== undefined) {
    await api.patch(RESOURCES.Pod, { namespace, name }, { status }, { subresource: 'status' });
  }
}

async function read(selection: Selection): Promise<readonly object[]> {
  const objects: object[] = [];
  const version = await api.listAll(RESOURCES.Pod, { namespace, ...selection }, '', (pod: ApiObject) => {
    objects.push({ version: pod.metadata.resourceVersion, ...readObject(pod) });
  });
  t.match(version, /^[0-9]+$/);
  return objects;
}

t.test('what is read of a pod is the same in protobuf and in JSON', async (t) => {
  await put('bare', {});
  await put(
    'full',
    {
      metadata: {
        generateName: 'full-',
        labels: { app: 'web', empty: '', umlaut: 'a' },
        annotations: { 'ambient.istio.io/redirection': 'enabled', 'istio.io/text': 'ü "quoted" {[' },
        ownerReferences: [
          { apiVersion: 'v1', kind: 'ConfigMap', name: 'other', uid: '1' },
          { apiVersion: 'apps/v1', kind: 'ReplicaSet', name: 'full-6d4', uid: '2', controller: true },
        ],
        finalizers: ['meltemi.test/stay'],
      },
      spec: {
        nodeName: 'node-1',
        serviceAccountName: 'full',
        hostNetwork: true,
        containers: [
          {
            name: 'main',
            image: 'x',
            ports: [
              { name: 'http', containerPort: 8080, hostPort: 8080 },
              { containerPort: 65535, hostPort: 65535, protocol: 'UDP' },
            ],
          },
          { name: 'more', image: 'x' },
        ],
        initContainers: [
          { name: 'side', image: 'x', restartPolicy: 'Always', ports: [{ containerPort: 9090, hostPort: 9090 }] },
          { name: 'first', image: 'x', ports: [{ containerPort: 9091, hostPort: 9091 }] },
        ],
      },
    },
    {
      phase: 'Running',
      podIP: '10.0.0.7',
      podIPs: [{ ip: '10.0.0.7' }, { ip: 'fd00::7' }],
      conditions: [
        { type: 'Initialized', status: 'True' },
        { type: 'Ready', status: 'True', lastTransitionTime: '2026-01-01T00:00:00Z', message: 'well' },
      ],
    },
  );
  await put('ended', {}, { phase: 'Succeeded', podIP: '10.0.0.8', podIPs: [{ ip: '10.0.0.8' }] });
  await api.delete(RESOURCES.Pod, { namespace, name: 'full' }, { gracePeriodSeconds: 0 });
  const inJson = await read({});
  t.equal(inJson.length, 3);
  t.match(inJson[2], {
    object: { hostNetwork: true, ready: true, metadata: { terminating: true }, ips: { length: 2 } },
  });
  t.strictSame(await read({ shape: POD_SHAPE }), inJson);
});
