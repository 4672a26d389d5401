import type { ApiObject } from '../../../kube/api.js';
import { type KubernetesObject, parseObject } from '../../../model/kubernetes/object.js';

/** An object of the API server as the mesh reads it; nothing else of it stays in memory. */
export interface ReadObject {
  /** `namespace/name`, or the name alone. */
  readonly key: string;
  /** Undefined when it is no good. */
  readonly object: KubernetesObject | undefined;
  /** What is wrong with it. */
  readonly problems: readonly string[];
  /** What is in force while it never was good. */
  readonly closed?: KubernetesObject;
}

export function readObject(raw: ApiObject): ReadObject {
  const { namespace = '', name, annotations } = raw.metadata;
  if (annotations) (raw.metadata as Record<string, unknown>).annotations = ours(annotations);
  const key = namespace === '' ? name : `${namespace}/${name}`;
  const parsed = parseObject(raw);
  if (!parsed.ok) {
    const { problems, closed } = parsed.error;
    return { key, object: undefined, problems, ...(closed === undefined ? {} : { closed }) };
  }
  if ('ignored' in parsed.value) return { key, object: undefined, problems: [parsed.value.ignored] };
  return { key, object: parsed.value.object, problems: [] };
}

/** Other people's are often larger than all the rest of an object: what was last applied, the state of a network. */
function ours(annotations: object): unknown {
  const entries = Object.entries(annotations);
  const kept = entries.filter(([name]) => OURS.test(name));
  return kept.length === entries.length ? annotations : Object.fromEntries(kept);
}

const OURS = /^(?:[^/]+\.)?(?:istio|k8s)\.io\//;
