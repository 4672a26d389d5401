import dgram from 'node:dgram';
import { once } from 'node:events';
import { readFile } from 'node:fs/promises';
import net from 'node:net';
import type { Clock } from '../../lib/clock.js';
import { isIpv6 } from '../../lib/ip.js';
import type { MetricsRegistry } from '../../telemetry/metrics.js';
import type { PodSockets } from '../dns/pod-sockets.js';
import { parseResolvConf } from '../enroll/pod-names.js';
import type { Store } from '../store/store.js';
import { type Families, lookUpName } from './name-lookup.js';
import { Names, type NamesParts } from './names.js';

/**
 * The names of this node's mesh, asked of the nameservers in `resolvConf`, from where this process is; the file is read
 * anew for each look-up. Counts under Istio's name.
 */
export function nodeNames(
  resolvConf: string,
  store: Pick<Store, 'pods'>,
  clock: Clock,
  registry: MetricsRegistry,
  changed: NamesParts['changed'],
): Names {
  const nameservers = async () => {
    const { nameservers } = parseResolvConf(await readFile(resolvConf, 'utf8'));
    return nameservers.slice(0, MAX_NAMESERVERS).map((ip) => ({ ip, port: DNS_PORT }));
  };
  const lookUps = registry.counter('istio_on_demand_dns_total', 'Look-ups of endpoints that are names.', ['result']);
  const forgotten = registry.counter('meltemi_names_over_limit_total', 'Names given up for want of room.');
  const names = new Names({
    lookUp: (host, families) => lookUpName(host, families, { sockets: OWN_SOCKETS, clock, nameservers }),
    families: () => familiesOf(store),
    changed,
    clock,
    metrics: {
      lookedUp: (result) => lookUps.inc({ result }),
      overLimit: () => forgotten.inc(),
    },
  });
  registry.gauge('meltemi_names', 'Host names of endpoints that are known or asked for.', [], () => names.size);
  return names;
}

/** What at least one of the node's pods can connect to. */
function familiesOf(store: Pick<Store, 'pods'>): Families {
  const addresses = store.pods().flatMap((pod) => pod.addresses);
  const ipv6 = addresses.some(isIpv6);
  return { ipv6, ipv4: !ipv6 || addresses.some((ip) => !isIpv6(ip)) };
}

/** Of the namespace that the agent runs in: nothing is captured there. */
const OWN_SOCKETS: PodSockets = {
  async bindUdp(_netns, ip, port) {
    const socket = dgram.createSocket(isIpv6(ip) ? 'udp6' : 'udp4');
    const listening = once(socket, 'listening');
    socket.bind(port, ip);
    await listening;
    return socket;
  },
  listenTcp: () => Promise.reject(new Error('names are asked for, not answered, here')),
  connectTcp: (_netns, ip, port) => net.connect(port, ip),
};

const DNS_PORT = 53;
/** As a resolver does. */
const MAX_NAMESERVERS = 3;
