import type { ApiObject, KubeApi } from '../../kube/api.js';
import { RESOURCES } from '../../kube/resources.js';
import { labelOf, listAll } from '../install/objects.js';
import { whyNotReady } from '../install/rollout.js';
import { metricOf } from './metrics-text.js';

/** The mesh as its parts tell of themselves. Numbers are undefined where a part did not answer. */
export interface MeshStatus {
  readonly namespace: string;
  readonly controlPlanes: readonly ControlPlaneStatus[];
  readonly agents: readonly AgentStatus[];
}

export interface PodStatus {
  readonly pod: string;
  readonly node: string;
  readonly version: string;
  /** Why it is not ready; empty when it is. */
  readonly trouble: string;
}

export interface ControlPlaneStatus extends PodStatus {
  readonly revision: string;
  readonly leads: boolean | undefined;
  /** Agents that are connected to it. */
  readonly agents: number | undefined;
  /** Of what it sent, how often an agent refused something. */
  readonly refused: number | undefined;
}

export interface AgentStatus extends PodStatus {
  readonly captured: number | undefined;
  readonly pending: number | undefined;
  readonly certificatesMissing: number | undefined;
  readonly workloads: number | undefined;
}

/** Asks the API server for the pods, and the pods, through it, for their metrics. */
export async function meshStatus(api: KubeApi, namespace: string): Promise<MeshStatus> {
  const [controlPlanes, agents] = await Promise.all([
    partsOf(api, namespace, 'meltemi-control-plane', 15014),
    partsOf(api, namespace, 'meltemi-agent', 15020),
  ]);
  return {
    namespace,
    controlPlanes: controlPlanes.map(({ pod, about, page }) => ({
      ...about,
      revision: (labelOf(pod, 'app.kubernetes.io/instance') ?? '').replace(/^meltemi-?/, ''),
      leads: page === undefined ? undefined : metricOf(page, 'meltemi_leader') === 1,
      agents: page === undefined ? undefined : (metricOf(page, 'pilot_xds') ?? 0),
      refused: page === undefined ? undefined : (metricOf(page, 'pilot_total_xds_rejects') ?? 0),
    })),
    agents: agents.map(({ about, page = '' }) => ({
      ...about,
      captured: metricOf(page, 'istio_active_proxy_count'),
      pending: metricOf(page, 'istio_pending_proxy_count'),
      certificatesMissing: metricOf(page, 'meltemi_certificates_missing'),
      workloads: metricOf(page, 'meltemi_workloads'),
    })),
  };
}

/** For people. */
export function formatMeshStatus({ namespace, controlPlanes, agents }: MeshStatus): string {
  if (controlPlanes.length + agents.length === 0) return `Nothing is installed in ${namespace}.`;
  const connected = controlPlanes.reduce((sum, each) => sum + (each.agents ?? 0), 0);
  const total = (name: 'captured' | 'pending') => agents.reduce((sum, each) => sum + (each[name] ?? 0), 0);
  const troubles = [...controlPlanes, ...agents].map(({ trouble }) => trouble).filter((text) => text !== '');
  return [
    table(
      ['CONTROL PLANE', 'REVISION', 'NODE', 'READY', 'VERSION', 'LEADS', 'AGENTS', 'REFUSED'],
      controlPlanes.map((each) => [
        each.pod,
        each.revision || '-',
        each.node,
        each.trouble === '' ? 'yes' : 'no',
        each.version,
        each.leads === undefined ? '?' : each.leads ? 'yes' : 'no',
        text(each.agents),
        text(each.refused),
      ]),
    ),
    table(
      ['AGENT', 'NODE', 'READY', 'VERSION', 'CAPTURED', 'PENDING', 'CERTIFICATES MISSING', 'WORKLOADS KNOWN'],
      agents.map((each) => [
        each.pod,
        each.node,
        each.trouble === '' ? 'yes' : 'no',
        each.version,
        text(each.captured),
        text(each.pending),
        text(each.certificatesMissing),
        text(each.workloads),
      ]),
    ),
    [
      `${connected} of ${agents.length} agents are connected to a control plane`,
      `${total('captured')} pods are captured, ${total('pending')} wait for it`,
      ...troubles.map((each) => `! ${each}`),
    ].join('\n'),
  ]
    .filter((part) => part !== '')
    .join('\n\n');
}

async function partsOf(api: KubeApi, namespace: string, name: string, port: number) {
  const pods = await listAll(api, RESOURCES.Pod, { namespace, labelSelector: `app.kubernetes.io/name=${name}` });
  return Promise.all(
    pods.toSorted(byNode).map(async (pod) => {
      const trouble = whyNotReady(pod).join('; ');
      const path = `/api/v1/namespaces/${namespace}/pods/${pod.metadata.name}:${port}/proxy/metrics`;
      const page = await api.request('GET', path).catch(() => undefined);
      const about: PodStatus = {
        pod: pod.metadata.name,
        node: nodeOf(pod),
        version: labelOf(pod, 'app.kubernetes.io/version') ?? '?',
        trouble,
      };
      return { pod, about, page: typeof page === 'string' ? page : undefined };
    }),
  );
}

function nodeOf(pod: ApiObject): string {
  return (pod.spec as { nodeName?: string } | undefined)?.nodeName ?? '-';
}

function byNode(a: ApiObject, b: ApiObject): number {
  return nodeOf(a).localeCompare(nodeOf(b)) || a.metadata.name.localeCompare(b.metadata.name);
}

function text(value: number | undefined): string {
  return value === undefined ? '?' : String(value);
}

function table(heads: readonly string[], rows: readonly (readonly string[])[]): string {
  if (rows.length === 0) return '';
  const widths = heads.map((head, column) => Math.max(head.length, ...rows.map((row) => row[column]?.length ?? 0)));
  const line = (row: readonly string[]) => row.map((cell, column) => cell.padEnd(widths[column] ?? 0)).join('  ');
  return [heads, ...rows].map((row) => line(row).trimEnd()).join('\n');
}
