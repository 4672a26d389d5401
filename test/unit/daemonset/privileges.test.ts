import { readFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import t from 'tap';
import { loadChart } from '../../../src/cli/chart/chart.js';
import { WATCHED } from '../../../src/control/inputs/kubernetes/kinds.js';
import type { ApiObject } from '../../../src/kube/api.js';
import { RESOURCES } from '../../../src/kube/resources.js';

/** Every privilege that the chart asks for stands, with its reason, in daemonset/README.md; and the other way round. */
const root = resolve(import.meta.dirname, '../../../..');
const objects = loadChart(join(root, 'daemonset/chart')).render('istio-system', {});
const page = readFileSync(join(root, 'daemonset/README.md'), 'utf8');

interface Rule {
  readonly apiGroups: readonly string[];
  readonly resources: readonly string[];
  readonly verbs: readonly string[];
}

t.test('the tables of rights name exactly those of the chart', async (t) => {
  const inChart = objects
    .filter(({ kind }) => kind === 'ClusterRole' || kind === 'Role')
    .flatMap((each) => each.rules as readonly Rule[])
    .flatMap(({ apiGroups, resources, verbs }) =>
      apiGroups.map((group) => `${group || 'core'} | ${resources.join(', ')} | ${verbs.join(', ')}`),
    );
  const onPage = [...page.matchAll(/^\| (\S+) \| ([^|]*?) \| ([a-z, ]+) \| [^|]+ \|$/gm)]
    .filter(([, group]) => group !== 'group')
    .map(([, group, resources = '', verbs]) => `${group} | ${resources.replace(/ \(.*?\)$/, '')} | ${verbs}`);
  t.ok(inChart.length > 10);
  t.same(onPage.toSorted(), inChart.toSorted());
});

t.test('the table of the pod names every capability, path and exception', async (t) => {
  const agent = objects.find(({ kind }) => kind === 'DaemonSet') as ApiObject;
  const { spec } = (agent.spec as { template: { spec: AgentPod } }).template;
  const [container] = spec.containers;
  t.notOk(spec.hostNetwork);
  t.notOk(container?.securityContext.privileged);
  t.same(container?.securityContext.capabilities.drop, ['ALL']);
  t.equal(container?.securityContext.readOnlyRootFilesystem, true);
  const wanted = [
    ...(container?.securityContext.capabilities.add ?? []),
    ...spec.volumes.flatMap(({ hostPath }) => (hostPath === undefined ? [] : [hostPath.path])),
    ...(spec.hostPID ? ['hostPID'] : []),
  ];
  const rows = [...page.matchAll(/^\| (?:hostPath )?`([^`]+)` \|/gm)].map(([, name = '']) => name);
  const explained = ['runAsUser: 0', 'appArmorProfile: Unconfined'];
  t.same(rows.toSorted(), [...wanted, ...explained].toSorted());
});

t.test('the definitions that are brought are those of the kinds that are read', async (t) => {
  const listed = readFileSync(join(root, 'daemonset/crds/list'), 'utf8').match(/^[a-z].*$/gm) ?? [];
  const read = Object.values(WATCHED)
    .map(({ resource }) => resource)
    .filter(({ group }) => group.endsWith('istio.io') || group.startsWith('gateway.'));
  t.same(listed.toSorted(), read.map(({ plural, group }) => `${plural}.${group}`).toSorted());
  t.ok(read.includes(RESOURCES.AuthorizationPolicy));
});

t.test('the chart is of the version of the package', async (t) => {
  const { version } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as { version: string };
  const about = readFileSync(join(root, 'daemonset/chart/Chart.yaml'), 'utf8');
  t.match(about, `\nversion: ${version}\n`);
  t.match(about, `\nappVersion: ${version}\n`);
});

interface AgentPod {
  readonly hostPID?: boolean;
  readonly hostNetwork?: boolean;
  readonly volumes: readonly { readonly hostPath?: { readonly path: string } }[];
  readonly containers: readonly {
    readonly securityContext: {
      readonly privileged?: boolean;
      readonly readOnlyRootFilesystem?: boolean;
      readonly capabilities: { readonly drop: readonly string[]; readonly add: readonly string[] };
    };
  }[];
}
