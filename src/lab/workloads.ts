import { createHash } from 'node:crypto';
import { type KubeObject, objectTitle, recordAt, stringMap } from './objects.js';

export interface ExpandedPods {
  readonly pods: readonly KubeObject[];
  readonly problems: readonly string[];
}

/**
 * The Pods that Deployments, ReplicaSets, StatefulSets, DaemonSets and Jobs among `objects` ask for, named and owned as
 * Kubernetes does. Pure, and stable: the same objects give the same names.
 */
export function expandWorkloads(objects: readonly KubeObject[], nodes: readonly string[]): ExpandedPods {
  const pods: KubeObject[] = [];
  const problems: string[] = [];
  for (const object of objects) {
    const expand = EXPANSIONS[object.kind];
    if (expand === undefined) continue;
    if (Object.keys(recordAt(object, 'spec', 'template')).length === 0)
      problems.push(`${objectTitle(object)}: spec.template is missing`);
    else pods.push(...expand(object, nodes));
  }
  return { pods, problems };
}

type Expansion = (owner: KubeObject, nodes: readonly string[]) => readonly KubeObject[];

const EXPANSIONS: Readonly<Record<string, Expansion>> = {
  Deployment: (owner) => {
    const hash = templateHash(owner);
    const set = `${owner.metadata.name}-${hash}`;
    const labels = { 'pod-template-hash': hash };
    return replicaNames(owner, set).map((name) =>
      makePod(owner, name, labels, { apiVersion: 'apps/v1', kind: 'ReplicaSet', name: set }),
    );
  },
  ReplicaSet: (owner) =>
    replicaNames(owner, owner.metadata.name).map((name) => makePod(owner, name, {}, reference(owner))),
  StatefulSet: (owner) =>
    Array.from({ length: replicas(owner) }, (_, index) => {
      const name = `${owner.metadata.name}-${index}`;
      const labels = { 'statefulset.kubernetes.io/pod-name': name, 'apps.kubernetes.io/pod-index': String(index) };
      const subdomain = recordAt(owner, 'spec').serviceName;
      return makePod(owner, name, labels, reference(owner), {
        hostname: name,
        ...(subdomain === undefined ? {} : { subdomain }),
      });
    }),
  DaemonSet: (owner, nodes) =>
    nodes.map((nodeName) =>
      makePod(owner, `${owner.metadata.name}-${suffix(`${objectTitle(owner)}/${nodeName}`)}`, {}, reference(owner), {
        nodeName,
      }),
    ),
  Job: (owner) => {
    const spec = recordAt(owner, 'spec');
    const count = Math.max(typeof spec.completions === 'number' ? spec.completions : 1, 1);
    return Array.from({ length: Math.min(count, MAX_REPLICAS) }, (_, index) =>
      makePod(
        owner,
        `${owner.metadata.name}-${suffix(`${objectTitle(owner)}/${index}`)}`,
        { 'batch.kubernetes.io/job-name': owner.metadata.name, 'job-name': owner.metadata.name },
        reference(owner),
      ),
    );
  },
};

interface OwnerReference {
  readonly apiVersion: string;
  readonly kind: string;
  readonly name: string;
}

function makePod(
  owner: KubeObject,
  name: string,
  labels: Readonly<Record<string, string>>,
  reference: OwnerReference,
  spec: Readonly<Record<string, unknown>> = {},
): KubeObject {
  const template = recordAt(owner, 'spec', 'template');
  const metadata = recordAt(template, 'metadata');
  return {
    apiVersion: 'v1',
    kind: 'Pod',
    metadata: {
      name,
      namespace: owner.metadata.namespace,
      labels: { ...stringMap(metadata.labels), ...labels },
      annotations: stringMap(metadata.annotations),
      ownerReferences: [
        {
          ...reference,
          controller: true,
          uid: uidOf(`${reference.kind}/${owner.metadata.namespace}/${reference.name}`),
        },
      ],
    },
    spec: { ...recordAt(template, 'spec'), ...spec },
  };
}

function reference({ apiVersion, kind, metadata }: KubeObject): OwnerReference {
  return { apiVersion, kind, name: metadata.name };
}

function replicaNames(owner: KubeObject, set: string): readonly string[] {
  return Array.from(
    { length: replicas(owner) },
    (_, index) => `${set}-${suffix(`${owner.metadata.namespace}/${set}/${index}`)}`,
  );
}

function replicas(owner: KubeObject): number {
  const wanted = recordAt(owner, 'spec').replicas ?? 1;
  return typeof wanted === 'number' && wanted >= 0 ? Math.min(Math.floor(wanted), MAX_REPLICAS) : 1;
}

/** Changes with the template, and with nothing else. */
function templateHash(owner: KubeObject): string {
  const template = recordAt(owner, 'spec', 'template');
  return letters(JSON.stringify([template.spec, recordAt(template, 'metadata').labels]), 10);
}

function suffix(of: string): string {
  return letters(of, 5);
}

/** Letters and digits that Kubernetes uses in generated names: no vowels, nothing to misread. */
function letters(of: string, length: number): string {
  const digest = createHash('sha256').update(of).digest();
  return [...digest.subarray(0, length)].map((byte) => ALPHABET[byte % ALPHABET.length]).join('');
}

/** A UUID made from a name, the same at every call. */
export function uidOf(name: string): string {
  const hex = createHash('sha256').update(name).digest('hex');
  return `${hex.slice(0, 8)}-${hex.slice(8, 12)}-4${hex.slice(13, 16)}-8${hex.slice(17, 20)}-${hex.slice(20, 32)}`;
}

const ALPHABET = 'bcdfghjklmnpqrstvwxz2456789';
const MAX_REPLICAS = 250;
