import { canonicalIp } from '../../lib/ip.js';
import type { PodDnsWish } from './pod-object.js';

/** A resolver's configuration file, as far as it matters here. */
export interface ResolvConf {
  readonly nameservers: readonly string[];
  readonly searches: readonly string[];
}

export function parseResolvConf(text: string): ResolvConf {
  const lines = text.split('\n').map((line) => line.trim().split(/\s+/));
  const values = (word: string) => lines.filter(([first]) => first === word);
  return {
    nameservers: values('nameserver')
      .map(([, ip]) => canonicalIp(ip ?? ''))
      .filter((ip) => ip !== undefined),
    // The last one counts.
    searches: values('search').at(-1)?.slice(1) ?? [],
  };
}

/**
 * What the kubelet writes into a pod's resolver configuration, derived from its wish and two files that the kubelet
 * wrote by the same rules: that of a pod with `ClusterFirst` (the agent's own), and the node's.
 */
export function podNames(
  wish: PodDnsWish,
  namespace: string,
  clusterDomain: string,
  files: { readonly cluster: ResolvConf; readonly node: ResolvConf },
): ResolvConf {
  const given = { nameservers: wish.nameservers.flatMap((ip) => canonicalIp(ip) ?? []), searches: wish.searches };
  const base = BASES[wish.policy] ?? 'cluster';
  const nameservers = base === 'none' ? [] : files[base].nameservers;
  const searches =
    base === 'none' ? [] : base === 'node' ? files.node.searches : clusterSearches(namespace, clusterDomain, files);
  return {
    nameservers: [...new Set([...nameservers, ...given.nameservers])].slice(0, MAX_NAMESERVERS),
    searches: [...new Set([...searches, ...given.searches])],
  };
}

/** The agent's own search list says its namespace where the pod's says the pod's. */
function clusterSearches(namespace: string, clusterDomain: string, { cluster }: { cluster: ResolvConf }): string[] {
  const ofNamespace = new RegExp(`^[^.]+\\.svc\\.${clusterDomain.replaceAll('.', '\\.')}$`);
  const shared = cluster.searches.filter((each) => !ofNamespace.test(each));
  return [`${namespace}.svc.${clusterDomain}`, ...shared];
}

const BASES: Readonly<Record<string, 'cluster' | 'node' | 'none'>> = { Default: 'node', None: 'none' };
/** As many as the kubelet writes. */
const MAX_NAMESERVERS = 3;
