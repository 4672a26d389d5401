import t from 'tap';
import { formatMeshStatus, meshStatus } from '../../../../src/cli/status/mesh-status.js';
import { metricOf } from '../../../../src/cli/status/metrics-text.js';
import type { ApiObject } from '../../../../src/kube/api.js';
import { RESOURCES } from '../../../../src/kube/resources.js';
import { MemoryApi } from '../../../support/memory-api.js';

const NAMESPACE = 'istio-system';
const pod = (name: string, part: string, nodeName: string, status: object): ApiObject => ({
  metadata: {
    name,
    namespace: NAMESPACE,
    labels: {
      'app.kubernetes.io/name': part,
      'app.kubernetes.io/instance': 'meltemi',
      'app.kubernetes.io/version': '1.0.0',
    },
  },
  spec: { nodeName },
  status,
});
const READY = { conditions: [{ type: 'Ready', status: 'True' }] };
const pageOf = (name: string, port: number) => `/api/v1/namespaces/${NAMESPACE}/pods/${name}:${port}/proxy/metrics`;

t.test('every part is asked for itself, and what does not answer shows as unknown', async (t) => {
  const api = new MemoryApi();
  const state = { waiting: { reason: 'CrashLoopBackOff', message: 'back-off' } };
  for (const each of [
    pod('cp-2', 'meltemi-control-plane', 'node-2', READY),
    pod('cp-1', 'meltemi-control-plane', 'node-1', READY),
    pod('agent-2', 'meltemi-agent', 'node-2', { containerStatuses: [{ name: 'agent', state }] }),
    pod('agent-1', 'meltemi-agent', 'node-1', READY),
    pod('web', 'web', 'node-1', READY),
  ]) {
    await api.create(RESOURCES.Pod, each);
  }
  api.pages.set(pageOf('cp-1', 15014), 'meltemi_leader 1\npilot_xds{version="a"} 1\npilot_xds{version="b"} 1\n');
  api.pages.set(pageOf('cp-2', 15014), 'meltemi_leader 0\npilot_total_xds_rejects 3\n');
  api.pages.set(
    pageOf('agent-1', 15020),
    'istio_active_proxy_count 7\nistio_pending_proxy_count 1\nmeltemi_certificates_missing 0\nmeltemi_workloads 40\n',
  );
  const status = await meshStatus(api, NAMESPACE);
  t.equal(
    formatMeshStatus(status),
    `CONTROL PLANE  REVISION  NODE    READY  VERSION  LEADS  AGENTS  REFUSED
cp-1           -         node-1  yes    1.0.0    yes    2       0
cp-2           -         node-2  yes    1.0.0    no     0       3

AGENT    NODE    READY  VERSION  CAPTURED  PENDING  CERTIFICATES MISSING  WORKLOADS KNOWN
agent-1  node-1  yes    1.0.0    7         1        0                     40
agent-2  node-2  no     1.0.0    ?         ?        ?                     ?

2 of 2 agents are connected to a control plane
7 pods are captured, 1 wait for it
! pod agent-2 on node-2: container agent is CrashLoopBackOff: back-off`,
  );
});

t.test('a control plane that does not answer leads nobody knows', async (t) => {
  const api = new MemoryApi();
  await api.create(RESOURCES.Pod, pod('cp', 'meltemi-control-plane', 'node-1', READY));
  const text = formatMeshStatus(await meshStatus(api, NAMESPACE));
  t.match(text, /^cp .* \? +\? +\?$/m);
  t.match(text, /^0 of 0 agents/m);
});

t.test('where nothing is installed it says so', async (t) => {
  t.equal(formatMeshStatus(await meshStatus(new MemoryApi(), 'mesh')), 'Nothing is installed in mesh.');
});

t.test('a metric is the sum of its series, and no other whose name begins like it', async (t) => {
  const page = '# HELP a x\n# TYPE a gauge\na{b="c 9"} 1\na{b="d"} 2\nab 5\na_total 7\n';
  t.equal(metricOf(page, 'a'), 3);
  t.equal(metricOf(page, 'a_total'), 7);
  t.equal(metricOf(page, 'b'), undefined);
});
