import { isIpv6 } from '../../lib/ip.js';
import { PROBE_SOURCE_IPV4, PROBE_SOURCE_IPV6 } from './ruleset.js';

/** What the rules of a node know, each as canonical addresses of both families. */
export interface NodeFacts {
  /** Captured pods of this node. */
  readonly captured: Iterable<string>;
  /** Those of them that neither enter nor leave the mesh just now. */
  readonly held: Iterable<string>;
  /** Whatever of the mesh takes tunnels: workloads, and services that have such endpoints. */
  readonly mesh: Iterable<string>;
  /** Held pods of this node of which the mesh knows that they take tunnels. */
  readonly local: Iterable<string>;
  /** Whom the agent asks for names, in plaintext. */
  readonly nameservers: Iterable<string>;
}

export type NodeSet = keyof NodeFacts;

/**
 * The rules in the node's own network namespace as text for `nft -f -`: one transaction that replaces all rules and,
 * where it is given, the content of the sets; sets that are left out keep theirs. Pure. `table` is the name.
 *
 * - `probes`: what a process of the node itself (the kubelet, and whatever shares its network) says to a captured pod
 *   gets a source address that the pod's rules let through to the app untouched. Nobody else has a socket there:
 *   what is forwarded, or was translated on its way (a NodePort, a hostPort, a Service), is judged like any other.
 * - `guard`: nobody else may use that address; and a captured pod that sends TCP to the mesh outside a tunnel, since
 *   somebody has meddled with its own rules, is refused.
 */
export function nodeRuleset(table: string, hbonePort: number, facts: Partial<NodeFacts>): string {
  return [
    `add table inet ${table}`,
    ...INET_COUNTERS.map((name) => `add counter inet ${table} ${name}`),
    ...INET_SETS.flatMap((set) => setOf('inet', table, set, facts[set])),
    ...replaceChain('inet', table, 'probes', 'type nat hook postrouting priority 100; policy accept;'),
    ...FAMILIES.map((family) =>
      rule(
        `inet ${table} probes ${family.word} daddr @captured-${family.word} meta l4proto tcp meta skuid >= 0 ct status & dnat == 0 snat ${family.word} to ${family.probeSource}`,
        'health probes of this node reach the app',
      ),
    ),
    ...replaceChain('inet', table, 'guard', 'type filter hook prerouting priority -150; policy accept;'),
    ...FAMILIES.map((family) => spoofed('inet', table, family, 'iifname != "lo" ')),
    ...FAMILIES.map((family) =>
      rule(
        `inet ${table} guard ${family.word} saddr @captured-${family.word} ${family.word} daddr @nameservers-${family.word} tcp dport 53 accept`,
        'names are asked for without a tunnel',
      ),
    ),
    ...tunnels('inet', table, hbonePort),
    rule(`inet ${table} guard ct direction reply accept`, 'answers go to whoever asked, without a tunnel if need be'),
    rule(
      `inet ${table} guard ct state untracked tcp flags & (syn | ack) != syn accept`,
      'where nobody tracks connections only their first packet tells who asked',
    ),
    ...FAMILIES.map((family) =>
      rule(
        `inet ${table} guard ${family.word} saddr @held-${family.word} ${family.word} daddr @mesh-${family.word} meta l4proto tcp counter name held reject with tcp reset`,
        'from a captured pod to the mesh there is nothing but tunnels',
      ),
    ),
    '',
  ].join('\n');
}

/** The same for what is bridged from pod to pod and never routed. Nobody tracks connections there. */
export function bridgeRuleset(table: string, hbonePort: number, facts: Partial<NodeFacts>): string {
  return [
    `add table bridge ${table}`,
    ...BRIDGE_COUNTERS.map((name) => `add counter bridge ${table} ${name}`),
    ...setOf('bridge', table, 'local', facts.local),
    ...replaceChain('bridge', table, 'guard', 'type filter hook prerouting priority -300; policy accept;'),
    ...FAMILIES.map((family) => spoofed('bridge', table, family, '')),
    ...tunnels('bridge', table, hbonePort),
    ...FAMILIES.map((family) =>
      rule(
        `bridge ${table} guard ${family.word} saddr @local-${family.word} ${family.word} daddr @local-${family.word} meta l4proto tcp counter name held drop`,
        'between captured pods there is nothing but tunnels',
      ),
    ),
    '',
  ].join('\n');
}

/** Lines that add and remove elements of sets that are there. Removing what is not there is no error. */
export function elementChanges(
  table: string,
  set: NodeSet,
  added: readonly string[],
  removed: readonly string[],
): readonly string[] {
  const family = set === 'local' ? 'bridge' : 'inet';
  return [
    ...elements('add', family, table, set, removed),
    ...elements('delete', family, table, set, removed),
    ...elements('add', family, table, set, added),
  ];
}

function setOf(family: 'inet' | 'bridge', table: string, set: NodeSet, content: Iterable<string> | undefined) {
  return [
    ...FAMILIES.map(({ word, type }) => `add set ${family} ${table} ${set}-${word} { type ${type}; }`),
    ...(content === undefined
      ? []
      : [
          ...FAMILIES.map(({ word }) => `flush set ${family} ${table} ${set}-${word}`),
          ...elements('add', family, table, set, [...content]),
        ]),
  ];
}

function elements(
  verb: 'add' | 'delete',
  family: 'inet' | 'bridge',
  table: string,
  set: NodeSet,
  ips: readonly string[],
): string[] {
  const [v4, v6] = [ips.filter((ip) => !isIpv6(ip)), ips.filter(isIpv6)];
  return [
    ...(v4.length > 0 ? [`${verb} element ${family} ${table} ${set}-ip { ${v4.join(', ')} }`] : []),
    ...(v6.length > 0 ? [`${verb} element ${family} ${table} ${set}-ip6 { ${v6.join(', ')} }`] : []),
  ];
}

function replaceChain(family: 'inet' | 'bridge', table: string, name: string, hook: string): readonly string[] {
  return [`add chain ${family} ${table} ${name} { ${hook} }`, `flush chain ${family} ${table} ${name}`];
}

function spoofed(family: 'inet' | 'bridge', table: string, { word, probeSource }: Family, from: string): string {
  return rule(
    `${family} ${table} guard ${from}${word} saddr ${probeSource} counter name spoofed drop`,
    'the address of health probes is not to be had from outside',
  );
}

/** Rules of their own: nft 1.0.6 makes of two unequal ports in one rule that not both may be equal. */
function tunnels(family: 'inet' | 'bridge', table: string, hbonePort: number): readonly string[] {
  return ['dport', 'sport'].map((port) =>
    rule(`${family} ${table} guard tcp ${port} ${hbonePort} accept`, 'tunnels may go anywhere'),
  );
}

function rule(text: string, reason: string): string {
  return `add rule ${text} comment "${reason}"`;
}

interface Family {
  readonly word: 'ip' | 'ip6';
  readonly type: string;
  readonly probeSource: string;
}

const FAMILIES: readonly Family[] = [
  { word: 'ip', type: 'ipv4_addr', probeSource: PROBE_SOURCE_IPV4 },
  { word: 'ip6', type: 'ipv6_addr', probeSource: PROBE_SOURCE_IPV6 },
];
const INET_SETS = ['captured', 'held', 'mesh', 'nameservers'] as const;
const INET_COUNTERS = ['held', 'spoofed'];
const BRIDGE_COUNTERS = ['held', 'spoofed'];
