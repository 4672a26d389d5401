import { canonicalIp, isIpv6 } from '../../lib/ip.js';
import type { RedirectedPod, RedirectPorts } from './redirector.js';

/**
 * The nftables rules of a captured pod as text for `nft -f -`: one transaction that replaces our table, whatever was in
 * it. Pure. Each rule carries its reason as a comment, so that `nft list ruleset` in a pod explains itself.
 *
 * The three flows they make:
 * - out: app -> 15001 (the engine, in the pod's namespace), which dials with mark 0x539 and so passes these rules;
 * - in: peer -> 15008, or 15006 when it speaks plaintext; the engine then dials the app with mark 0x539 and with the
 *   peer's address as source. Its connection gets connection mark 0x111; the app's replies, addressed to the peer,
 *   take mark 0x111 from it and are routed (table 100) to `lo`, where the engine's socket waits for them;
 * - DNS: app -> 15053 for the pod's own nameservers; what the agent asks upstream carries mark 0x539.
 */
export function captureRuleset(
  pod: Pick<RedirectedPod, 'ipv6' | 'nameservers' | 'bypassInbound'>,
  ports: RedirectPorts,
): string {
  const families = pod.ipv6 ? BOTH : IPV4_ONLY;
  const dns = capturedNameservers(pod);
  return transaction([
    ...(dns.length === 0 ? [] : dnsZoneChains(dns)),
    ...REPLY_CHAINS,
    chain('capture-in', DNAT_IN, captureIn(families, pod, ports)),
    chain('capture-out', DNAT_OUT, captureOut(families, dns, ports)),
  ]);
}

/** Captures nothing, but keeps address translation, and replies to the engine, alive for connections under way. */
export function releaseRuleset(): string {
  return transaction([...REPLY_CHAINS, chain('capture-in', DNAT_IN, []), chain('capture-out', DNAT_OUT, [])]);
}

/** Leaves nothing of ours behind. */
export function removalRuleset(): string {
  return `${REPLACE_TABLE}\n`;
}

function captureIn(
  families: readonly Family[],
  pod: Pick<RedirectedPod, 'bypassInbound'>,
  ports: RedirectPorts,
): readonly string[] {
  if (pod.bypassInbound === true) return [];
  return families.flatMap((family) => [
    rule(
      `${family.word} saddr ${family.probeSource} meta l4proto tcp accept`,
      'health probes of this node reach the app',
    ),
    rule(
      `${family.word} daddr != ${family.loopback} tcp dport != ${ports.inboundHbone} ${NOT_ENGINE_MARK} redirect to :${ports.inboundPlain}`,
      'what does not come through a tunnel is judged as plaintext',
    ),
  ]);
}

function captureOut(families: readonly Family[], dns: readonly string[], ports: RedirectPorts): readonly string[] {
  return [
    ...families.map((family) =>
      rule(`${family.word} daddr ${family.probeSource} accept`, 'answers to health probes go back as they came'),
    ),
    ...dns.flatMap((nameserver) =>
      ['udp', 'tcp'].map((protocol) =>
        rule(
          `${word(nameserver)} daddr ${nameserver} ${protocol} dport 53 ${NOT_ENGINE_MARK} redirect to :${ports.dns}`,
          'the agent answers mesh names; only for known nameservers, as the original one is lost',
        ),
      ),
    ),
    rule('oifname "lo" accept', 'what the pod says to itself stays inside'),
    ...families.map((family) =>
      rule(
        `meta nfproto ${family.nfproto} meta l4proto tcp ${NOT_ENGINE_MARK} redirect to :${ports.outbound}`,
        'everything else of the app goes through the engine; the mark tells what the engine dials',
      ),
    ),
  ];
}

/**
 * The agent's own upstream queries are tracked apart from the app's: both may use the same source port shortly after
 * another, and the app's entry, which is still remembered, would send the agent's query back to the agent.
 */
function dnsZoneChains(dns: readonly string[]): readonly string[] {
  return [
    chain('dns-zone-in', 'type filter hook prerouting priority -300; policy accept;', [
      ...dns.map((nameserver) =>
        rule(
          `iifname != "lo" ${word(nameserver)} saddr ${nameserver} meta l4proto { tcp, udp } th sport 53 ct zone set ${DNS_ZONE}`,
          'answers to the agent are tracked apart from the queries of the app',
        ),
      ),
    ]),
    chain('dns-zone-out', 'type filter hook output priority -300; policy accept;', [
      ...dns.map((nameserver) =>
        rule(
          `${word(nameserver)} daddr ${nameserver} meta l4proto { tcp, udp } th dport 53 ${ENGINE_MARK} ct zone set ${DNS_ZONE}`,
          'queries of the agent are tracked apart from those of the app',
        ),
      ),
    ]),
  ];
}

function capturedNameservers(pod: Pick<RedirectedPod, 'ipv6' | 'nameservers'>): readonly string[] {
  const canonical = pod.nameservers.map(canonicalIp).filter((ip) => ip !== undefined);
  return [...new Set(canonical)]
    .filter((ip) => (isIpv6(ip) ? pod.ipv6 && ip !== '::1' : !ip.startsWith('127.')))
    .slice(0, MAX_NAMESERVERS);
}

function transaction(chains: readonly string[]): string {
  return `${REPLACE_TABLE}\ntable inet ${TABLE} {\n${chains.join('\n')}\n}\n`;
}

function chain(name: string, hook: string, rules: readonly string[]): string {
  return [`  chain ${name} {`, `    ${hook}`, ...rules.map((text) => `    ${text}`), '  }'].join('\n');
}

function rule(expression: string, reason: string): string {
  return `${expression} comment "${reason}"`;
}

function word(ip: string): 'ip' | 'ip6' {
  return isIpv6(ip) ? 'ip6' : 'ip';
}

interface Family {
  readonly word: 'ip' | 'ip6';
  readonly nfproto: 'ipv4' | 'ipv6';
  readonly loopback: string;
  readonly probeSource: string;
}

/** Name of our table (family inet) in a pod's namespace. */
export const TABLE = 'meltemi';
/** Source addresses of health probes; the node makes sure that nobody else can use them. */
export const PROBE_SOURCE_IPV4 = '169.254.7.127';
export const PROBE_SOURCE_IPV6 = 'fd16:9254:7127:1337:ffff:ffff:ffff:ffff';

const IPV4: Family = { word: 'ip', nfproto: 'ipv4', loopback: '127.0.0.0/8', probeSource: PROBE_SOURCE_IPV4 };
const IPV6: Family = { word: 'ip6', nfproto: 'ipv6', loopback: '::1', probeSource: PROBE_SOURCE_IPV6 };
const IPV4_ONLY: readonly Family[] = [IPV4];
const BOTH: readonly Family[] = [IPV4, IPV6];

const MASK = '0xfff';
const NOT_MASK = '0xfffff000';
const REPLY_MARK = '0x111';
const ENGINE_MARK = `meta mark & ${MASK} == 0x539`;
const NOT_ENGINE_MARK = `meta mark & ${MASK} != 0x539`;
const DNS_ZONE = 1;
/** resolv.conf knows three; more are not asked by any resolver. */
const MAX_NAMESERVERS = 8;
/** `add` first, so that `delete` succeeds also where there is nothing. */
const REPLACE_TABLE = `add table inet ${TABLE}\ndelete table inet ${TABLE}`;

/** nft 1.0.6 knows no names for priorities of address translation on output. */
const DNAT_IN = 'type nat hook prerouting priority -100; policy accept;';
const DNAT_OUT = 'type nat hook output priority -100; policy accept;';

const REPLY_CHAINS: readonly string[] = [
  chain('mark-in', 'type filter hook prerouting priority -150; policy accept;', [
    rule(
      `${ENGINE_MARK} ct mark set ct mark & ${NOT_MASK} | ${REPLY_MARK}`,
      'the engine delivers here under the address of the peer: remember the connection for its replies',
    ),
  ]),
  chain('reply-route', 'type route hook output priority -150; policy accept;', [
    rule(
      `ct mark & ${MASK} == ${REPLY_MARK} meta mark set ${REPLY_MARK}`,
      'replies to the address of a peer go to the engine: rule fwmark 0x111, table 100',
    ),
  ]),
];
