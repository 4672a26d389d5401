import { parseYamlDocuments } from '../lib/yaml.js';

/** Kubernetes objects as the lab sees them: metadata checked, the rest as it came. */

export interface KubeObject {
  readonly apiVersion: string;
  readonly kind: string;
  readonly metadata: ObjectMeta;
  readonly [field: string]: unknown;
}

export interface ObjectMeta {
  readonly name: string;
  /** Empty for cluster-scoped objects. */
  readonly namespace: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly annotations: Readonly<Record<string, string>>;
  readonly [field: string]: unknown;
}

export interface ParsedObjects {
  readonly objects: readonly KubeObject[];
  /** One sentence each, naming the source and the object. */
  readonly problems: readonly string[];
}

/**
 * All objects of a text with `---` between documents; a `List` is opened. What is wrong is named, the rest goes on.
 * `source` (a file name) is for messages.
 */
export function parseObjects(text: string, source: string): ParsedObjects {
  const parsed = parseYamlDocuments(text);
  if (!parsed.ok) return { objects: [], problems: parsed.error.map((problem) => `${source}: ${problem}`) };
  const objects: KubeObject[] = [];
  const problems: string[] = [];
  for (const { value, line } of parsed.value) {
    for (const item of openList(value)) {
      const object = toObject(item);
      if (typeof object === 'string') problems.push(`${source}, line ${line}: ${object}`);
      else objects.push(object);
    }
  }
  return { objects, problems };
}

/** Tells objects apart: two versions of an API group are the same object. */
export function objectKey({
  apiVersion,
  kind,
  metadata,
}: Pick<KubeObject, 'apiVersion' | 'kind' | 'metadata'>): string {
  const group = apiVersion.includes('/') ? apiVersion.slice(0, apiVersion.indexOf('/')) : '';
  return [group, kind, metadata.namespace, metadata.name].join('/');
}

/** For messages: `Pod shop/web`. */
export function objectTitle({ kind, metadata }: Pick<KubeObject, 'kind' | 'metadata'>): string {
  return `${kind} ${metadata.namespace === '' ? '' : `${metadata.namespace}/`}${metadata.name}`;
}

export function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

/** A field that should be an object; anything else is an empty one. */
export function recordAt(value: unknown, ...path: readonly string[]): Record<string, unknown> {
  let at: unknown = value;
  for (const field of path) at = isRecord(at) ? at[field] : undefined;
  return isRecord(at) ? at : {};
}

/** A field that should be a list; anything else is an empty one. */
export function listAt(value: unknown, field: string): readonly unknown[] {
  const list = isRecord(value) ? value[field] : undefined;
  return Array.isArray(list) ? list : [];
}

/** A map of strings; other scalars are taken as text, as `labels: {version: 1}` is a common slip. */
export function stringMap(value: unknown): Readonly<Record<string, string>> {
  const entries = Object.entries(isRecord(value) ? value : {}).filter(
    ([, each]) => each !== null && typeof each !== 'object',
  );
  return Object.fromEntries(entries.map(([key, each]) => [key, String(each)]));
}

/** True when every pair of `wanted` is among `labels`. An empty selector matches nothing, as in a Service. */
export function selects(wanted: Readonly<Record<string, string>>, labels: Readonly<Record<string, string>>): boolean {
  const pairs = Object.entries(wanted);
  return pairs.length > 0 && pairs.every(([key, value]) => labels[key] === value);
}

function openList(value: unknown): readonly unknown[] {
  return isRecord(value) && value.kind === 'List' && Array.isArray(value.items) ? value.items : [value];
}

function toObject(value: unknown): KubeObject | string {
  if (!isRecord(value)) return 'this is no Kubernetes object: expected a map with apiVersion, kind and metadata';
  const { apiVersion, kind, metadata } = value;
  if (typeof apiVersion !== 'string' || apiVersion === '') return 'apiVersion is missing';
  if (typeof kind !== 'string' || !/^[A-Z][A-Za-z0-9]{0,62}$/.test(kind))
    return 'kind is missing, or no name of a kind';
  if (!isRecord(metadata)) return `${kind}: metadata is missing`;
  const { name, namespace } = metadata;
  if (typeof name !== 'string' || !NAME.test(name))
    return `${kind}: metadata.name is missing, or no name Kubernetes would take`;
  if (namespace !== undefined && (typeof namespace !== 'string' || !NAMESPACE.test(namespace))) {
    return `${kind} ${name}: metadata.namespace is no name of a namespace`;
  }
  const scoped = CLUSTER_SCOPED.has(kind) ? '' : (namespace ?? 'default');
  return {
    ...value,
    apiVersion,
    kind,
    metadata: {
      ...metadata,
      name,
      namespace: scoped,
      labels: stringMap(metadata.labels),
      annotations: stringMap(metadata.annotations),
    },
  };
}

/** The kind that a word on the command line means: `ns`, `pods`, `Service`, … */
export function kindOf(word: string): string {
  const lower = word.toLowerCase();
  return SHORT_KINDS[lower] ?? SHORT_KINDS[lower.replace(/s$/, '')] ?? word;
}

const SHORT_KINDS: Readonly<Record<string, string>> = {
  ns: 'Namespace',
  namespace: 'Namespace',
  po: 'Pod',
  pod: 'Pod',
  svc: 'Service',
  service: 'Service',
  deploy: 'Deployment',
  deployment: 'Deployment',
  sts: 'StatefulSet',
  statefulset: 'StatefulSet',
  no: 'Node',
  node: 'Node',
  se: 'ServiceEntry',
  serviceentry: 'ServiceEntry',
  we: 'WorkloadEntry',
  workloadentry: 'WorkloadEntry',
};

const CLUSTER_SCOPED: ReadonlySet<string> = new Set([
  'Namespace',
  'Node',
  'GatewayClass',
  'ClusterRole',
  'ClusterRoleBinding',
  'CustomResourceDefinition',
  'PersistentVolume',
  'PriorityClass',
  'StorageClass',
  'ValidatingWebhookConfiguration',
  'MutatingWebhookConfiguration',
]);
/** Also the name of a file in the lab: no slash, no leading dot. */
const NAME = /^[a-z0-9A-Z]([a-zA-Z0-9.:-]{0,251}[a-zA-Z0-9])?$/;
const NAMESPACE = /^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$/;
