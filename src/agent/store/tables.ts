import { formatPrefix, type Prefix } from '../../lib/ip.js';
import type { Read } from '../dataplane/dataplane.js';

/** The tables of the store as look-ups name them. What reads and what invalidates both take their names from here. */
export const TABLE = {
  /** The steady facts of a workload: everything but status, capacity and policies. Key: uid. */
  workload: (uid: string): Read => exact('workload', uid),
  /** Which workloads have an address. Key: `network/ip`. */
  address: (network: string, ip: string): Read => exact('address', `${network}/${ip}`),
  /** Names of the policies that select a workload. Key: uid. */
  policiesOf: (uid: string): Read => exact('policies-of', uid),
  /** Key: `namespace/hostname`. */
  service: (key: string): Read => exact('service', key),
  /** Which services have a hostname. Key: the hostname. */
  hostname: (hostname: string): Read => exact('hostname', hostname),
  /** Whether a workload is an endpoint of a service. */
  membership: (service: string, uid: string): Read => exact('membership', `${service} ${uid}`),
  /** Which services have a virtual address: longest prefix, one table per network. */
  vip: (network: string, ip: string): Read => ({ table: `vip/${network}`, key: ip, prefix: true }),
  vipPrefix: (network: string, prefix: Prefix): Read => ({
    table: `vip/${network}`,
    key: formatPrefix(prefix),
    prefix: true,
  }),
  /** Names of the policies of a namespace, or of the whole mesh (empty key). */
  policiesIn: (namespace: string): Read => exact('policies-in', namespace),
  /** Key: `namespace/name`. */
  policy: (key: string): Read => exact('policy', key),
  /** A pod of this node. Key: uid. */
  pod: (uid: string): Read => exact('pod', uid),
  /** What is known of a host name that endpoints have instead of addresses. Key: the name. */
  name: (host: string): Read => exact('name', host),
  /** Whether an endpoint group has an endpoint to offer, and which names are in it. Key: its id. */
  group: (id: string): Read => exact('group', id),
  /** Whether the first complete answer of the control plane has come. */
  synced: (): Read => exact('mesh', 'synced'),
  /** Named by every change: what failed is tried again. */
  failure: (): Read => exact('mesh', 'failure'),
} as const;

function exact(table: string, key: string): Read {
  return { table, key, prefix: false };
}
