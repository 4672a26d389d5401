import type { ApiObject, KubeApi, Resource } from '../../kube/api.js';
import { RESOURCES } from '../../kube/resources.js';
import { listAll, named } from './objects.js';

/** How far a Deployment or a DaemonSet is. */
export interface Progress {
  readonly done: boolean;
  /** `1 of 2 ready`. */
  readonly text: string;
}

/** Pure; `object` as the API server gave it. */
export function progressOf(object: ApiObject): Progress {
  const spec = (object.spec ?? {}) as { replicas?: number };
  const status = (object.status ?? {}) as Readonly<Record<string, number | undefined>>;
  const observed = (status.observedGeneration ?? 0) >= Number(object.metadata.generation ?? 0);
  const isDaemonSet = object.kind === 'DaemonSet';
  const wanted = isDaemonSet ? status.desiredNumberScheduled : (spec.replicas ?? 1);
  const updated = (isDaemonSet ? status.updatedNumberScheduled : status.updatedReplicas) ?? 0;
  const available = (isDaemonSet ? status.numberAvailable : status.availableReplicas) ?? 0;
  // Old replicas that are still there are part of an unfinished rollout.
  const all = isDaemonSet ? updated : (status.replicas ?? 0);
  const ready = Math.min(updated, available);
  if (!observed || wanted === undefined) return { done: false, text: 'not seen by its controller yet' };
  return { done: ready >= wanted && all <= wanted, text: `${ready} of ${wanted} ready` };
}

export interface RolloutOptions {
  readonly timeoutMs: number;
  readonly now: () => number;
  readonly pause: (ms: number) => Promise<void>;
  readonly say: (line: string) => void;
}

/** Waits until every pod of `object` is the newest and available. Rejects after the time, saying what holds it up. */
export async function waitForRollout(
  api: KubeApi,
  resource: Resource,
  object: ApiObject,
  { timeoutMs, now, pause, say }: RolloutOptions,
): Promise<void> {
  const until = now() + timeoutMs;
  const { namespace, name } = object.metadata;
  let last = '';
  for (;;) {
    const current = await api.get(resource, { ...(namespace === undefined ? {} : { namespace }), name });
    const { done, text } =
      current === undefined ? { done: false, text: 'it is gone' } : progressOf({ ...current, kind: resource.kind });
    if (text !== last) say(`${named(object)}: ${text}`);
    last = text;
    if (done) return;
    if (now() > until) {
      const pods = current === undefined ? [] : await podsOf(api, current);
      const reasons = pods.flatMap(whyNotReady).map((line) => `\n  ${line}`);
      throw new Error(
        `${named(object)} is not ready after ${Math.round(timeoutMs / 1000)} s: ${text}${reasons.join('')}`,
      );
    }
    await pause(POLL_MS);
  }
}

/** Lines that say why a pod is not ready; none when it is. */
export function whyNotReady(pod: ApiObject): readonly string[] {
  const status = (pod.status ?? {}) as PodStatus;
  const { nodeName } = (pod.spec ?? {}) as { nodeName?: string };
  const where = `pod ${pod.metadata.name}${nodeName === undefined ? '' : ` on ${nodeName}`}`;
  const unscheduled = status.conditions?.find(({ type, status }) => type === 'PodScheduled' && status === 'False');
  if (unscheduled !== undefined) return [`${where}: not scheduled: ${unscheduled.message ?? unscheduled.reason}`];
  const containers = [...(status.initContainerStatuses ?? []), ...(status.containerStatuses ?? [])];
  const waiting = containers.flatMap(({ name, state, lastState, ready }) => {
    if (ready || state?.terminated?.exitCode === 0) return [];
    const { reason, message } = state?.waiting ?? {};
    const { exitCode, reason: ended } = lastState?.terminated ?? {};
    const before = exitCode === undefined ? '' : `, ended before with ${exitCode} (${ended})`;
    return [`${where}: container ${name} is ${reason ?? 'not ready'}${message ? `: ${message}` : ''}${before}`];
  });
  const isReady = status.conditions?.some(({ type, status }) => type === 'Ready' && status === 'True') === true;
  return isReady ? [] : waiting.length > 0 ? waiting : [`${where}: ${status.phase ?? 'not seen by its node yet'}`];
}

async function podsOf(api: KubeApi, owner: ApiObject): Promise<readonly ApiObject[]> {
  const { selector } = (owner.spec ?? {}) as { selector?: { matchLabels?: Readonly<Record<string, string>> } };
  const labelSelector = Object.entries(selector?.matchLabels ?? {})
    .map(([name, value]) => `${name}=${value}`)
    .join(',');
  const { namespace } = owner.metadata;
  return listAll(api, RESOURCES.Pod, { ...(namespace === undefined ? {} : { namespace }), labelSelector });
}

interface PodStatus {
  readonly phase?: string;
  readonly conditions?: readonly { type: string; status: string; reason?: string; message?: string }[];
  readonly containerStatuses?: readonly ContainerStatus[];
  readonly initContainerStatuses?: readonly ContainerStatus[];
}

interface ContainerStatus {
  readonly name: string;
  readonly ready?: boolean;
  readonly state?: { waiting?: { reason?: string; message?: string }; terminated?: { exitCode: number } };
  readonly lastState?: { terminated?: { exitCode: number; reason?: string } };
}

const POLL_MS = 500;
