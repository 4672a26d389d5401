import dgram from 'node:dgram';
import { once } from 'node:events';
import { closeSync } from 'node:fs';
import net from 'node:net';
import type { FdResult, NetnsTools } from '../dataplane/netns.js';
import type { PodSockets } from './pod-sockets.js';

/** The module that makes them with the addon, for `DnsProxyOptions.sockets`. */
export const NETNS_SOCKETS = new URL('./addon-sockets.js', import.meta.url);

/** Sockets inside a pod's network namespace: the addon makes the descriptors there, Node takes them over. */
export function netnsSockets(tools: NetnsTools): PodSockets {
  return {
    async bindUdp(netns, ip, port, mark) {
      const fd = take(tools.openUdp(netns, ip, port, mark));
      const socket = dgram.createSocket(ip.includes(':') ? 'udp6' : 'udp4');
      try {
        // The event may come before bind returns.
        const listening = once(socket, 'listening');
        socket.bind({ fd });
        await listening;
        return socket;
      } catch (error) {
        closeSync(fd);
        throw error;
      }
    },
    async listenTcp(netns, ip, port) {
      const fd = take(tools.openTcpListener(netns, ip, port));
      const server = net.createServer();
      try {
        const listening = once(server, 'listening');
        server.listen({ fd });
        await listening;
        return server;
      } catch (error) {
        closeSync(fd);
        throw error;
      }
    },
    connectTcp(netns, ip, port, mark) {
      return new net.Socket({
        fd: take(tools.openTcpConnection(netns, ip, port, mark)),
        readable: true,
        writable: true,
      });
    },
  };
}

function take(result: FdResult): number {
  if (!result.ok) throw new Error(result.error);
  return result.fd;
}
