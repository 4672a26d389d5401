import type { Socket as UdpSocket } from 'node:dgram';
import type { Server, Socket } from 'node:net';

/**
 * Where the DNS proxy's sockets come from: a pod's network namespace in production. Every call may fail with an Error
 * that names the address. The caller owns and closes what it gets.
 */
export interface PodSockets {
  /** A bound UDP socket. Port 0 picks a free one; `mark` 0 sets none. */
  bindUdp(netns: string, ip: string, port: number, mark: number): Promise<UdpSocket>;
  /** A listening TCP server that has no connection listener yet. */
  listenTcp(netns: string, ip: string, port: number): Promise<Server>;
  /** A connection under way; writes wait for it. */
  connectTcp(netns: string, ip: string, port: number, mark: number): Socket;
}

/** What a sockets module (`DnsProxyOptions.sockets`) exports. It is loaded inside the worker. */
export interface PodSocketsModule {
  openSockets(): PodSockets;
}
