import { readFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import t from 'tap';
import type { Facts, FindingCode } from '../../../../src/cli/check/facts.js';
import { formatFindings, judge } from '../../../../src/cli/check/judge.js';
import type { ApiObject } from '../../../../src/kube/api.js';

const NOW = Date.parse('2026-01-01T00:00:00Z');
const READY = { conditions: [{ type: 'Ready', status: 'True' }] };
const node = (name: string, kernelVersion = '6.1.0'): ApiObject => ({
  metadata: { name, labels: { os: 'linux' } },
  status: { ...READY, nodeInfo: { kernelVersion, operatingSystem: 'linux' } },
});
const lease = (name: string, renewTime = '2025-12-31T23:59:55Z'): ApiObject => ({
  metadata: { name },
  spec: { renewTime },
});
const part = (name: string, more: object = {}): ApiObject => ({
  metadata: {
    name,
    namespace: 'istio-system',
    labels: {
      'app.kubernetes.io/name': name,
      'app.kubernetes.io/instance': 'meltemi',
      'app.kubernetes.io/version': '1.0.0',
    },
  },
  ...more,
});
const shopPod = (metadata: object = {}): ApiObject => ({
  metadata: { name: 'web', namespace: 'shop', labels: { app: 'web' }, ...metadata },
  spec: { nodeName: 'node-1' },
  status: { phase: 'Running', ...READY },
});
const captured = { annotations: { 'ambient.istio.io/redirection': 'enabled' } };

/** A cluster in which nothing is wrong. */
const good: Facts = {
  ourVersion: '1.0.0',
  namespace: 'istio-system',
  kubernetes: 'v1.36.3',
  serverAheadMs: 0,
  serverNow: NOW,
  forbidden: [],
  nodes: [node('node-1')],
  leases: [lease('node-1')],
  namespaces: [{ metadata: { name: 'shop', labels: { 'istio.io/dataplane-mode': 'ambient' } } }],
  pods: [shopPod(captured), part('meltemi-agent', { spec: { nodeName: 'node-1' }, status: READY })],
  networkPolicies: [],
  daemonSets: [part('meltemi-agent'), { metadata: { name: 'kindnet' } }],
  deployments: [
    part('meltemi-control-plane', {
      spec: { replicas: 2 },
      status: { replicas: 2, updatedReplicas: 2, availableReplicas: 2 },
    }),
  ],
  crds: [{ metadata: { name: 'a.io' }, spec: { versions: [{ name: 'v1', served: true }] } }],
  webhooks: [],
  ciliumConfig: undefined,
  ourCrds: ['a.io'],
  agentNodes: { os: 'linux' },
};
const codes = (facts: Partial<Facts>, pre = false): readonly FindingCode[] =>
  judge({ ...good, ...facts }, pre)
    .map(({ because }) => because)
    .filter((because) => because !== 'cni-found');
const policy = (spec: object): ApiObject => ({ metadata: { name: 'only', namespace: 'shop' }, spec });

t.test('a good cluster has no finding but which CNI it runs', async (t) => {
  t.same(codes({}), []);
  t.match(formatFindings(judge(good, false)), /kindnet[\s\S]*Nothing is wrong\./);
});

t.test('the API server, the user, the clocks', async (t) => {
  t.same(codes({ kubernetes: 'v1.29.8' }), ['kubernetes-too-old']);
  t.same(codes({ forbidden: ['create clusterroles'] }), ['permission-missing']);
  t.same(codes({ serverAheadMs: -9_000 }), ['clock-differs']);
  t.same(codes({ leases: [lease('node-1', '2026-01-01T00:00:20Z')] }), ['node-clock-differs']);
  t.same(codes({ leases: [lease('node-1', '2025-12-31T23:55:00Z')] }), ['node-clock-differs']);
});

t.test('the install namespace must let privileged pods in', async (t) => {
  const labels = { 'pod-security.kubernetes.io/enforce': 'restricted' };
  t.ok(codes({ namespaces: [{ metadata: { name: 'istio-system', labels } }] }).includes('namespace-restricted'));
});

t.test('nodes', async (t) => {
  t.same(codes({ nodes: [node('node-1', '4.18.0-553.el8')] }), ['kernel-too-old']);
  t.same(codes({ nodes: [{ ...node('node-1'), status: {} }] }), ['node-not-ready']);
  t.same(codes({ nodes: [node('node-1'), node('node-2')] }), ['agent-missing']);
});

t.test('the CNI, and what Cilium must not do', async (t) => {
  t.same(codes({ daemonSets: [part('meltemi-agent')] }), ['cni-unknown']);
  const cilium = (data: object) => codes({ ciliumConfig: { metadata: { name: 'cilium-config' }, data } });
  t.same(cilium({ 'bpf-lb-sock': 'true' }), ['cilium-socket-lb']);
  t.same(cilium({ 'kube-proxy-replacement': 'true' }), ['cilium-socket-lb']);
  t.same(cilium({ 'bpf-lb-sock': 'true', 'bpf-lb-sock-hostns-only': 'true' }), []);
  t.same(cilium({ 'cni-exclusive': 'true' }), ['cilium-exclusive']);
});

t.test('a NetworkPolicy that names ports and leaves 15008 out cuts captured pods off', async (t) => {
  const ingress = (ports: readonly object[], more: object = {}) =>
    codes({ networkPolicies: [policy({ policyTypes: ['Ingress'], ingress: [{ ports }], ...more })] });
  t.same(ingress([{ port: 8080 }]), ['hbone-blocked']);
  t.same(ingress([{ port: 8080 }, { port: 15008 }]), []);
  t.same(ingress([{ port: 15000, endPort: 16000 }]), []);
  t.same(ingress([]), [], 'all ports');
  t.same(ingress([{ port: 53, protocol: 'UDP' }]), [], 'no TCP is let through, as somebody meant');
  t.same(ingress([{ port: 8080 }], { podSelector: { matchLabels: { app: 'other' } } }), [], 'of no captured pod');
});

t.test('NetworkPolicies select pods by expressions, add up, and go both ways', async (t) => {
  const selects = (...matchExpressions: object[]) =>
    codes({
      networkPolicies: [policy({ podSelector: { matchExpressions }, ingress: [{ ports: [{ port: 8080 }] }] })],
    }).length === 1;
  t.ok(selects({ key: 'app', operator: 'In', values: ['api', 'web'] }));
  t.notOk(selects({ key: 'app', operator: 'In', values: ['api'] }));
  t.notOk(selects({ key: 'tier', operator: 'In', values: ['api'] }));
  t.ok(selects({ key: 'app', operator: 'NotIn', values: ['api'] }, { key: 'tier', operator: 'NotIn', values: ['a'] }));
  t.notOk(selects({ key: 'app', operator: 'NotIn', values: ['web'] }));
  t.ok(selects({ key: 'app', operator: 'Exists' }, { key: 'tier', operator: 'DoesNotExist' }));
  t.notOk(selects({ key: 'app', operator: 'Exists' }, { key: 'app', operator: 'DoesNotExist' }));
  t.notOk(selects({ key: 'app', operator: 'Like' }), 'what nobody knows selects nothing');

  const web = policy({ ingress: [{ ports: [{ port: 8080 }] }] });
  const mesh = (more: object) => ({
    metadata: { name: 'mesh', namespace: 'shop' },
    spec: { ingress: [{ ports: [{ port: 15008 }] }], ...more },
  });
  t.same(codes({ networkPolicies: [web, mesh({})] }), [], 'another lets it in');
  t.same(codes({ networkPolicies: [web, mesh({ podSelector: { matchLabels: { app: 'api' } } })] }), ['hbone-blocked']);
  const out = { egress: [{ ports: [{ port: 443 }] }] };
  t.same(codes({ networkPolicies: [policy(out)] }), ['hbone-blocked'], 'egress counts when it is there');
  t.same(codes({ networkPolicies: [policy({ ...out, policyTypes: ['Ingress'] })] }), [], 'unless it is said not to');
  t.same(
    codes({ networkPolicies: [policy({ policyTypes: ['Ingress', 'Egress'] })] }),
    [],
    'nothing at all is meant so',
  );
});

t.test('other meshes', async (t) => {
  const istio = (labels: object): ApiObject => ({ metadata: { name: 'x', namespace: 'istio', labels } });
  const ztunnel = [...good.daemonSets, istio({ app: 'ztunnel' })];
  t.same(codes({ daemonSets: ztunnel }), ['another-ambient-mesh']);
  t.same(codes({ deployments: [...good.deployments, istio({ app: 'istiod' })] }), ['another-control-plane']);
});

t.test('definitions: those missing are no trouble before an installation brings them', async (t) => {
  t.same(codes({ crds: [] }), ['crd-missing']);
  t.same(codes({ crds: [] }, true), []);
  const old = { metadata: { name: 'a.io' }, spec: { versions: [{ name: 'v1beta1', served: true }] } };
  t.same(codes({ crds: [old] }, true), ['crd-too-old']);
});

t.test('the installation', async (t) => {
  t.same(codes({ deployments: [], crds: [] }), ['not-installed']);
  t.same(codes({ ourVersion: '1.1.0' }), ['versions-differ', 'versions-differ']);
  const [deployment] = good.deployments as readonly [ApiObject];
  t.same(codes({ deployments: [{ ...deployment, status: {} }] }), ['control-plane-not-ready']);
  const status = { replicas: 1, updatedReplicas: 1, availableReplicas: 1 };
  t.same(codes({ deployments: [{ ...deployment, spec: { replicas: 1 }, status }] }), ['control-plane-single']);
  const broken = part('meltemi-agent', { spec: { nodeName: 'node-1' }, status: {} });
  t.same(codes({ pods: [broken] }), ['agent-not-ready']);
  const labels = { 'app.kubernetes.io/part-of': 'meltemi' };
  const webhook: ApiObject = { metadata: { name: 'w', labels }, webhooks: [{ clientConfig: {} }] };
  t.same(codes({ webhooks: [webhook] }), ['webhook-without-roots']);
});

t.test('a running pod that should be captured and is not', async (t) => {
  const [, agent] = good.pods as readonly [ApiObject, ApiObject];
  t.same(codes({ pods: [shopPod(), agent] }), ['pod-not-captured']);
  t.same(codes({ pods: [shopPod({ labels: { 'istio.io/dataplane-mode': 'none' } }), agent] }), []);
});

t.test('the page on checks has exactly the codes of the program', async (t) => {
  const root = resolve(import.meta.dirname, '../../../../..');
  const source = readFileSync(join(root, 'src/cli/check/facts.ts'), 'utf8');
  const union = /export type FindingCode =([^;]+);/.exec(source)?.[1] ?? '';
  const inCode = [...union.matchAll(/'([a-z-]+)'/g)].map(([, code]) => code);
  const page = readFileSync(join(root, 'docs/reference/checks.md'), 'utf8');
  t.same([...page.matchAll(/^\| `([a-z-]+)` \|/gm)].map(([, code]) => code).toSorted(), inCode.toSorted());
});
