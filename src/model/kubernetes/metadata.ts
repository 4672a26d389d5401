import type { Fields } from './fields.js';

export type Labels = Readonly<Record<string, string>>;

/** What we read of an object's metadata. Namespaced objects that name no namespace are in `default`. */
export interface Metadata {
  readonly name: string;
  /** Empty for cluster-scoped kinds. */
  readonly namespace: string;
  readonly uid: string;
  readonly labels: Labels;
  readonly annotations: Labels;
  /** Milliseconds since the epoch; 0 when unknown, which counts as oldest. */
  readonly createdAtMs: number;
  readonly terminating: boolean;
}

export interface Owner {
  readonly kind: string;
  readonly name: string;
  readonly controller: boolean;
}

/** `spec.selector.matchLabels` and its like. Undefined: selects by nothing. */
export type Selector = Labels | undefined;

export function readMetadata(object: Fields, scope: 'cluster' | 'namespaced'): Metadata {
  const metadata = object.object('metadata');
  const name = metadata.requiredString('name');
  if (name !== '' && !NAME.test(name)) metadata.problem('name', `is ${JSON.stringify(name)}, which is no object name`);
  const namespace = scope === 'cluster' ? '' : metadata.string('namespace') || DEFAULT_NAMESPACE;
  if (namespace !== '' && !NAME.test(namespace)) {
    metadata.problem('namespace', `is ${JSON.stringify(namespace)}, which is no namespace name`);
  }
  return {
    name,
    namespace,
    uid: metadata.string('uid'),
    labels: metadata.stringMap('labels'),
    annotations: metadata.stringMap('annotations'),
    createdAtMs: metadata.optionalTime('creationTimestamp') ?? 0,
    terminating: metadata.has('deletionTimestamp'),
  };
}

/** Counts the versions of an object's spec; 0 when unknown. */
export function readGeneration(object: Fields): number {
  return object.object('metadata').optionalInteger('generation', 0, Number.MAX_SAFE_INTEGER) ?? 0;
}

/** The controller among the owner references. */
export function readController(object: Fields): Owner | undefined {
  return object
    .object('metadata')
    .objects('ownerReferences', (owner) => ({
      kind: owner.string('kind'),
      name: owner.string('name'),
      controller: owner.boolean('controller'),
    }))
    .find((owner) => owner.controller);
}

/** `namespace/name`, or the name alone for cluster-scoped kinds. */
export function keyOf(metadata: Pick<Metadata, 'namespace' | 'name'>): string {
  return metadata.namespace === '' ? metadata.name : `${metadata.namespace}/${metadata.name}`;
}

/** Whether every label that `selector` asks for is there. An empty selector matches everything. */
export function selects(selector: Labels, labels: Labels): boolean {
  for (const key in selector) if (labels[key] !== selector[key]) return false;
  return true;
}

/** Older first; of the same age, by key. For sorting. */
export function byAge(a: Metadata, b: Metadata): number {
  return a.createdAtMs - b.createdAtMs || (keyOf(a) < keyOf(b) ? -1 : 1);
}

const DEFAULT_NAMESPACE = 'default';
const NAME = /^[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?$/;
