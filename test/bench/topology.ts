import { run } from '../../src/lib/command.js';

/**
 * Three network namespaces of the bench's own: a client and a server joined by a veth pair, and one for the processes
 * of a mesh. Nothing outside them is touched. Routes carry `congctl`, which sets the congestion control of every socket
 * that uses them: a namespace's own default cannot be changed from inside on hosts with another one.
 */
export interface Topology {
  readonly client: Place;
  readonly server: Place;
  /** Network namespace without any link but loopback, for control plane and agents. */
  readonly mesh: string;
  /** Where the load server listens. */
  readonly port: number;
  close(): Promise<void>;
}

export interface Place {
  /** Path of the network namespace. */
  readonly netns: string;
  readonly name: string;
  readonly ip: string;
}

export async function buildTopology(congestion: string): Promise<Topology> {
  const prefix = `mb${process.pid}`;
  const names = [`${prefix}c`, `${prefix}s`, `${prefix}m`] as const;
  const [client, server, mesh] = names;
  const close = async () => {
    for (const name of names) await run('ip', ['netns', 'delete', name]);
  };
  try {
    for (const name of names) {
      await must('ip', ['netns', 'add', name]);
      await must('ip', ['-n', name, 'link', 'set', 'lo', 'up']);
      await setSysctls(name);
    }
    await must('ip', ['-n', client, 'link', 'add', 'eth0', 'type', 'veth', 'peer', 'name', 'eth0', 'netns', server]);
    for (const [name, ip] of [
      [client, CLIENT_IP],
      [server, SERVER_IP],
    ] as const) {
      await must('ip', ['-n', name, 'address', 'add', `${ip}/24`, 'dev', 'eth0', 'noprefixroute']);
      await must('ip', ['-n', name, 'link', 'set', 'eth0', 'up']);
      await must('ip', [
        '-n',
        name,
        'route',
        'replace',
        'local',
        ip,
        'dev',
        'lo',
        'table',
        'local',
        'congctl',
        congestion,
      ]);
      await must('ip', ['-n', name, 'route', 'replace', NETWORK, 'dev', 'eth0', 'src', ip, 'congctl', congestion]);
    }
  } catch (error) {
    await close();
    throw error;
  }
  return {
    client: { netns: `/run/netns/${client}`, name: client, ip: CLIENT_IP },
    server: { netns: `/run/netns/${server}`, name: server, ip: SERVER_IP },
    mesh: `/run/netns/${mesh}`,
    port: 9000,
    close,
  };
}

/** Runs a program to its end inside a namespace and gives its standard output; throws when it fails. */
export async function inNamespace(
  netns: string,
  command: string,
  args: readonly string[],
  input?: string,
): Promise<string> {
  const options = { timeoutMs: 120_000, ...(input === undefined ? {} : { input }) };
  return must('nsenter', [`--net=${netns}`, command, ...args], options);
}

/** Removes all rules and the policy routing of captured traffic. What is not there is no error. */
export async function clearRedirection({ netns }: Place): Promise<void> {
  await inNamespace(netns, 'nft', ['flush', 'ruleset']);
  for (const family of ['-4', '-6']) {
    await inNamespace(netns, 'ip', [family, 'rule', 'delete', 'pref', '32764']).catch(() => '');
    await inNamespace(netns, 'ip', [family, 'route', 'flush', 'table', '100']).catch(() => '');
  }
}

export async function must(
  command: string,
  args: readonly string[],
  options?: Parameters<typeof run>[2],
): Promise<string> {
  const result = await run(command, args, options);
  if (!result.ok) throw new Error(result.error);
  return result.value;
}

/** Without these, closed connections fill the port range after seconds and every new one takes milliseconds. */
async function setSysctls(name: string): Promise<void> {
  for (const setting of SYSCTLS) await run('ip', ['netns', 'exec', name, 'sysctl', '-qw', setting]);
}

const CLIENT_IP = '10.77.0.1';
const SERVER_IP = '10.77.0.2';
const NETWORK = '10.77.0.0/24';
const SYSCTLS = [
  'net.ipv4.tcp_max_tw_buckets=1000',
  'net.ipv4.ip_local_port_range=1024 65535',
  'net.netfilter.nf_conntrack_tcp_timeout_time_wait=1',
];
