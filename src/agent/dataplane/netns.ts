import type { BorderResult } from './dataplane.js';

/**
 * What the agent needs done inside a pod's network namespace and Node cannot do: sockets made there and policy
 * routing (netlink). Each call enters the namespace on a thread of the addon's own; nothing here blocks for long.
 */
export interface NetnsTools {
  /**
   * A bound, non-blocking UDP socket for `dgram` `bind({ fd })`. `mark` 0 sets none. Port 0 picks one. The port may be
   * shared with another socket of this user (SO_REUSEPORT), so that a successor can take over.
   */
  openUdp(netns: string, ip: string, port: number, mark: number): FdResult;
  /** A listening, non-blocking TCP socket for `net` `listen({ fd })`. The port may be shared likewise. */
  openTcpListener(netns: string, ip: string, port: number): FdResult;
  /** A non-blocking TCP socket whose connect is under way, for `new net.Socket({ fd })`. */
  openTcpConnection(netns: string, ip: string, port: number, mark: number): FdResult;
  /** `ip rule fwmark MARK/MASK lookup TABLE` and `ip route add local default dev lo table TABLE`, v4 and v6. Idempotent. */
  addRouting(netns: string, routing: PodRouting): BorderResult;
  /** The reverse; what is not there is no error. */
  removeRouting(netns: string, routing: PodRouting): BorderResult;
  /** Adds what of it is missing and leaves alone what is there. */
  ensureRouting(netns: string, routing: PodRouting): EnsuredRouting;
  /** Hears of changes inside namespaces; see `NetnsWatch`. */
  readonly NetnsWatch: new (
    changed: (key: string) => void,
  ) => NetnsWatch;
  /** `DEVICE:INODE` of the namespace, which tells two namespaces apart. Empty when the path is none. */
  netnsId(path: string): string;
}

export interface PodRouting {
  mark: number;
  mask: number;
  table: number;
  priority: number;
  ipv6: boolean;
}

export interface EnsuredRouting extends BorderResult {
  /** Something was missing and has been added. */
  missing: boolean;
}

/**
 * Calls back with the key of a namespace in which somebody changed the packet filter, rules or routes: at once, and at
 * most 20 times a second however many changes there are. Does not keep the process alive.
 */
export interface NetnsWatch {
  /** In place of what was watched under this key. */
  add(key: string, netns: string): BorderResult;
  remove(key: string): void;
  close(): void;
}

export interface FdResult extends BorderResult {
  /** -1 unless ok. */
  fd: number;
}
