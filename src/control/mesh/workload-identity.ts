import { TunnelProtocol, WorkloadType } from '../../gen/istio/workload/workload_pb.js';
import type { Pod } from '../../model/kubernetes/core.js';
import type { Labels } from '../../model/kubernetes/metadata.js';

/** Who a workload is in the eyes of people: names for metrics, logs and dashboards. */
export interface Controller {
  readonly name: string;
  readonly type: WorkloadType;
}

/** What made the pod: a ReplicaSet stands for its Deployment and a Job for its CronJob. */
export function controllerOf(pod: Pod): Controller {
  const { controller, generateName, metadata } = pod;
  if (controller === undefined) {
    return { name: generateName === '' ? metadata.name : generateName.replace(/-$/, ''), type: WorkloadType.POD };
  }
  const { kind, name } = controller;
  const hash = metadata.labels['pod-template-hash'];
  if (kind === 'ReplicaSet' && hash !== undefined && name.endsWith(`-${hash}`)) {
    return { name: name.slice(0, -hash.length - 1), type: WorkloadType.DEPLOYMENT };
  }
  if (kind === 'Deployment') return { name, type: WorkloadType.DEPLOYMENT };
  if (kind === 'Job') {
    const cron = CRON_JOB.exec(name);
    return cron?.[1] === undefined ? { name, type: WorkloadType.JOB } : { name: cron[1], type: WorkloadType.CRONJOB };
  }
  return { name, type: WorkloadType.POD };
}

/** The canonical service and its revision, by labels, or else the workload's name and `latest`. */
export function canonicalNames(labels: Labels, workloadName: string): { name: string; revision: string } {
  return { name: firstOf(labels, NAME_LABELS) ?? workloadName, revision: firstOf(labels, REVISION_LABELS) ?? 'latest' };
}

/** How a workload is reached: through HBONE when its node has captured it, or when it says it speaks it itself. */
export function tunnelOf(
  labels: Labels,
  annotations: Labels,
): { tunnelProtocol: TunnelProtocol; nativeTunnel: boolean } {
  const nativeTunnel = (labels['networking.istio.io/tunnel'] ?? '').split(',').includes('http');
  const captured = annotations['ambient.istio.io/redirection'] === 'enabled';
  return { tunnelProtocol: nativeTunnel || captured ? TunnelProtocol.HBONE : TunnelProtocol.NONE, nativeTunnel };
}

function firstOf(labels: Labels, names: readonly string[]): string | undefined {
  for (const name of names) if (labels[name] !== undefined) return labels[name];
  return undefined;
}

const NAME_LABELS = ['service.istio.io/canonical-name', 'app.kubernetes.io/name', 'app'];
const REVISION_LABELS = ['service.istio.io/canonical-revision', 'app.kubernetes.io/version', 'version'];
/** A CronJob appends minutes since the epoch. */
const CRON_JOB = /^(.+)-\d{8,10}$/;
