import dgram from 'node:dgram';
import { once } from 'node:events';
import net from 'node:net';
import type { PodSockets } from '../../src/agent/dns/pod-sockets.js';

/** Sockets of the test's own network namespace, whatever namespace is asked for; marks are left out. */
export function openSockets(): PodSockets {
  return {
    async bindUdp(_netns, ip, port) {
      const socket = dgram.createSocket(ip.includes(':') ? 'udp6' : 'udp4');
      socket.bind(port, ip);
      await once(socket, 'listening');
      return socket;
    },
    async listenTcp(_netns, ip, port) {
      const server = net.createServer();
      server.listen(port, ip);
      await once(server, 'listening');
      return server;
    },
    connectTcp: (_netns, ip, port) => net.connect(port, ip),
  };
}
