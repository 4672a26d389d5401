import { both } from './addresses.js';
import type { LabNode } from './node.js';
import { type KubeObject, objectKey } from './objects.js';
import type { LabPod } from './pod.js';
import { podManifest } from './pod-manifest.js';

/**
 * What a control plane finds in this lab's cluster: the objects that were applied, a Node for each node (with labels
 * that somebody gave it), and each pod with where and how it is.
 */
export function clusterObjects(
  applied: readonly KubeObject[],
  nodes: readonly LabNode[],
  pods: readonly LabPod[],
  redirection: (pod: LabPod) => string,
): readonly KubeObject[] {
  const byKey = new Map(applied.filter(({ kind }) => kind !== 'Pod').map((object) => [objectKey(object), object]));
  for (const node of nodes) {
    const made = nodeManifest(node);
    const given = byKey.get(objectKey(made));
    const labels = { ...made.metadata.labels, ...given?.metadata.labels };
    byKey.set(objectKey(made), { ...given, ...made, metadata: { ...given?.metadata, ...made.metadata, labels } });
  }
  return [...byKey.values(), ...pods.map((pod) => podManifest(pod, redirection(pod)))];
}

function nodeManifest(node: LabNode): KubeObject {
  const labels = { 'kubernetes.io/hostname': node.name, 'kubernetes.io/os': 'linux' };
  return {
    apiVersion: 'v1',
    kind: 'Node',
    metadata: { name: node.name, namespace: '', labels, annotations: {} },
    status: {
      addresses: [
        { type: 'Hostname', address: node.name },
        ...both(node.addresses).map((address) => ({ type: 'InternalIP', address })),
      ],
      conditions: [{ type: 'Ready', status: 'True' }],
    },
  };
}
