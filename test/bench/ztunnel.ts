import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { Authority } from './certificates.js';
import { Background } from './process.js';
import { clearRedirection, inNamespace, type Place, type Topology } from './topology.js';
import type { Variant } from './variant.js';

/**
 * A ztunnel binary that the user has, one process on either side in dedicated mode: workloads and a policy from a file,
 * certificates from an authority of the bench, the source address kept, its log in a file.
 */
export function ztunnelPair(binary: string, directory: string): Variant {
  return {
    name: 'ztunnel',
    about: `two processes of ${binary}`,
    knowsWorkloads: true,
    async start(topology, { workloads }) {
      mkdirSync(directory, { recursive: true });
      const authority = await Authority.create(directory);
      await authority.issue('ca', 'DNS:localhost');
      const state = join(directory, 'state.json');
      // JSON is YAML, but for the tags that ztunnel wants on its string matches.
      writeFileSync(state, JSON.stringify(localState(topology, workloads)).replaceAll('"!Exact ', '!Exact "'));
      writeFileSync(join(directory, 'token'), 'bench');
      const parts: Background[] = [];
      const stop = async () => {
        for (const part of parts) await part.stop();
        for (const place of [topology.client, topology.server]) await clearRedirection(place);
      };
      try {
        const proxies: Background[] = [];
        for (const side of ['client', 'server'] as const) {
          const place = topology[side];
          const ca = [process.execPath, join(import.meta.dirname, 'peer-ca.js'), directory, String(CA_PORT)];
          parts.push(Background.start('peer-ca', place.netns, ca, join(directory, `${side}-ca.log`)));
          await parts.at(-1)?.until(() => listens(place, CA_PORT), 15_000);
          const log = join(directory, `${side}.log`);
          const proxy = Background.start(`ztunnel (${side})`, place.netns, [binary], log, {
            PROXY_MODE: 'dedicated',
            PROXY_WORKLOAD_INFO: `bench/${side}/${side}`,
            PACKET_MARK: String(MARK),
            XDS_ADDRESS: '',
            LOCAL_XDS_PATH: state,
            CA_ADDRESS: `https://localhost:${CA_PORT}`,
            CA_ROOT_CA: authority.rootPath,
            AUTH_TOKEN: join(directory, 'token'),
            RUST_LOG: 'info',
          });
          parts.push(proxy);
          proxies.push(proxy);
          await proxy.until(() => ready(place), workloads > 0 ? 60_000 : 15_000);
          await capture(place);
        }
        return { pids: proxies.map((proxy) => proxy.pid), stop };
      } catch (error) {
        await stop();
        throw error;
      }
    },
  };
}

/** Two workloads, a policy, and others that nobody talks to, each tenth behind a service of its own. */
function localState(topology: Topology, others: number) {
  const workload = (name: string, ip: string, node: string) => ({
    uid: `bench//Pod/bench/${name}`,
    name,
    namespace: 'bench',
    serviceAccount: name,
    trustDomain: 'cluster.local',
    workloadIps: [ip],
    protocol: 'HBONE',
    node,
    network: '',
    workloadName: name,
    workloadType: 'deployment',
    canonicalName: name,
    canonicalRevision: 'latest',
    clusterId: 'Kubernetes',
    services: {},
  });
  return {
    workloads: [
      workload('client', topology.client.ip, 'node-1'),
      workload('server', topology.server.ip, 'node-2'),
      ...Array.from({ length: others }, (_, i) =>
        workload(`other-${i}`, `10.${100 + (i >> 16)}.${(i >> 8) & 255}.${i & 255}`, 'node-3'),
      ),
    ],
    policies: [
      {
        name: 'clients',
        namespace: 'bench',
        scope: 'Namespace',
        action: 'Allow',
        dryRun: false,
        rules: [[[{ principals: ['!Exact cluster.local/ns/bench/sa/client'] }]]],
      },
    ],
    services: [],
  };
}

async function ready(place: Place): Promise<boolean> {
  const probe = ['-s', '-o', '/dev/null', '-w', '%{http_code}', 'http://127.0.0.1:15021/healthz/ready'];
  return (await inNamespace(place.netns, 'curl', probe).catch(() => '')) === '200' && listens(place, 15008);
}

async function listens(place: Place, port: number): Promise<boolean> {
  return (await inNamespace(place.netns, 'ss', ['-Hltn', `sport = :${port}`])).trim() !== '';
}

/** The rules that a node's CNI makes in a pod, in one table. */
async function capture(place: Place): Promise<void> {
  const rules = `table inet bench {
    chain prerouting-mangle {
      type filter hook prerouting priority mangle;
      meta mark & 0xfff == ${MARK} ct mark set 0x111
    }
    chain output-mangle {
      type route hook output priority mangle;
      ct mark & 0xfff == 0x111 meta mark set ct mark
    }
    chain output-nat {
      type nat hook output priority -100;
      meta l4proto tcp ct mark & 0xfff == 0x111 accept
      oifname lo ip daddr != 127.0.0.1 accept
      ip daddr != 127.0.0.1 meta l4proto tcp meta mark & 0xfff != ${MARK} redirect to :15001
    }
    chain prerouting-nat {
      type nat hook prerouting priority dstnat;
      ip daddr != 127.0.0.1 meta l4proto tcp tcp dport != 15008 meta mark & 0xfff != ${MARK} redirect to :15006
    }
  }`;
  await inNamespace(place.netns, 'nft', ['-f', '-'], rules);
  await inNamespace(place.netns, 'ip', ['rule', 'add', 'fwmark', '0x111/0xfff', 'pref', '32764', 'lookup', '100']);
  await inNamespace(place.netns, 'ip', ['route', 'add', 'local', 'default', 'dev', 'lo', 'table', '100']);
}

const CA_PORT = 15012;
const MARK = 0x539;
