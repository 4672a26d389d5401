import type { ApiObject, KubeApi } from '../../kube/api.js';
import { RESOURCES } from '../../kube/resources.js';
import { annotationOf, labelOf } from './objects.js';

/** What becomes of one definition, and why. */
export interface CrdPlan {
  readonly definition: ApiObject;
  readonly action: 'create' | 'update' | 'keep';
  readonly because: 'missing' | 'ours' | 'owned-by-another' | 'newer-there';
}

/**
 * A definition that somebody else brought (an Istio, a Gateway API bundle) is left to them: theirs may be newer, and
 * replacing it could take versions away that objects are stored in. Ours follow our version, but never backwards.
 */
export function planCrds(ours: readonly ApiObject[], there: readonly ApiObject[], version: string): readonly CrdPlan[] {
  return ours.map((definition): CrdPlan => {
    const found = there.find(({ metadata }) => metadata.name === definition.metadata.name);
    if (found === undefined) return { definition, action: 'create', because: 'missing' };
    const owner = annotationOf(found, BROUGHT_BY);
    if (owner === undefined || labelOf(found, HELM) === 'Helm') {
      return { definition, action: 'keep', because: 'owned-by-another' };
    }
    if (isNewer(owner, version)) return { definition, action: 'keep', because: 'newer-there' };
    return { definition, action: 'update', because: 'ours' };
  });
}

/** Carries the plan out, and waits until what is new is served. */
export async function applyCrds(
  api: KubeApi,
  plans: readonly CrdPlan[],
  version: string,
  pause: (ms: number) => Promise<void>,
): Promise<void> {
  const changed = plans.filter(({ action }) => action !== 'keep');
  for (const { definition } of changed) {
    const annotations = { ...(definition.metadata.annotations as object | undefined), [BROUGHT_BY]: version };
    const object = { ...definition, metadata: { ...definition.metadata, annotations } };
    await api.apply(RESOURCES.CustomResourceDefinition, object, { force: true });
  }
  for (const { definition } of changed) {
    const { name } = definition.metadata;
    while (!isEstablished(await api.get(RESOURCES.CustomResourceDefinition, { name }))) await pause(200);
  }
}

/** Those that `meltemi install` brought. */
export function broughtByUs(there: readonly ApiObject[]): readonly ApiObject[] {
  return there.filter((each) => annotationOf(each, BROUGHT_BY) !== undefined);
}

function isEstablished(definition: ApiObject | undefined): boolean {
  const status = definition?.status as { conditions?: { type: string; status: string }[] } | undefined;
  return status?.conditions?.some(({ type, status }) => type === 'Established' && status === 'True') === true;
}

/** Whether version `a` comes after `b`; both are MAJOR.MINOR.PATCH. */
export function isNewer(a: string, b: string): boolean {
  const [left, right] = [a, b].map((each) => each.split(/[.-]/).map((part) => Number.parseInt(part, 10) || 0)) as [
    number[],
    number[],
  ];
  for (let at = 0; at < 3; at++) {
    if ((left[at] ?? 0) !== (right[at] ?? 0)) return (left[at] ?? 0) > (right[at] ?? 0);
  }
  return false;
}

const BROUGHT_BY = 'meltemi.io/version';
const HELM = 'app.kubernetes.io/managed-by';
