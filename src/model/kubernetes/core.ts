import type { Fields } from './fields.js';
import { type Metadata, type Owner, readController, readMetadata } from './metadata.js';

/** What we read of Namespace, Node and Pod. */

export interface Namespace {
  readonly kind: 'Namespace';
  readonly metadata: Metadata;
}

export interface Node {
  readonly kind: 'Node';
  readonly metadata: Metadata;
}

export interface Pod {
  readonly kind: 'Pod';
  readonly metadata: Metadata;
  readonly controller: Owner | undefined;
  readonly generateName: string;
  readonly nodeName: string;
  /** `default` when the pod names none. */
  readonly serviceAccount: string;
  readonly hostNetwork: boolean;
  readonly containerPorts: readonly ContainerPort[];
  readonly phase: PodPhase;
  /** The Ready condition is True. */
  readonly ready: boolean;
  /** Canonical, in the order of the status. */
  readonly ips: readonly string[];
}

export interface ContainerPort {
  readonly name: string;
  readonly port: number;
  readonly protocol: string;
}

export type PodPhase = (typeof PHASES)[number];

export function readNamespace(object: Fields): Namespace {
  return { kind: 'Namespace', metadata: readMetadata(object, 'cluster') };
}

export function readNode(object: Fields): Node {
  return { kind: 'Node', metadata: readMetadata(object, 'cluster') };
}

export function readPod(object: Fields): Pod {
  const spec = object.object('spec');
  const status = object.object('status');
  const conditions = status.objects('conditions', (each) => ({
    type: each.string('type'),
    status: each.string('status'),
  }));
  return {
    kind: 'Pod',
    metadata: readMetadata(object, 'namespaced'),
    controller: readController(object),
    generateName: object.object('metadata').string('generateName'),
    nodeName: spec.string('nodeName'),
    serviceAccount: spec.string('serviceAccountName') || spec.string('serviceAccount') || 'default',
    hostNetwork: spec.boolean('hostNetwork'),
    containerPorts: [
      ...spec.objects('containers', readPorts),
      ...spec.objects('initContainers', readSidecarPorts),
    ].flat(),
    phase: status.oneOf('phase', PHASES),
    ready: conditions.some(({ type, status }) => type === 'Ready' && status === 'True'),
    ips: readIps(status),
  };
}

function readPorts(container: Fields): readonly ContainerPort[] {
  return container.objects('ports', (port) => ({
    name: port.string('name'),
    port: port.requiredPort('containerPort'),
    protocol: port.string('protocol') || 'TCP',
  }));
}

/** An init container that restarts always runs beside the others. */
function readSidecarPorts(container: Fields): readonly ContainerPort[] {
  return container.string('restartPolicy') === 'Always' ? readPorts(container) : [];
}

function readIps(status: Fields): readonly string[] {
  const all = status.objects('podIPs', (each) => each.optionalIp('ip')).filter((ip) => ip !== undefined);
  const one = status.optionalIp('podIP');
  return all.length > 0 || one === undefined ? all : [one];
}

const PHASES = ['Pending', 'Running', 'Succeeded', 'Failed', 'Unknown'] as const;
