import { both } from './addresses.js';
import type { LabPod } from './pod.js';
import type { ContainerPlan } from './pod-plan.js';

/** The environment of a container: a few basics, the lab's marker, and what its spec says. */
export function containerEnv(
  plan: ContainerPlan,
  pod: Pick<LabPod, 'start' | 'object'>,
): Readonly<Record<string, string>> {
  const own = plan.env.map((entry) => [entry.name, 'value' in entry ? entry.value : fieldOf(pod, entry.fieldPath)]);
  const { marker, plan: podPlan } = pod.start;
  const basics = { PATH, HOME: '/root', HOSTNAME: podPlan.hostname, MELTEMI_LAB: marker };
  return { ...basics, ...Object.fromEntries(own), MELTEMI_LAB: marker };
}

/** A field of the pod by its path; empty when there is none of that name. */
function fieldOf({ start, object }: Pick<LabPod, 'start' | 'object'>, path: string): string {
  const { uid, nodeName, nodeAddresses, addresses, plan } = start;
  const { name, namespace, labels, annotations } = object.metadata;
  const named = /^metadata\.(labels|annotations)\['([^']+)'\]$/.exec(path);
  if (named !== null) return (named[1] === 'labels' ? labels : annotations)[named[2] ?? ''] ?? '';
  const fields: Readonly<Record<string, string>> = {
    'metadata.name': name,
    'metadata.namespace': namespace,
    'metadata.uid': uid,
    'spec.nodeName': nodeName,
    'spec.serviceAccountName': plan.serviceAccount,
    'status.podIP': addresses.ipv4,
    'status.podIPs': both(addresses).join(','),
    'status.hostIP': nodeAddresses.ipv4,
  };
  return Object.hasOwn(fields, path) ? (fields[path] ?? '') : '';
}

/** Containers find what this machine has, and last the Node that runs the lab. */
const PATH = `${process.env.PATH ?? '/usr/sbin:/usr/bin:/sbin:/bin'}:${process.execPath.slice(0, process.execPath.lastIndexOf('/'))}`;
