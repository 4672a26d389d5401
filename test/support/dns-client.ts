import dgram from 'node:dgram';
import { once } from 'node:events';
import net from 'node:net';
import { frame, splitFrames } from '../../src/agent/dns/tcp-frames.js';
import {
  type DecodedReply,
  type DnsQuery,
  decodeQuery,
  decodeReply,
  encodeQuery,
  encodeReply,
} from '../../src/lib/dns-codec.js';

/** Asks one question over UDP and waits for the reply, at most `timeoutMs`. */
export async function askUdp(
  name: string,
  type: 'A' | 'AAAA' | 'MX',
  ip: string,
  port: number,
  timeoutMs = 3000,
): Promise<DecodedReply> {
  const socket = dgram.createSocket(ip.includes(':') ? 'udp6' : 'udp4');
  try {
    const id = Math.floor(Math.random() * 65536);
    socket.send(questionBytes(id, name, type), port, ip);
    const [reply] = await once(socket, 'message', { signal: AbortSignal.timeout(timeoutMs) });
    return read(reply as Buffer, id);
  } finally {
    socket.close();
  }
}

/** Asks one question over TCP. */
export async function askTcp(
  name: string,
  type: 'A' | 'AAAA' | 'MX',
  ip: string,
  port: number,
  timeoutMs = 3000,
): Promise<DecodedReply> {
  const socket = net.connect(port, ip);
  try {
    const signal = AbortSignal.timeout(timeoutMs);
    socket.write(frame(questionBytes(7, name, type)));
    let held: Buffer = Buffer.alloc(0);
    for (;;) {
      const [chunk] = await once(socket, 'data', { signal });
      const { frames, rest } = splitFrames(Buffer.concat([held, chunk as Buffer]));
      held = rest;
      if (frames[0] !== undefined) return read(frames[0], 7);
    }
  } finally {
    socket.destroy();
  }
}

type Reply = Uint8Array | undefined;

/** A nameserver for tests: UDP and TCP on one port (0 picks one); `reply` sees each query and may stay silent. */
export async function startNameserver(
  reply: (query: DnsQuery, protocol: 'udp' | 'tcp', bytes: Buffer) => Reply | Promise<Reply>,
  ip = '127.0.0.1',
  wanted = 0,
) {
  const answer = async (bytes: Buffer, protocol: 'udp' | 'tcp') => {
    const query = decodeQuery(bytes);
    return query.ok ? await reply(query.value, protocol, bytes) : undefined;
  };
  const { udp, tcp, port } = await onePort(ip, wanted);
  udp.on('message', async (bytes, from) => {
    const out = await answer(bytes, 'udp');
    if (out !== undefined) udp.send(out, from.port, from.address);
  });
  tcp.on('connection', (socket) => {
    socket.on('error', () => undefined);
    socket.on('data', async (chunk: Buffer) => {
      for (const bytes of splitFrames(chunk).frames) {
        const out = await answer(bytes, 'tcp');
        if (out !== undefined) socket.write(frame(out));
      }
    });
  });
  return {
    port,
    address: `127.0.0.1:${port}`,
    close() {
      udp.close();
      tcp.close();
    },
  };
}

/** A port that is free for both: one that was chosen for UDP may be somebody's for TCP, then another is. */
async function onePort(ip: string, wanted: number) {
  for (let left = 20; ; left--) {
    const tcp = net.createServer();
    const udp = dgram.createSocket(ip.includes(':') ? 'udp6' : 'udp4');
    try {
      tcp.listen(wanted, ip);
      await once(tcp, 'listening');
      const { port } = tcp.address() as net.AddressInfo;
      const bound = once(udp, 'listening');
      udp.bind(port, ip);
      await bound;
      return { tcp, udp, port };
    } catch (error) {
      tcp.close();
      udp.close();
      if (wanted !== 0 || left === 0) throw error;
    }
  }
}

/** A nameserver's reply of one A record. */
export function addressReply(query: DnsQuery, ip: string): Uint8Array {
  const records = [{ name: query.name, type: 'A', ttl: 5, data: ip }] as const;
  return encodeReply(query, { rcode: 'NOERROR', authoritative: false, records }, 65535);
}

function questionBytes(id: number, name: string, type: 'A' | 'AAAA' | 'MX'): Uint8Array {
  const bytes = encodeQuery(id, name, type);
  if (!bytes.ok) throw new Error(bytes.error);
  return bytes.value;
}

function read(bytes: Buffer, id: number): DecodedReply {
  const reply = decodeReply(bytes);
  if (!reply.ok) throw new Error(reply.error);
  if (reply.value.id !== id) throw new Error(`reply to ${reply.value.id}, asked ${id}`);
  return reply.value;
}
