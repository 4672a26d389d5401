import { createSocket, type Socket } from 'node:dgram';
import { once } from 'node:events';
import { type Socket as Connection, createServer, type Server } from 'node:net';
import { decodeQuery, encodeError, encodeReply } from '../lib/dns-codec.js';
import { isIpv6 } from '../lib/ip.js';
import { answerName, type NameTable } from './names.js';

/** The lab's name server, over UDP and TCP. `table` is asked at every query, so that an answer is never stale. */
export class NameServer {
  readonly #table: () => NameTable;
  readonly #udp: Socket[] = [];
  readonly #tcp: Server[] = [];

  constructor(table: () => NameTable) {
    this.#table = table;
  }

  async listen(addresses: readonly string[], port = 53): Promise<void> {
    for (const address of addresses) {
      const socket = createSocket({ type: isIpv6(address) ? 'udp6' : 'udp4', ipv6Only: isIpv6(address) });
      socket.on('message', (bytes, peer) => {
        const reply = this.#answer(bytes);
        if (reply !== undefined) socket.send(reply, peer.port, peer.address);
      });
      socket.bind(port, address);
      await once(socket, 'listening');
      // After it listens, an error belongs to one datagram (its sender went away) and ends nothing.
      socket.on('error', () => {});
      this.#udp.push(socket);
      const server = createServer({ noDelay: true }, (connection) => this.#serve(connection));
      server.maxConnections = MAX_CONNECTIONS;
      server.listen(port, address);
      await once(server, 'listening');
      this.#tcp.push(server);
    }
  }

  close(): void {
    for (const socket of this.#udp) socket.close();
    for (const server of this.#tcp) server.close();
  }

  #serve(connection: Connection): void {
    let rest: Buffer = Buffer.alloc(0);
    connection.setTimeout(IDLE_MS, () => connection.destroy());
    connection.on('error', () => connection.destroy());
    connection.on('data', (chunk) => {
      rest = Buffer.concat([rest, chunk]);
      while (rest.length >= 2 && rest.length >= 2 + rest.readUInt16BE(0)) {
        const end = 2 + rest.readUInt16BE(0);
        const reply = this.#answer(rest.subarray(2, end), MAX_TCP_BYTES);
        rest = rest.subarray(end);
        if (reply === undefined) continue;
        const length = Buffer.alloc(2);
        length.writeUInt16BE(reply.length);
        connection.write(Buffer.concat([length, reply]));
      }
    });
  }

  #answer(bytes: Uint8Array, maxBytes?: number): Uint8Array | undefined {
    const query = decodeQuery(bytes);
    if (query.ok) {
      const reply = answerName(this.#table(), query.value.hostname, query.value.type);
      return encodeReply(query.value, reply, maxBytes ?? query.value.maxUdpBytes);
    }
    const { id, rcode } = query.error;
    return id === undefined || rcode === undefined ? undefined : encodeError(id, rcode);
  }
}

const MAX_TCP_BYTES = 65_535;
const MAX_CONNECTIONS = 200;
const IDLE_MS = 10_000;
