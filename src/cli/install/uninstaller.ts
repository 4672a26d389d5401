import type { ApiObject, KubeApi, Resource } from '../../kube/api.js';
import { RESOURCES } from '../../kube/resources.js';
import type { Chart } from '../chart/chart.js';
import { mergeSet, type Values } from '../chart/values.js';
import { broughtByUs } from './crds.js';
import { CREATED_BY, createNamespace, formerValues } from './installer.js';
import { cleanNodes, deleteDaemonSet } from './node-cleanup.js';
import {
  annotationOf,
  INSTANCE,
  installedObjects,
  instanceOf,
  labelOf,
  listAll,
  named,
  resourceOf,
} from './objects.js';
import type { RolloutOptions } from './rollout.js';

export interface UninstallOptions extends RolloutOptions {
  readonly namespace: string;
  readonly revision: string;
  /** Also the definitions of custom resources that we brought, and with them every object of theirs. */
  readonly purge: boolean;
  /** Leave the nodes as they are: nothing of ours ever ran there, or they are gone. */
  readonly skipNodes: boolean;
}

/**
 * Takes one control plane out of the cluster, and with it the agents that came with it; with the last control plane
 * everything that the mesh left anywhere. It starts from what it finds, so a half-made installation, or a half-made
 * removal, is no special case. Rejects when a node cannot be cleaned: what is needed to try again is still there then.
 */
export async function uninstall(api: KubeApi, chart: Chart, options: UninstallOptions): Promise<void> {
  const { revision, namespace, say } = options;
  const all = await installedObjects(api, undefined);
  const instance = instanceOf(revision);
  const ours = all.filter((each) => labelOf(each, INSTANCE) === instance);
  const others = new Set(all.map((each) => labelOf(each, INSTANCE)).filter((each) => each !== instance));
  if (revision === '' && others.size > 0 && ours.length > 0) {
    throw new Error(`${[...others].join(', ')} shares its account and its CNI plugin: uninstall --revision that first`);
  }
  if (ours.length === 0) say(`Nothing of ${instance} is in the cluster.`);

  // A webhook whose server is going would stand in the way of everybody.
  for (const each of ours.filter(({ kind }) => kind === 'ValidatingWebhookConfiguration')) await remove(api, each, say);
  const hadAgents = ours.some(({ metadata }) => metadata.name === agentOf(revision));
  if (hadAgents) {
    await deleteDaemonSet(api, namespace, agentOf(revision), options);
    // What cleans a node cleans it of every revision.
    if (others.size > 0) say('Nodes: cleaned when the last revision goes');
    else if (!options.skipNodes) await cleanEveryNode(api, chart, ours, options);
    if (revision === '') await releaseNodes(api, say);
    if (others.size === 0) await releasePods(api, say);
  }
  for (const each of ours.toReversed()) await remove(api, each, say);
  if (others.size > 0) {
    say(`Still installed: ${[...others].join(', ')}.`);
    return;
  }
  await removeLeftovers(api, options);
  if (options.purge) await removeDefinitions(api, say);
  await removeNamespace(api, options);
}

/** With the image and the settings of what is installed. */
async function cleanEveryNode(
  api: KubeApi,
  chart: Chart,
  ours: readonly ApiObject[],
  options: UninstallOptions,
): Promise<void> {
  const { namespace, revision } = options;
  const former = (await formerValues(api, namespace, revision)) ?? imageInUse(ours);
  const rendered = chart.render(namespace, mergeSet(former, { revision, agent: { enabled: true } }));
  const wanted = (kind: string) =>
    rendered.find((each) => each.kind === kind && each.metadata.name === agentOf(revision));
  const [config, agent] = [wanted('ConfigMap'), wanted('DaemonSet')];
  if (config === undefined || agent === undefined) throw new Error('a bug: the chart has no agent');
  if ((await api.get(RESOURCES.Namespace, { name: namespace })) === undefined) await createNamespace(api, namespace);
  await api.apply(RESOURCES.ConfigMap, config, { force: true });
  await cleanNodes(api, agent, options);
}

/** What the control plane's pods run, where no record says it. */
function imageInUse(ours: readonly ApiObject[]): Values {
  const deployment = ours.find(({ kind }) => kind === 'Deployment');
  const { template } = (deployment?.spec ?? {}) as { template?: { spec: { containers: { image: string }[] } } };
  const [, repository, tag] = /^(.*?)(?::([^:/]+))?$/.exec(template?.spec.containers[0]?.image ?? '') ?? [];
  return repository ? { image: { repository, tag: tag ?? 'latest' } } : {};
}

/** Nobody else would ever take the startup taint away. */
async function releaseNodes(api: KubeApi, say: (line: string) => void): Promise<void> {
  for (const node of await listAll(api, RESOURCES.Node)) {
    const { taints = [] } = (node.spec ?? {}) as { taints?: { key: string }[] };
    const kept = taints.filter(({ key }) => key !== STARTUP_TAINT);
    if (kept.length === taints.length) continue;
    const { name, resourceVersion } = node.metadata;
    await api.patch(RESOURCES.Node, { name }, { metadata: { resourceVersion }, spec: { taints: kept } });
    say(`Node ${name}: taint ${STARTUP_TAINT} removed`);
  }
}

async function releasePods(api: KubeApi, say: (line: string) => void): Promise<void> {
  const marked = (await listAll(api, RESOURCES.Pod)).filter((pod) => annotationOf(pod, REDIRECTION) !== undefined);
  for (const { metadata } of marked) {
    const { namespace = '', name } = metadata;
    const patch = { metadata: { annotations: { [REDIRECTION]: null } } };
    // A pod that is gone meanwhile is no trouble.
    await api.patch(RESOURCES.Pod, { namespace, name }, patch).catch(() => undefined);
  }
  if (marked.length > 0) say(`Pods: ${marked.length} no longer marked as captured`);
}

/** What the control plane made by itself. */
async function removeLeftovers(api: KubeApi, { say }: UninstallOptions): Promise<void> {
  const kinds: readonly Resource[] = [
    RESOURCES.ConfigMap,
    RESOURCES.Secret,
    RESOURCES.Lease,
    RESOURCES.ClusterTrustBundle,
  ];
  for (const resource of kinds) {
    // ClusterTrustBundles are not served everywhere.
    const found = await listAll(api, resource, { labelSelector: MADE_BY_US }).catch(() => []);
    for (const { metadata } of found) {
      const { namespace, name } = metadata;
      await api.delete(resource, { ...(namespace === undefined ? {} : { namespace }), name });
    }
    if (found.length > 0) say(`${resource.kind}: ${found.length} that the control plane made removed`);
  }
}

async function removeDefinitions(api: KubeApi, say: (line: string) => void): Promise<void> {
  for (const { metadata } of broughtByUs(await listAll(api, RESOURCES.CustomResourceDefinition))) {
    await api.delete(RESOURCES.CustomResourceDefinition, { name: metadata.name });
    say(`CustomResourceDefinition ${metadata.name}: removed, and all its objects`);
  }
}

/** If we made it, and nobody keeps anything in it. */
async function removeNamespace(
  api: KubeApi,
  { namespace, say, now, pause, timeoutMs }: UninstallOptions,
): Promise<void> {
  const found = await api.get(RESOURCES.Namespace, { name: namespace });
  if (found === undefined || annotationOf(found, CREATED_BY) === undefined) return;
  const kept = await othersObjects(api, namespace);
  if (kept.length > 0) {
    say(`Namespace ${namespace}: kept, for it has ${kept.join(', ')}`);
    return;
  }
  const until = now() + timeoutMs;
  await api.delete(RESOURCES.Namespace, { name: namespace });
  while ((await api.get(RESOURCES.Namespace, { name: namespace })) !== undefined) {
    if (now() > until) throw new Error(`namespace ${namespace} does not go: kubectl describe namespace says why`);
    await pause(500);
  }
  say(`Namespace ${namespace}: removed`);
}

/** Names of what is in the namespace and neither ours nor the cluster's own. */
async function othersObjects(api: KubeApi, namespace: string): Promise<readonly string[]> {
  const kinds: readonly Resource[] = [
    RESOURCES.Pod,
    RESOURCES.Service,
    RESOURCES.ConfigMap,
    RESOURCES.Secret,
    RESOURCES.ServiceAccount,
    RESOURCES.ServiceEntry,
    RESOURCES.WorkloadEntry,
    RESOURCES.AuthorizationPolicy,
    RESOURCES.PeerAuthentication,
  ];
  const lists = await Promise.all(
    // Kinds whose definition is gone have no objects.
    kinds.map(async (resource) =>
      (await listAll(api, resource, { namespace }).catch(() => [])).map((each) => ({ ...each, kind: resource.kind })),
    ),
  );
  const isTheClusters = ({ kind, metadata }: ApiObject) =>
    metadata.deletionTimestamp !== undefined ||
    (kind === 'ConfigMap' && metadata.name === 'kube-root-ca.crt') ||
    (kind === 'ServiceAccount' && metadata.name === 'default') ||
    (kind === 'Pod' && labelOf({ metadata }, 'app.kubernetes.io/name')?.startsWith('meltemi-') === true);
  return lists
    .flat()
    .filter((each) => !isTheClusters(each))
    .map(named);
}

function agentOf(revision: string): string {
  return `meltemi-agent${revision === '' ? '' : `-${revision}`}`;
}

async function remove(api: KubeApi, object: ApiObject, say: (line: string) => void): Promise<void> {
  const { namespace, name } = object.metadata;
  const at = { ...(namespace === undefined ? {} : { namespace }), name };
  if (await api.delete(resourceOf(object), at, { propagation: 'Background' })) say(`${named(object)}: removed`);
}

const REDIRECTION = 'ambient.istio.io/redirection';
const STARTUP_TAINT = 'cni.istio.io/not-ready';
const MADE_BY_US = 'app.kubernetes.io/managed-by=meltemi';
