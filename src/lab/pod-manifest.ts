import { both } from './addresses.js';
import type { Container } from './container.js';
import { type KubeObject, recordAt } from './objects.js';
import type { LabPod } from './pod.js';

/** A pod as Kubernetes would show it: what was applied, where it runs, and how it is. `redirection` is the agent's word. */
export function podManifest(pod: LabPod, redirection: string): KubeObject {
  const { uid, nodeName, plan } = pod.start;
  const { metadata } = pod.object;
  const annotations =
    redirection === ''
      ? metadata.annotations
      : { ...metadata.annotations, [REDIRECTION]: redirection.split(':')[0] ?? '' };
  return {
    ...pod.object,
    metadata: { ...metadata, uid, annotations, creationTimestamp: timestamp(pod.startedAtMs) },
    spec: { ...recordAt(pod.object, 'spec'), nodeName, serviceAccountName: plan.serviceAccount },
    status: podStatus(pod),
  };
}

function podStatus(pod: LabPod): Readonly<Record<string, unknown>> {
  const { addresses, nodeAddresses, plan } = pod.start;
  const running = pod.phase === 'Running';
  return {
    phase: pod.phase,
    ...(pod.message === '' ? {} : { message: pod.message }),
    startTime: timestamp(pod.startedAtMs),
    hostIP: nodeAddresses.ipv4,
    hostIPs: both(nodeAddresses).map((ip) => ({ ip })),
    podIP: addresses.ipv4,
    podIPs: both(addresses).map((ip) => ({ ip })),
    conditions: [
      condition('PodScheduled', true),
      condition('Initialized', running),
      condition('ContainersReady', pod.ready),
      condition('Ready', pod.ready),
    ],
    containerStatuses: plan.containers.map(({ name }) =>
      containerStatus(
        name,
        pod.containers.find(({ start }) => start.name === name),
        pod.containerReady(name),
      ),
    ),
  };
}

function containerStatus(
  name: string,
  container: Container | undefined,
  ready: boolean,
): Readonly<Record<string, unknown>> {
  const state = container?.state;
  const shown =
    state === undefined || state.type === 'starting'
      ? { waiting: { reason: 'ContainerCreating' } }
      : state.type === 'running'
        ? { running: {} }
        : state.type === 'waiting'
          ? { waiting: { reason: state.reason, message: `ended with ${state.exitCode}` } }
          : { terminated: { exitCode: state.exitCode } };
  return { name, ready, restartCount: container?.restarts ?? 0, state: shown };
}

function condition(type: string, status: boolean): Readonly<Record<string, string>> {
  return { type, status: status ? 'True' : 'False' };
}

function timestamp(ms: number): string {
  return new Date(Math.floor(ms / 1000) * 1000).toISOString().replace('.000Z', 'Z');
}

const REDIRECTION = 'ambient.istio.io/redirection';
