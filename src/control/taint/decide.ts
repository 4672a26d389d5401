import type { ApiObject } from '../../kube/api.js';

/** What counts of a node. */
export interface TaintedNode {
  readonly name: string;
  readonly resourceVersion: string;
  /** All of them, as they were given. */
  readonly taints: readonly Taint[];
}

export interface Taint {
  readonly key: string;
  readonly [field: string]: unknown;
}

/** What counts of an agent's pod. */
export interface AgentPod {
  readonly name: string;
  readonly node: string;
  readonly ready: boolean;
}

export type TaintDecision =
  | { readonly action: 'remove'; readonly taints: readonly Taint[]; readonly because: string }
  | { readonly action: 'keep'; readonly because: string };

/** Whether a node may have pods now: its agent is ready, so pods that start on it are captured. Pure. */
export function decideTaint(node: TaintedNode, agents: Iterable<AgentPod>): TaintDecision {
  const taints = node.taints.filter(({ key }) => key !== STARTUP_TAINT);
  if (taints.length === node.taints.length) return { action: 'keep', because: 'it has no startup taint' };
  const own = [...agents].filter((agent) => agent.node === node.name);
  const ready = own.find((agent) => agent.ready);
  if (ready !== undefined) return { action: 'remove', taints, because: `${ready.name} is ready` };
  return { action: 'keep', because: own.length === 0 ? 'it has no agent yet' : 'its agent is not ready yet' };
}

/** Reads a Node object; what it does not say is nothing. */
export function taintedNode({ metadata, spec }: ApiObject): TaintedNode {
  const { taints } = (spec ?? {}) as { readonly taints?: unknown };
  const read = Array.isArray(taints) ? taints.filter((each): each is Taint => typeof each?.key === 'string') : [];
  return { name: metadata.name, resourceVersion: metadata.resourceVersion ?? '', taints: read };
}

/** A pod that is being deleted is not ready, whatever its condition says. */
export function agentPod({ metadata, spec, status }: ApiObject): AgentPod {
  const { nodeName } = (spec ?? {}) as { readonly nodeName?: unknown };
  const { conditions } = (status ?? {}) as { readonly conditions?: unknown };
  const all: readonly { readonly type?: unknown; readonly status?: unknown }[] = Array.isArray(conditions)
    ? conditions
    : [];
  return {
    name: metadata.name,
    node: typeof nodeName === 'string' ? nodeName : '',
    ready: metadata.deletionTimestamp === undefined && all.some((c) => c?.type === 'Ready' && c.status === 'True'),
  };
}

/** Put on a node before it has an agent; the name is Istio's. */
export const STARTUP_TAINT = 'cni.istio.io/not-ready';
