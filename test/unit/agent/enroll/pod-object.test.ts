import { test } from 'tap';
import { podFacts } from '../../../../src/agent/enroll/pod-object.js';

test('a pod is read down to what is needed of it', async (t) => {
  const facts = podFacts({
    metadata: {
      name: 'web-0',
      namespace: 'shop',
      uid: 'u-1',
      labels: { app: 'web' },
      annotations: {
        'ambient.istio.io/redirection': 'enabled',
        'ambient.istio.io/dns-capture': 'false',
        'kubectl.kubernetes.io/last-applied-configuration': '{"very": "long"}',
      },
      managedFields: [{}],
    },
    spec: {
      nodeName: 'node-1',
      serviceAccountName: 'web',
      dnsPolicy: 'None',
      dnsConfig: { nameservers: ['10.0.0.53'], searches: ['example.com'] },
      containers: [{ env: [{ name: 'SECRET', value: 'x' }] }],
    },
    status: {
      phase: 'Running',
      podIPs: [{ ip: '10.0.0.1' }, { ip: 'FD00::1' }],
      initContainerStatuses: [{ containerID: 'containerd://aaa' }],
      containerStatuses: [{ containerID: 'cri-o://bbb' }, {}],
    },
  });
  t.strictSame(facts, {
    uid: 'u-1',
    name: 'web-0',
    namespace: 'shop',
    node: 'node-1',
    serviceAccount: 'web',
    labels: { app: 'web' },
    annotations: { 'ambient.istio.io/dns-capture': 'false' },
    hostNetwork: false,
    phase: 'Running',
    ips: ['10.0.0.1', 'fd00::1'],
    dns: { policy: 'None', nameservers: ['10.0.0.53'], searches: ['example.com'] },
    redirection: 'enabled',
    cgroup: 'u-1',
    containers: ['aaa', 'bbb'],
  });
});

test('a pod that was just made has little to say, and a static one calls its cgroup otherwise', async (t) => {
  const facts = podFacts({
    metadata: { name: 'a', namespace: 'b', uid: 'c', annotations: { 'kubernetes.io/config.mirror': 'hash' } },
    spec: { hostNetwork: true },
  });
  t.match(facts, {
    hostNetwork: true,
    phase: '',
    ips: [],
    cgroup: 'hash',
    serviceAccount: 'default',
    redirection: '',
    dns: { policy: 'ClusterFirst', nameservers: [], searches: [] },
  });
});

test('what is of another kind than it should be counts as missing', async (t) => {
  const odd = {
    metadata: { name: 'a', labels: 7, annotations: [1] },
    spec: 'x',
    status: { podIPs: { ip: 1 }, phase: 3 },
  };
  t.match(podFacts(odd), { namespace: '', uid: '', ips: [], phase: '', containers: [] });
  t.match(podFacts({ metadata: { name: 'a' }, status: { podIPs: [{ ip: 'nonsense' }, null] } }), { ips: [] });
});
