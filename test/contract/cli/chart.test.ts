import { resolve } from 'node:path';
import t from 'tap';
import { loadChart } from '../../../src/cli/chart/chart.js';
import { mergeSet, parseSet, type Values } from '../../../src/cli/chart/values.js';
import type { ApiObject } from '../../../src/kube/api.js';
import { parseYamlDocuments } from '../../../src/lib/yaml.js';
import { type HelmCase, renderWithHelm } from '../../support/real-helm.js';

/** `meltemi install` and Helm make the same objects of the chart: both render every case. */
const directory = resolve(import.meta.dirname, '../../../../daemonset/chart');
const cases: readonly HelmCase[] = [
  { namespace: 'istio-system' },
  { namespace: 'mesh', set: ['revision=canary', 'agent.enabled=false'] },
  { namespace: 'mesh', set: ['revision=canary', 'image.tag=1.2.3'] },
  {
    namespace: 'istio-system',
    values: {
      image: { repository: 'registry.example:5000/meltemi', pullPolicy: 'Always', pullSecrets: ['one', 'two'] },
      cluster: 'west "1"',
      network: 'n: 1',
      controlPlane: {
        replicas: 1,
        workloadTtlSeconds: 7_776_000,
        resources: { limits: { memory: '1Gi' } },
        nodeSelector: { role: 'infra' },
        affinity: { nodeAffinity: { preferredDuringSchedulingIgnoredDuringExecution: [] } },
        tolerations: [{ key: 'infra', operator: 'Exists' }],
      },
      agent: {
        drainSeconds: 3600,
        meshPrefixes: ['10.0.0.0/8', 'fd00::/8'],
        engine: { threads: 4, maxFlowsPerPod: 1024, congestionControl: 'b<b&r' },
        nodeSelector: { 'kubernetes.io/os': null },
        tolerations: [],
      },
      cni: { binDir: '/home/kubernetes/bin', exemptNamespaces: [] },
    },
  },
  { namespace: 'istio-system', set: ['cni.enabled=false', 'webhook.enabled=false', 'logLevel=debug'] },
  { namespace: 'istio-system', set: ['webhook.failurePolicy=Fail', 'cni.exemptNamespaces={kube-system,a\\,b}'] },
  { namespace: 'istio-system', set: ['agent.nodeSelector.kubernetes\\.io/os=null,agent.nodeSelector.mesh=yes'] },
];
const refused: readonly HelmCase[] = [
  { namespace: 'istio-system', set: ['agent.drainSecond=5'] },
  { namespace: 'istio-system', set: ['agent.drainSeconds=soon'] },
  { namespace: 'istio-system', set: ['logLevel=loud'] },
  { namespace: 'istio-system', set: ['revision=Not_A_Name'] },
  { namespace: 'istio-system', set: ['cni.binDir=opt/cni'] },
  { namespace: 'istio-system', set: ['agent=null'] },
];

const chart = loadChart(directory);
const byHelm = await renderWithHelm(directory, [...cases, ...refused]);

t.test('the same objects as Helm', { skip: byHelm === undefined && 'Go is not installed' }, async (t) => {
  for (const [index, each] of cases.entries()) {
    const { texts, error } = byHelm?.[index] ?? {};
    const name = `${each.namespace} ${each.set?.join(' ') ?? ''}${JSON.stringify(each.values ?? {})}`;
    t.equal(error, undefined, name);
    const ours = byName(chart.render(each.namespace, chosen(each)));
    t.ok(ours.length > 5);
    t.strictSame(ours, byName(Object.values(texts ?? {}).flatMap(documents)), name);
  }
});

t.test('what Helm refuses is refused', { skip: byHelm === undefined && 'Go is not installed' }, async (t) => {
  for (const [index, each] of refused.entries()) {
    t.ok(byHelm?.[cases.length + index]?.error, `Helm: ${each.set}`);
    t.throws(() => chart.render(each.namespace, chosen(each)), /the values are not those of this chart/, `${each.set}`);
  }
});

function chosen({ values = {}, set = [] }: HelmCase): Values {
  return set.map(parseSet).reduce(mergeSet, values);
}

function documents(text: string): readonly ApiObject[] {
  const parsed = parseYamlDocuments(text);
  if (!parsed.ok) throw new Error(parsed.error.join('\n'));
  return parsed.value.map(({ value }) => value as ApiObject);
}

function byName(objects: readonly ApiObject[]): readonly ApiObject[] {
  const key = ({ kind, metadata }: ApiObject) => `${kind}/${metadata.namespace}/${metadata.name}`;
  return objects.toSorted((a, b) => key(a).localeCompare(key(b)));
}
