import type { ChildProcess } from 'node:child_process';
import { run } from '../lib/command.js';
import {
  type AddressPair,
  FABRIC,
  FABRIC_PREFIX_LENGTHS,
  nodeAddresses,
  POD_GATEWAY,
  PROBE_SOURCE,
  podPrefixes,
} from './addresses.js';
import { spawnBound } from './children.js';

/**
 * Makes the lab's network. The fabric is the namespace this process lives in; a node is a namespace on the fabric's
 * bridge; a pod is a namespace behind its node, reached by a route, so that all traffic of a pod passes its node.
 * Errors are thrown: without its network there is no lab.
 */

/** The bridge and the addresses of this process's own namespace. */
export async function makeFabric(): Promise<void> {
  await setSysctls(undefined, ROUTER_SYSCTLS);
  await ip(undefined, [
    'link set lo up',
    `addr add ${PROBE_SOURCE.ipv4}/32 dev lo`,
    `addr add ${PROBE_SOURCE.ipv6}/128 dev lo nodad`,
    `link add ${BRIDGE} type bridge`,
    `link set ${BRIDGE} up`,
    `addr add ${FABRIC.ipv4}/${FABRIC_PREFIX_LENGTHS.ipv4} dev ${BRIDGE}`,
    `addr add ${FABRIC.ipv6}/${FABRIC_PREFIX_LENGTHS.ipv6} dev ${BRIDGE} nodad`,
  ]);
}

/** A process that holds a new network namespace. The namespace goes with it. */
export async function holdNamespace(env: NodeJS.ProcessEnv): Promise<ChildProcess> {
  const script = 'echo; exec sleep infinity';
  const child = spawnBound(['unshare', '--net', '--', 'sh', '-c', script], {
    env,
    stdio: ['ignore', 'pipe', 'ignore'],
  });
  await new Promise<void>((resolve, reject) => {
    child.stdout?.once('data', () => resolve());
    child.once('exit', (code) =>
      reject(new Error(`a network namespace cannot be made: unshare ended with ${code}; is this root?`)),
    );
  });
  return child;
}

/** Joins node `index` of `count` to the fabric. */
export async function joinNode(index: number, count: number, pid: number, mtu: number): Promise<void> {
  const netns = netnsOf(pid);
  const own = nodeAddresses(index);
  await setSysctls(netns, ROUTER_SYSCTLS);
  await ip(undefined, [
    `link add node-${index} mtu ${mtu} type veth peer name eth0 mtu ${mtu} netns ${pid}`,
    `link set node-${index} master ${BRIDGE} up`,
    `route add ${podPrefixes(index).ipv4} via ${own.ipv4}`,
    `route add ${podPrefixes(index).ipv6} via ${own.ipv6}`,
  ]);
  const others = Array.from({ length: count }, (_, other) => other + 1).filter((other) => other !== index);
  await ip(netns, [
    'link set lo up',
    'link set eth0 up',
    `addr add ${own.ipv4}/${FABRIC_PREFIX_LENGTHS.ipv4} dev eth0`,
    `addr add ${own.ipv6}/${FABRIC_PREFIX_LENGTHS.ipv6} dev eth0 nodad`,
    `route add default via ${FABRIC.ipv4}`,
    `route add ::/0 via ${FABRIC.ipv6}`,
    ...others.flatMap((other) => [
      `route add ${podPrefixes(other).ipv4} via ${nodeAddresses(other).ipv4}`,
      `route add ${podPrefixes(other).ipv6} via ${nodeAddresses(other).ipv6}`,
    ]),
  ]);
}

/** Joins a pod's namespace to its node by a link of its own. `link` is the name of the node's end. */
export async function joinPod(
  nodePid: number,
  podPid: number,
  link: string,
  addresses: AddressPair,
  mtu: number,
): Promise<void> {
  const [node, pod] = [netnsOf(nodePid), netnsOf(podPid)];
  await setSysctls(pod, POD_SYSCTLS);
  await ip(node, [
    `link add ${link} mtu ${mtu} type veth peer name eth0 mtu ${mtu} netns ${podPid}`,
    `link set ${link} up`,
    `addr add ${POD_GATEWAY.ipv4}/32 dev ${link} scope link`,
    `addr add ${POD_GATEWAY.ipv6}/64 dev ${link} nodad`,
    `route add ${addresses.ipv4}/32 dev ${link}`,
    `route add ${addresses.ipv6}/128 dev ${link}`,
  ]);
  await ip(pod, [
    'link set lo up',
    'link set eth0 up',
    `addr add ${addresses.ipv4}/32 dev eth0`,
    `addr add ${addresses.ipv6}/128 dev eth0 nodad`,
    `route add ${POD_GATEWAY.ipv4} dev eth0 scope link`,
    `route add default via ${POD_GATEWAY.ipv4} dev eth0 onlink`,
    `route add ::/0 via ${POD_GATEWAY.ipv6} dev eth0`,
  ]);
}

/** Replaces rules; `netns` undefined means this process's own namespace. */
export async function setRules(netns: string | undefined, ruleset: string): Promise<void> {
  await must(netns, 'nft', ['-f', '-'], ruleset);
}

export function netnsOf(pid: number): string {
  return `/proc/${pid}/ns/net`;
}

async function ip(netns: string | undefined, lines: readonly string[]): Promise<void> {
  await must(netns, 'ip', ['-batch', '-'], `${lines.join('\n')}\n`);
}

/** What a kernel does not have, or does not let a namespace set, is left alone. */
async function setSysctls(netns: string | undefined, sysctls: Readonly<Record<string, string>>): Promise<void> {
  const script = Object.entries(sysctls).map(([name, value]) => `echo ${value} > /proc/sys/net/${name}`);
  await must(netns, 'sh', ['-c', `{ ${script.join('; ')}; } 2>/dev/null; true`], '');
}

async function must(netns: string | undefined, command: string, args: readonly string[], input: string): Promise<void> {
  const [program, ...rest] = [...(netns === undefined ? [] : ['nsenter', `--net=${netns}`, '--']), command, ...args];
  const result = await run(program ?? command, rest, { input });
  if (!result.ok) throw new Error(`the lab's network: ${result.error}`);
}

const BRIDGE = 'br0';
/** Addresses work at once: nobody else is there who could have the same. */
const POD_SYSCTLS: Readonly<Record<string, string>> = {
  'ipv6/conf/all/accept_dad': '0',
  'ipv6/conf/default/accept_dad': '0',
  'ipv6/conf/all/disable_ipv6': '0',
  'ipv6/conf/default/disable_ipv6': '0',
  'ipv6/conf/default/accept_ra': '0',
  'ipv4/conf/all/rp_filter': '0',
  'ipv4/conf/default/rp_filter': '0',
  'ipv4/tcp_congestion_control': 'cubic',
  'ipv4/ip_unprivileged_port_start': '0',
};
const ROUTER_SYSCTLS: Readonly<Record<string, string>> = {
  ...POD_SYSCTLS,
  'ipv4/ip_forward': '1',
  'ipv6/conf/all/forwarding': '1',
  'ipv6/conf/default/forwarding': '1',
};
