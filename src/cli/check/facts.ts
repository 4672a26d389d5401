import type { ApiObject } from '../../kube/api.js';

/** What is known of a cluster before anybody judges it. Objects are as the API server gave them. */
export interface Facts {
  /** Of this command, MAJOR.MINOR.PATCH. */
  readonly ourVersion: string;
  readonly namespace: string;
  /** Of the API server: `v1.36.3`. */
  readonly kubernetes: string;
  /** The API server's clock minus ours, ms. */
  readonly serverAheadMs: number;
  /** When the facts were gathered by the API server's clock, ms since the epoch. */
  readonly serverNow: number;
  /** What an installation needs and this user may not do: `create clusterroles`. */
  readonly forbidden: readonly string[];
  readonly nodes: readonly ApiObject[];
  /** Their heartbeats, by name of the node. */
  readonly leases: readonly ApiObject[];
  readonly namespaces: readonly ApiObject[];
  readonly pods: readonly ApiObject[];
  readonly networkPolicies: readonly ApiObject[];
  readonly daemonSets: readonly ApiObject[];
  readonly deployments: readonly ApiObject[];
  readonly crds: readonly ApiObject[];
  readonly webhooks: readonly ApiObject[];
  /** `kube-system/cilium-config`. */
  readonly ciliumConfig: ApiObject | undefined;
  /** Names of the definitions that an installation brings. */
  readonly ourCrds: readonly string[];
  /** Which nodes an agent is wanted on: the labels that the installation asks for. */
  readonly agentNodes: Readonly<Record<string, string>>;
}

/** Something that is wrong, or may become so. */
export interface Finding {
  readonly because: FindingCode;
  /** An error stops the mesh or a part of it from working; a warning will, some day or for some pods. */
  readonly severity: 'error' | 'warning' | 'info';
  /** `node/node-1`, `networkpolicy/shop/deny`. */
  readonly objects: readonly string[];
  readonly text: string;
  readonly remedy: string;
}

/** docs/reference/checks.md explains them. */
export type FindingCode =
  | 'kubernetes-too-old'
  | 'permission-missing'
  | 'clock-differs'
  | 'node-clock-differs'
  | 'node-not-ready'
  | 'kernel-too-old'
  | 'namespace-restricted'
  | 'cni-found'
  | 'cni-unknown'
  | 'cilium-socket-lb'
  | 'cilium-exclusive'
  | 'hbone-blocked'
  | 'another-ambient-mesh'
  | 'another-control-plane'
  | 'crd-missing'
  | 'crd-too-old'
  | 'not-installed'
  | 'control-plane-not-ready'
  | 'control-plane-single'
  | 'agent-missing'
  | 'agent-not-ready'
  | 'versions-differ'
  | 'webhook-without-roots'
  | 'pod-not-captured';
