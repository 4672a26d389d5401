import { readdirSync, readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';

/** A process that runs in a pod. */
export interface PodProcess {
  readonly pid: number;
  /** Path of its network namespace. */
  readonly netns: string;
  /** `DEVICE:INODE` of that. */
  readonly netnsId: string;
}

export interface WantedPod {
  /** How the kubelet calls the pod's cgroup. */
  readonly cgroup: string;
  readonly containers: readonly string[];
}

/**
 * Finds, for each pod, the oldest of its processes: the sandbox's own, whose network namespace is the pod's even where
 * later processes have made another for themselves. One walk through `proc` for all; a pod that is not found has no
 * entry. Needs the node's process ids (`hostPID`).
 */
export function findPodProcesses<K>(wanted: ReadonlyMap<K, WantedPod>, proc = '/proc'): Map<K, PodProcess> {
  const keys = new Map<string, K>();
  for (const [key, pod] of wanted) for (const word of [pod.cgroup, ...pod.containers]) keys.set(word, key);
  const found = new Map<K, { readonly process: PodProcess; readonly startTicks: number }>();
  const own = netnsIdOf(join(proc, '1', 'ns', 'net'));
  for (const name of readdirSync(proc)) {
    if (!/^\d+$/.test(name)) continue;
    const key = wordsOf(readText(join(proc, name, 'cgroup')))
      .map((word) => keys.get(word))
      .find((each) => each !== undefined);
    if (key === undefined) continue;
    const startTicks = startOf(readText(join(proc, name, 'stat')));
    const netns = join(proc, name, 'ns', 'net');
    const netnsId = netnsIdOf(netns);
    const earlier = found.get(key);
    // What is on its way into the pod is still in the node's namespace.
    if (netnsId === '' || netnsId === own || (earlier !== undefined && earlier.startTicks <= startTicks)) continue;
    found.set(key, { process: { pid: Number(name), netns, netnsId }, startTicks });
  }
  return new Map([...found].map(([key, { process }]) => [key, process]));
}

/** `DEVICE:INODE`; empty when there is no such thing. */
export function netnsIdOf(path: string): string {
  try {
    const { dev, ino } = statSync(path);
    return `${dev}:${ino}`;
  } catch {
    return '';
  }
}

/** Names of pods and containers in the paths of a process's cgroups, in the spellings of cgroupfs and of systemd. */
function wordsOf(cgroups: string): string[] {
  const pods = [...cgroups.matchAll(/pod([0-9a-f]{8}(?:[-_][0-9a-f]{4}){3}[-_][0-9a-f]{12}|[0-9a-f]{32})/g)];
  const containers = [...cgroups.matchAll(/[0-9a-f]{64}/g)];
  return [...pods.map(([, uid = '']) => uid.replaceAll('_', '-')), ...containers.map(([id]) => id)];
}

/** Field 22; the name in field 2 may contain anything, but ends with the last bracket. */
function startOf(stat: string): number {
  return Number(stat.slice(stat.lastIndexOf(')') + 2).split(' ')[19] ?? Number.POSITIVE_INFINITY);
}

function readText(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    // Gone since the listing.
    return '';
  }
}
