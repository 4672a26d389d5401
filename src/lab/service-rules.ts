import { isIpv6 } from '../lib/ip.js';
import { type AddressPair, both, SERVICE_PREFIXES } from './addresses.js';
import { ofFamilyOf, type ServiceView } from './service-table.js';

export interface NodeView {
  readonly addresses: AddressPair;
  /** Addresses of the pods behind this node. */
  readonly podAddresses: readonly string[];
}

/**
 * What kube-proxy does on a node, as text for `nft -f`: Service addresses become those of a random ready pod, for
 * traffic of pods and of the node itself, in one transaction that replaces the former table. Pure. `node` is undefined
 * for the fabric, which has no pods behind it.
 */
export function serviceRules(services: readonly ServiceView[], node: NodeView | undefined): string {
  const rules = services.flatMap(rulesOf);
  const chains = [
    chain('services', undefined, rules),
    chain('forwarded', 'type nat hook prerouting priority -100;', ['jump services']),
    chain('own', 'type nat hook output priority -100;', ['jump services']),
    chain('refuse-forwarded', 'type filter hook forward priority 0;', REFUSALS),
    chain('refuse-own', 'type filter hook output priority 0;', REFUSALS),
  ];
  if (node !== undefined) chains.push(...nodeChains(node));
  return `add table inet ${TABLE}\ndelete table inet ${TABLE}\ntable inet ${TABLE} {\n${chains.join('\n')}\n}\n`;
}

function rulesOf({ namespace, name, addresses, ports }: ServiceView): readonly string[] {
  return ports.flatMap(({ protocol, port, endpoints }) =>
    addresses.flatMap((address) => {
      const targets = ofFamilyOf(address, endpoints).map(
        (endpoint, index) => `${index} : ${endpoint.ip} . ${endpoint.port}`,
      );
      if (targets.length === 0) return []; // Refused further down.
      const family = word(address);
      const choice = `numgen random mod ${targets.length} map { ${targets.join(', ')} }`;
      return [
        `${family} daddr ${address} ${protocol} dport ${port} dnat ${family} to ${choice} comment "${namespace}/${name}"`,
      ];
    }),
  );
}

function nodeChains({ addresses, podAddresses }: NodeView): readonly string[] {
  const hairpins = podAddresses.map(
    (ip) =>
      `${word(ip)} saddr ${ip} ${word(ip)} daddr ${ip} snat ${word(ip)} to ${isIpv6(ip) ? addresses.ipv6 : addresses.ipv4} comment "a pod that reached itself by a Service"`,
  );
  return [
    chain('hairpin', 'type nat hook postrouting priority 100;', hairpins),
    chain('guard', 'type filter hook prerouting priority -300;', [
      'iifname "pod*" fib saddr . iif oif missing drop comment "a pod may use no address but its own"',
    ]),
  ];
}

function chain(name: string, hook: string | undefined, rules: readonly string[]): string {
  const lines = hook === undefined ? rules : [hook, ...rules];
  return [`  chain ${name} {`, ...lines.map((line) => `    ${line}`), '  }'].join('\n');
}

function word(ip: string): 'ip' | 'ip6' {
  return isIpv6(ip) ? 'ip6' : 'ip';
}

const TABLE = 'meltemi-lab';
/** A Service without a ready pod refuses, as one would expect of a closed port. */
const REFUSALS: readonly string[] = both(SERVICE_PREFIXES).flatMap((prefix) => [
  `${word(prefix)} daddr ${prefix} meta l4proto tcp reject with tcp reset`,
  `${word(prefix)} daddr ${prefix} reject`,
]);
