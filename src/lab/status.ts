import { join } from 'node:path';
import { both, FABRIC } from './addresses.js';
import type { LabLayout } from './layout.js';
import type { MeshProcesses } from './mesh.js';
import type { LabNode } from './node.js';
import type { LabPod } from './pod.js';
import type { ServiceView } from './service-table.js';

/** What `meltemi lab status --json` prints. Field names are a contract with outside tools. */
export interface LabStatus {
  readonly name: string;
  readonly directory: string;
  /** Grows with every change; see `after` of the status request. */
  readonly version: number;
  readonly pid: number;
  readonly mesh: boolean;
  /** Where the nodes meet; neither a node nor a pod, and outside of the mesh. */
  readonly fabric: { readonly netns: string; readonly addresses: readonly string[] };
  readonly controlPlane: ControlPlaneStatus | null;
  readonly nodes: readonly NodeStatus[];
  readonly pods: readonly PodStatus[];
  readonly services: readonly ServiceStatus[];
  /** What could not be done, one sentence each. */
  readonly problems: readonly string[];
}

export interface ControlPlaneStatus {
  /** 0 while it does not run. */
  readonly pid: number;
  readonly ready: boolean;
  readonly restarts: number;
  readonly address: string;
  readonly adminSocket: string;
  readonly log: string;
}

export interface NodeStatus {
  readonly name: string;
  readonly netns: string;
  readonly addresses: readonly string[];
  /** Of the agent; 0 while it does not run, or in a lab without a mesh. */
  readonly agentPid: number;
  readonly agentReady: boolean;
  readonly agentRestarts: number;
  readonly adminSocket: string;
  readonly accessLog: string;
  readonly log: string;
}

export interface PodStatus {
  readonly name: string;
  readonly namespace: string;
  readonly uid: string;
  readonly node: string;
  readonly serviceAccount: string;
  readonly netns: string;
  readonly addresses: readonly string[];
  /** Main processes of the containers. */
  readonly pids: readonly number[];
  readonly phase: string;
  readonly ready: boolean;
  readonly stopping: boolean;
  readonly restarts: number;
  /** `enabled`, `pending: why`, or empty. */
  readonly redirection: string;
  readonly message: string;
  readonly log: string;
}

export interface ServiceStatus {
  readonly name: string;
  readonly namespace: string;
  readonly addresses: readonly string[];
  readonly ports: readonly number[];
  readonly readyPods: number;
}

export interface LabParts {
  readonly layout: LabLayout;
  readonly version: number;
  readonly mesh: MeshProcesses | undefined;
  readonly nodes: readonly LabNode[];
  readonly pods: readonly LabPod[];
  readonly services: readonly ServiceView[];
  readonly problems: readonly string[];
  /** The agent's word on a pod. */
  redirection(pod: LabPod): string;
  /** Whether the Services of a ready pod lead to it by now. */
  isServed(pod: LabPod): boolean;
}

export function describeLab(parts: LabParts): LabStatus {
  const { layout, version, mesh, nodes, pods, services, problems, redirection, isServed } = parts;
  return {
    name: layout.name,
    directory: layout.directory,
    version,
    pid: process.pid,
    mesh: mesh !== undefined,
    fabric: { netns: `/proc/${process.pid}/ns/net`, addresses: both(FABRIC) },
    controlPlane:
      mesh === undefined
        ? null
        : {
            pid: mesh.controlPlane.pid ?? 0,
            ready: mesh.controlPlaneReady,
            restarts: mesh.controlPlane.restarts,
            address: `${FABRIC.ipv4}:15012`,
            adminSocket: join(layout.control, 'admin.sock'),
            log: mesh.controlPlane.start.log,
          },
    nodes: nodes.map((node) => ({
      name: node.name,
      netns: node.netns,
      addresses: both(node.addresses),
      agentPid: node.agent?.pid ?? 0,
      agentReady: node.agentReady,
      agentRestarts: node.agent?.restarts ?? 0,
      adminSocket: join(node.directory, 'admin.sock'),
      accessLog: join(node.directory, 'access.log'),
      log: join(node.directory, 'agent.log'),
    })),
    pods: pods.map((pod) => ({
      name: pod.object.metadata.name,
      namespace: pod.object.metadata.namespace,
      uid: pod.start.uid,
      node: pod.start.nodeName,
      serviceAccount: pod.start.plan.serviceAccount,
      netns: pod.netns,
      addresses: both(pod.start.addresses),
      pids: pod.containers.flatMap(({ pids }) => pids),
      phase: pod.phase,
      ready: pod.ready && isServed(pod),
      stopping: pod.stopping,
      restarts: pod.containers.reduce((sum, { restarts }) => sum + restarts, 0),
      redirection: redirection(pod),
      message: pod.message,
      log: pod.start.log,
    })),
    services: services.map(({ name, namespace, addresses, ports, pods: behind }) => ({
      name,
      namespace,
      addresses,
      ports: ports.map(({ port }) => port),
      readyPods: behind.length,
    })),
    problems,
  };
}
