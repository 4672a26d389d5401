import { ApiError, type ApiObject, type KubeApi, type Resource, type Selection } from '../../kube/api.js';
import { RESOURCES } from '../../kube/resources.js';
import type { Chart } from '../chart/chart.js';
import { listAll } from '../install/objects.js';
import type { Facts } from './facts.js';

/** Asks the API server. What this user may not read is as if it were not there. Rejects when nobody answers. */
export async function gatherFacts(
  api: KubeApi,
  chart: Chart,
  { namespace, now }: { readonly namespace: string; readonly now: () => number },
): Promise<Facts> {
  const { gitVersion } = (await api.request('GET', '/version')) as { gitVersion: string };
  const serverNow = await serverClock(api, now);
  const list = (resource: Resource, selection: Selection = {}) => readable(listAll(api, resource, selection), []);
  const [nodes, leases, namespaces, pods, networkPolicies, daemonSets, deployments, crds, webhooks] = await Promise.all(
    [
      list(RESOURCES.Node),
      list(RESOURCES.Lease, { namespace: 'kube-node-lease' }),
      list(RESOURCES.Namespace),
      list(RESOURCES.Pod),
      list(RESOURCES.NetworkPolicy),
      list(RESOURCES.DaemonSet),
      list(RESOURCES.Deployment),
      list(RESOURCES.CustomResourceDefinition),
      list(RESOURCES.ValidatingWebhookConfiguration),
    ],
  );
  const { agent } = chart.values as { agent: { nodeSelector: Readonly<Record<string, string>> } };
  const installed = daemonSets.find(({ metadata }) => metadata.name === 'meltemi-agent');
  const { template } = (installed?.spec ?? {}) as { template?: { spec: { nodeSelector?: Record<string, string> } } };
  return {
    ourVersion: chart.version,
    namespace,
    kubernetes: gitVersion,
    serverNow,
    serverAheadMs: serverNow - now(),
    forbidden: await forbidden(api),
    nodes,
    leases,
    namespaces,
    pods,
    networkPolicies,
    daemonSets,
    deployments,
    crds,
    webhooks,
    ciliumConfig: await readable(api.get(RESOURCES.ConfigMap, CILIUM_CONFIG), undefined),
    ourCrds: chart.crds.map(({ metadata }) => metadata.name),
    agentNodes: template === undefined ? agent.nodeSelector : (template.spec.nodeSelector ?? {}),
  };
}

/** The server dates what it makes, here only for a try; in whole seconds. Our own time where it may not be tried. */
async function serverClock(api: KubeApi, now: () => number): Promise<number> {
  const probe: ApiObject = { metadata: { name: 'meltemi-check', namespace: 'default' } };
  const asked = now();
  const made = await readable(api.create(RESOURCES.ConfigMap, probe, { dryRun: true }), undefined);
  const dated = Date.parse(String(made?.metadata.creationTimestamp ?? ''));
  const answered = now();
  if (Number.isNaN(dated)) return answered;
  const middle = (asked + answered) / 2;
  // Within the second, nothing is known: no difference is claimed.
  return Math.abs(dated + 500 - middle) < 1000 ? answered : dated + 500 + (answered - middle);
}

/** `create clusterroles.rbac.authorization.k8s.io`, of what an installation needs. */
async function forbidden(api: KubeApi): Promise<readonly string[]> {
  const answers = await Promise.all(
    NEEDED.map(async ([verb, resource]) => {
      const { group, plural } = resource;
      const spec = { resourceAttributes: { verb, group, resource: plural } };
      const path = '/apis/authorization.k8s.io/v1/selfsubjectaccessreviews';
      const review = { apiVersion: 'authorization.k8s.io/v1', kind: 'SelfSubjectAccessReview', spec };
      const { status } = (await api.request('POST', path, review)) as { status?: { allowed?: boolean } };
      return status?.allowed === true ? [] : [`${verb} ${plural}${group === '' ? '' : `.${group}`}`];
    }),
  );
  return answers.flat();
}

async function readable<T>(answer: Promise<T>, otherwise: T): Promise<T> {
  try {
    return await answer;
  } catch (error) {
    if (error instanceof ApiError && error.status >= 400) return otherwise;
    throw error;
  }
}

const CILIUM_CONFIG = { namespace: 'kube-system', name: 'cilium-config' };
const NEEDED: readonly (readonly [string, Resource])[] = [
  ['create', RESOURCES.Namespace],
  ['create', RESOURCES.CustomResourceDefinition],
  ['create', RESOURCES.ClusterRole],
  ['create', RESOURCES.ClusterRoleBinding],
  ['create', RESOURCES.ValidatingAdmissionPolicy],
  ['create', RESOURCES.ValidatingWebhookConfiguration],
  ['create', RESOURCES.DaemonSet],
  ['create', RESOURCES.Deployment],
  ['list', RESOURCES.Node],
  ['list', RESOURCES.Pod],
];
