/**
 * Enforces NetworkPolicies on the nodes of a cluster of our own, whose network knows none. It stands in for what a CNI
 * does: packets towards a selected pod are dropped on its node unless a rule lets them in, answers pass, and so does what
 * the node itself sends. Knows ingress by TCP port numbers and by pods' labels; anything else is an error.
 */
import type { Cluster } from './cluster.js';

/** Puts into force what the cluster has now, in place of what was. */
export async function enforceNetworkPolicies(cluster: Cluster): Promise<void> {
  const list = async <T>(kind: string) =>
    (JSON.parse(await cluster.kubectl(['get', kind, '-A', '-o', 'json'])) as { items: T[] }).items;
  const [policies, pods] = [await list<Policy>('networkpolicies'), await list<Pod>('pods')];
  const rules = pods
    .filter(({ spec, status }) => spec.hostNetwork !== true && status.podIP !== undefined)
    .flatMap((pod) => rulesOf(pod, policies, pods));
  const table = `table inet ${TABLE}`;
  const chain = ['chain forward {', 'type filter hook forward priority 0', ...rules, '}'];
  const ruleset = [`${table} { }`, `delete ${table}`, `${table} {`, ...chain, '}', ''].join('\n');
  for (const { name } of cluster.nodes) await cluster.node(name).exec(['nft', '-f', '-'], ruleset);
}

/** Puts nothing into force. */
export async function forgetNetworkPolicies(cluster: Cluster): Promise<void> {
  const table = `table inet ${TABLE}`;
  for (const { name } of cluster.nodes) {
    await cluster.node(name).exec(['nft', '-f', '-'], `${table} { }\ndelete ${table}\n`);
  }
}

function rulesOf({ metadata, status }: Pod, policies: readonly Policy[], pods: readonly Pod[]): readonly string[] {
  const selecting = policies.filter(
    (policy) => policy.metadata.namespace === metadata.namespace && isSelected(metadata, policy.spec.podSelector),
  );
  if (selecting.length === 0) return [];
  const to = `ip daddr ${status.podIP}`;
  const allowed = selecting.flatMap(({ spec }) =>
    (spec.ingress ?? []).flatMap(({ ports, from }) => {
      const port = ports === undefined ? '' : ` tcp dport { ${ports.map(portNumber).join(', ')} }`;
      if (from === undefined) return [`${to}${port} accept`];
      return from.flatMap((peer) =>
        pods
          .filter((pod) => pod.metadata.namespace === metadata.namespace && isSelected(pod.metadata, podsOf(peer)))
          .map((pod) => `ip saddr ${pod.status.podIP} ${to}${port} accept`),
      );
    }),
  );
  return [`${to} ct state established,related accept`, ...allowed, `${to} drop`];
}

function isSelected({ labels = {} }: Pod['metadata'], { matchLabels = {} }: Selector): boolean {
  return Object.entries(matchLabels).every(([name, value]) => labels[name] === value);
}

function podsOf(peer: { podSelector?: Selector }): Selector {
  if (peer.podSelector === undefined) throw new Error(`not enforced here: ${JSON.stringify(peer)}`);
  return peer.podSelector;
}

function portNumber({ port, protocol = 'TCP' }: { port?: unknown; protocol?: string }): number {
  if (typeof port !== 'number' || protocol !== 'TCP') throw new Error(`not enforced here: port ${protocol} ${port}`);
  return port;
}

interface Selector {
  readonly matchLabels?: Readonly<Record<string, string>>;
}

interface Pod {
  readonly metadata: { readonly namespace: string; readonly labels?: Readonly<Record<string, string>> };
  readonly spec: { readonly hostNetwork?: boolean };
  readonly status: { readonly podIP?: string };
}

interface Policy {
  readonly metadata: { readonly namespace: string };
  readonly spec: {
    readonly podSelector: Selector;
    readonly ingress?: readonly {
      readonly ports?: readonly { readonly port?: unknown; readonly protocol?: string }[];
      readonly from?: readonly { readonly podSelector?: Selector }[];
    }[];
  };
}

const TABLE = 'network-policy';
