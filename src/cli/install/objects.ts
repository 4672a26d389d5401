import { ApiError, type ApiObject, type KubeApi, type Resource, type Selection } from '../../kube/api.js';
import { apiVersionOf } from '../../kube/paths.js';
import { RESOURCES } from '../../kube/resources.js';

/** From Kubernetes 1.36 on; before, those of the same names in v1beta1. */
const MUTATING: readonly Resource[] = [RESOURCES.MutatingAdmissionPolicy, RESOURCES.MutatingAdmissionPolicyBinding];

/** What an installation is made of, in the order in which it is put in: what something needs comes before it. */
export const INSTALLED_KINDS: readonly Resource[] = [
  RESOURCES.ServiceAccount,
  RESOURCES.ClusterRole,
  RESOURCES.ClusterRoleBinding,
  RESOURCES.Role,
  RESOURCES.RoleBinding,
  RESOURCES.ValidatingAdmissionPolicy,
  RESOURCES.ValidatingAdmissionPolicyBinding,
  ...MUTATING,
  ...MUTATING.map((each) => ({ ...each, version: 'v1beta1' })),
  RESOURCES.ConfigMap,
  RESOURCES.Service,
  RESOURCES.PodDisruptionBudget,
  RESOURCES.Deployment,
  RESOURCES.ValidatingWebhookConfiguration,
  RESOURCES.DaemonSet,
];

/** Throws for a kind that no installation has: a bug in the chart. */
export function resourceOf(object: ApiObject): Resource {
  const found = INSTALLED_KINDS.find(
    (each) => each.kind === object.kind && apiVersionOf(each) === (object.apiVersion ?? ''),
  );
  if (found === undefined) throw new Error(`a bug: ${object.apiVersion} ${object.kind} is no kind that is installed`);
  return found;
}

export function inOrder(objects: readonly ApiObject[]): readonly ApiObject[] {
  const rank = (object: ApiObject) => INSTALLED_KINDS.indexOf(resourceOf(object));
  return objects.toSorted((a, b) => rank(a) - rank(b));
}

/** `Deployment istio-system/meltemi-control-plane`. */
export function named({ kind, metadata }: ApiObject): string {
  return `${kind} ${metadata.namespace === undefined ? '' : `${metadata.namespace}/`}${metadata.name}`;
}

export function isSame(a: ApiObject, b: ApiObject): boolean {
  return named(a) === named(b);
}

/** Every object of a kind, over all pages. */
export async function listAll(api: KubeApi, resource: Resource, selection: Selection = {}): Promise<ApiObject[]> {
  const found: ApiObject[] = [];
  for (let from: string | undefined; ; ) {
    const page = await api.list(resource, selection, from === undefined ? {} : { from });
    found.push(...page.items);
    if (page.next === undefined) return found;
    from = page.next;
  }
}

/**
 * What of `instance` (`meltemi`, `meltemi-REVISION`; every one when undefined) is in the cluster, in the order of
 * installation.
 */
export async function installedObjects(api: KubeApi, instance: string | undefined): Promise<readonly ApiObject[]> {
  const labelSelector = `${PART_OF}=meltemi${instance === undefined ? '' : `,${INSTANCE}=${instance}`}`;
  const lists = await Promise.all(INSTALLED_KINDS.map((each) => listAll(api, each, { labelSelector }).catch(ifServed)));
  return lists.flat();
}

/** Of a kind that this version of Kubernetes does not know there is nothing. */
function ifServed(error: unknown): readonly ApiObject[] {
  if (error instanceof ApiError && error.status === 404) return [];
  throw error;
}

/** What all objects of one control plane carry. */
export function instanceOf(revision: string): string {
  return revision === '' ? 'meltemi' : `meltemi-${revision}`;
}

export function labelOf(object: ApiObject, name: string): string | undefined {
  return (object.metadata.labels as Readonly<Record<string, string>> | undefined)?.[name];
}

export function annotationOf(object: ApiObject, name: string): string | undefined {
  return (object.metadata.annotations as Readonly<Record<string, string>> | undefined)?.[name];
}

export const PART_OF = 'app.kubernetes.io/part-of';
export const INSTANCE = 'app.kubernetes.io/instance';
