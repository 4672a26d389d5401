import { isDeepStrictEqual } from 'node:util';
import { ApiError, type ApiObject, type KubeApi } from '../../kube/api.js';
import { RESOURCES } from '../../kube/resources.js';
import type { Chart } from '../chart/chart.js';
import type { Values } from '../chart/values.js';
import { applyCrds, planCrds } from './crds.js';
import {
  INSTANCE,
  inOrder,
  installedObjects,
  instanceOf,
  isSame,
  labelOf,
  listAll,
  named,
  PART_OF,
  resourceOf,
} from './objects.js';
import { waitForRollout } from './rollout.js';

export interface InstallOptions {
  readonly namespace: string;
  readonly values: Values;
  /** Ask the server what would change, and change nothing. */
  readonly dryRun: boolean;
  /** Leave the definitions of custom resources as they are. */
  readonly skipCrds: boolean;
  /** Do not wait for pods. */
  readonly noWait: boolean;
  readonly timeoutMs: number;
  readonly now: () => number;
  readonly pause: (ms: number) => Promise<void>;
  readonly say: (line: string) => void;
}

/**
 * Puts one control plane and, where the values want them, the agents into the cluster, or brings what is there to this
 * version and these values: to do it twice changes nothing. The control plane comes first, for the agents need the root
 * bundle that it publishes. What a former version had and this one has not is removed at the end. Rejects with what the
 * server refuses, or what does not become ready in time.
 */
export async function install(api: KubeApi, chart: Chart, options: InstallOptions): Promise<void> {
  const { namespace, say, dryRun, noWait } = options;
  const objects = [record(chart, options), ...inOrder(chart.render(namespace, options.values))];
  const isNew = await ensureNamespace(api, options);
  if (!isNew) await refuseForeign(api, namespace);
  if (!options.skipCrds) await installCrds(api, chart, options);

  const apply = (each: ApiObject) => applyOne(api, each, options, dryRun && isNew);
  for (const each of objects.filter(({ kind }) => kind !== 'DaemonSet')) await apply(each);
  const wait = !dryRun && !noWait;
  for (const each of objects.filter(({ kind }) => kind === 'Deployment')) {
    if (wait) await waitForRollout(api, RESOURCES.Deployment, each, options);
  }
  for (const each of objects.filter(({ kind }) => kind === 'DaemonSet')) {
    if (wait) await waitForBundle(api, options);
    await apply(each);
    if (wait) await waitForRollout(api, RESOURCES.DaemonSet, each, options);
  }
  await prune(api, objects, options);
  say(dryRun ? 'Nothing was changed: this was a dry run.' : 'Meltemi is installed.');
}

/** What was chosen, for the next upgrade, and what an uninstall needs to know. */
function record(chart: Chart, { namespace, values }: InstallOptions): ApiObject {
  const instance = instanceOf(revisionOf(values));
  return {
    apiVersion: 'v1',
    kind: 'ConfigMap',
    metadata: { name: `${instance}-install`, namespace, labels: { [PART_OF]: 'meltemi', [INSTANCE]: instance } },
    data: { version: chart.version, values: JSON.stringify(values) },
  };
}

/** What a former install or upgrade chose; undefined when there was none. */
export async function formerValues(api: KubeApi, namespace: string, revision: string): Promise<Values | undefined> {
  const found = await api.get(RESOURCES.ConfigMap, { namespace, name: `${instanceOf(revision)}-install` });
  const { values } = (found?.data ?? {}) as { values?: string };
  return values === undefined ? undefined : (JSON.parse(values) as Values);
}

export function revisionOf(values: Values): string {
  return typeof values.revision === 'string' ? values.revision : '';
}

/** Says whether it is new. Namespaces that are there are not touched. */
async function ensureNamespace(api: KubeApi, { namespace, dryRun, say }: InstallOptions): Promise<boolean> {
  if ((await api.get(RESOURCES.Namespace, { name: namespace })) !== undefined) return false;
  say(`Namespace ${namespace}: ${dryRun ? 'would be created' : 'created'}`);
  if (!dryRun) await createNamespace(api, namespace);
  return true;
}

/** In which privileged pods may run, and which we remove again. */
export async function createNamespace(api: KubeApi, namespace: string): Promise<void> {
  const labels = { 'pod-security.kubernetes.io/enforce': 'privileged' };
  const metadata = { name: namespace, labels, annotations: { [CREATED_BY]: 'meltemi install' } };
  await api.create(RESOURCES.Namespace, { metadata });
}

/** What Helm put in belongs to Helm: its next upgrade would undo what we do, or fail over it. */
async function refuseForeign(api: KubeApi, namespace: string): Promise<void> {
  const byHelm = (await installedObjects(api, undefined)).find(
    (each) => labelOf(each, 'app.kubernetes.io/managed-by') === 'Helm',
  );
  if (byHelm === undefined) return;
  throw new Error(`${named(byHelm)} was installed by Helm: go on with helm upgrade --namespace ${namespace}`);
}

async function installCrds(api: KubeApi, chart: Chart, { dryRun, pause, say }: InstallOptions): Promise<void> {
  const there = await listAll(api, RESOURCES.CustomResourceDefinition);
  const plans = planCrds(chart.crds, there, chart.version);
  for (const { definition, action, because } of plans) {
    if (action === 'create') say(`${named(definition)}: ${dryRun ? 'would be created' : 'created'}`);
    if (action === 'keep') say(`${named(definition)}: left as it is (${because})`);
  }
  if (!dryRun) await applyCrds(api, plans, chart.version, pause);
}

async function applyOne(
  api: KubeApi,
  object: ApiObject,
  { dryRun, say }: InstallOptions,
  withoutServer: boolean,
): Promise<void> {
  const resource = resourceOf(object);
  const { namespace, name } = object.metadata;
  const before = await api.get(resource, { ...(namespace === undefined ? {} : { namespace }), name });
  // Into a namespace that is not there yet nothing can be applied, not even for a try.
  const after = withoutServer
    ? undefined
    : await api.apply(resource, withKeptPolicies(object, before), { force: true, dryRun });
  const outcome = before === undefined ? 'created' : isSameContent(before, after) ? 'unchanged' : 'changed';
  say(`${named(object)}: ${dryRun && outcome !== 'unchanged' ? `would be ${outcome}` : outcome}`);
}

/** The control plane decides when its webhooks may refuse what nobody can judge; an upgrade does not take that back. */
function withKeptPolicies(object: ApiObject, before: ApiObject | undefined): ApiObject {
  if (object.kind !== 'ValidatingWebhookConfiguration' || before === undefined) return object;
  const webhooksOf = ({ webhooks }: ApiObject) =>
    (webhooks ?? []) as readonly { name: string; failurePolicy?: string }[];
  const webhooks = webhooksOf(object).map((each) => {
    const former = webhooksOf(before).find(({ name }) => name === each.name);
    return { ...each, failurePolicy: former?.failurePolicy ?? each.failurePolicy };
  });
  return { ...object, webhooks };
}

/** Whatever the server counts and dates is left out. */
function isSameContent(before: ApiObject, after: ApiObject | undefined): boolean {
  const content = ({ metadata, status, ...rest }: ApiObject) => {
    const { resourceVersion, generation, managedFields, ...meta } = metadata;
    return { ...rest, meta };
  };
  return after !== undefined && isDeepStrictEqual(content(before), content(after));
}

/** Without the root bundle the agents' pods could not start, and their node would try again ever more seldom. */
async function waitForBundle(api: KubeApi, { namespace, timeoutMs, now, pause }: InstallOptions): Promise<void> {
  const until = now() + timeoutMs;
  while ((await api.get(RESOURCES.ConfigMap, { namespace, name: ROOT_BUNDLE })) === undefined) {
    if (now() > until) throw new Error(`the control plane has not published ConfigMap ${namespace}/${ROOT_BUNDLE}`);
    await pause(200);
  }
}

/** Removes what carries the labels of this control plane and is no longer part of it. */
async function prune(api: KubeApi, objects: readonly ApiObject[], options: InstallOptions): Promise<void> {
  const there = await installedObjects(api, instanceOf(revisionOf(options.values)));
  for (const each of there.filter((each) => !objects.some((wanted) => isSame(wanted, each)))) {
    options.say(`${named(each)}: ${options.dryRun ? 'would be removed' : 'removed'}`);
    if (!options.dryRun) await remove(api, each);
  }
}

async function remove(api: KubeApi, object: ApiObject): Promise<void> {
  const { namespace, name } = object.metadata;
  try {
    await api.delete(resourceOf(object), { ...(namespace === undefined ? {} : { namespace }), name });
  } catch (error) {
    if (!(error instanceof ApiError && error.status === 404)) throw error;
  }
}

/** On namespaces: who made them. */
export const CREATED_BY = 'meltemi.io/created-by';
export const ROOT_BUNDLE = 'istio-ca-root-cert';
