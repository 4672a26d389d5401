import { randomInt } from 'node:crypto';
import type { Clock } from '../../lib/clock.js';
import type { DnsQuery } from '../../lib/dns-codec.js';
import { isIpv6 } from '../../lib/ip.js';
import type { PodSockets } from './pod-sockets.js';
import { frame, splitFrames } from './tcp-frames.js';

/**
 * Passes a query on to the pod's own nameservers, from the pod's network namespace, byte for byte except for the id:
 * record types that this program does not know come through unharmed. Each try has a socket, a source port and a random
 * id of its own; a reply counts only from the asked server, with that id and the same question.
 *
 * Servers are tried in order, twice around, until one answers with something other than SERVFAIL or REFUSED. UDP comes
 * first; when the asker came over TCP, a truncated reply is fetched again over TCP (an asker on UDP gets it as it is and
 * comes back over TCP by itself). Undefined when nobody answered in time.
 */
export async function askUpstream(
  bytes: Uint8Array,
  query: DnsQuery,
  protocol: 'udp' | 'tcp',
  pod: UpstreamPod,
  deps: UpstreamDeps,
): Promise<Uint8Array | undefined> {
  const deadline = deps.clock.now() + TOTAL_MS;
  let refusal: Uint8Array | undefined;
  for (let round = 0; round < ROUNDS; round++) {
    for (const server of pod.nameservers) {
      const left = Math.min(TRY_MS, deadline - deps.clock.now());
      if (left <= 0) return refusal;
      const reply = await askOne(bytes, query, protocol, server, pod.netns, deps, left);
      if (reply === undefined) continue;
      if (!isRefusal(reply)) return reply;
      refusal ??= reply;
    }
    if (refusal !== undefined) return refusal;
  }
  return refusal;
}

export interface UpstreamPod {
  readonly netns: string;
  readonly nameservers: readonly Nameserver[];
}

export interface Nameserver {
  readonly ip: string;
  readonly port: number;
}

export interface UpstreamDeps {
  readonly sockets: PodSockets;
  readonly clock: Clock;
  /** Socket mark that keeps the query from being captured again. */
  readonly mark: number;
}

async function askOne(
  bytes: Uint8Array,
  query: DnsQuery,
  protocol: 'udp' | 'tcp',
  server: Nameserver,
  netns: string,
  deps: UpstreamDeps,
  limitMs: number,
): Promise<Uint8Array | undefined> {
  const id = randomInt(0x10000);
  const ask = Buffer.from(bytes);
  ask.writeUInt16BE(id, 0);
  const accepts = (reply: Buffer) => isReplyTo(reply, id, query.question);
  const udp = await askUdp(ask, accepts, server, netns, deps, limitMs);
  const truncated = udp !== undefined && (udp.readUInt16BE(2) & TC) !== 0;
  const again = truncated && protocol === 'tcp';
  const tcp = again ? await askTcp(ask, accepts, server, netns, deps, limitMs).catch(() => undefined) : undefined;
  const reply = tcp ?? udp;
  reply?.writeUInt16BE(query.id, 0);
  return reply;
}

async function askUdp(
  ask: Buffer,
  accepts: (reply: Buffer) => boolean,
  server: Nameserver,
  netns: string,
  { sockets, clock, mark }: UpstreamDeps,
  limitMs: number,
): Promise<Buffer | undefined> {
  const any = isIpv6(server.ip) ? '::' : '0.0.0.0';
  const socket = await sockets.bindUdp(netns, any, 0, mark).catch(() => undefined);
  if (socket === undefined) return undefined;
  return new Promise((resolve) => {
    let open = true;
    const finish = (reply?: Buffer) => {
      if (!open) return;
      open = false;
      cancel();
      socket.close();
      resolve(reply);
    };
    const cancel = clock.schedule(limitMs, finish);
    socket.on('error', () => finish());
    socket.on('message', (reply) => {
      if (accepts(reply)) finish(Buffer.from(reply));
    });
    // Connected, so that the kernel drops what others send, and an unreachable server is known at once.
    socket.connect(server.port, server.ip, (...failed: unknown[]) => {
      if (failed.length > 0) finish();
      if (open) socket.send(ask, (error) => error && finish());
    });
  });
}

function askTcp(
  ask: Buffer,
  accepts: (reply: Buffer) => boolean,
  server: Nameserver,
  netns: string,
  { sockets, clock, mark }: UpstreamDeps,
  limitMs: number,
): Promise<Buffer | undefined> {
  return new Promise((resolve) => {
    const socket = sockets.connectTcp(netns, server.ip, server.port, mark);
    const finish = (reply?: Buffer) => {
      cancel();
      socket.destroy();
      resolve(reply);
    };
    const cancel = clock.schedule(limitMs, finish);
    let held: Buffer = Buffer.alloc(0);
    socket.on('error', () => finish());
    socket.on('close', () => finish());
    socket.on('data', (chunk: Buffer) => {
      const { frames, rest } = splitFrames(Buffer.concat([held, chunk]));
      held = rest;
      const reply = frames.find(accepts);
      if (reply !== undefined) finish(Buffer.from(reply));
    });
    socket.write(frame(ask));
  });
}

function isReplyTo(reply: Buffer, id: number, question: Uint8Array): boolean {
  if (reply.length < HEADER_BYTES || reply.readUInt16BE(0) !== id || (reply.readUInt16BE(2) & QR) === 0) return false;
  // Some servers leave the question out of an error.
  if (reply.readUInt16BE(4) === 0) return (reply.readUInt16BE(2) & RCODE) !== 0;
  return Buffer.compare(reply.subarray(HEADER_BYTES, HEADER_BYTES + question.length), question) === 0;
}

function isRefusal(reply: Uint8Array): boolean {
  const rcode = (reply[3] ?? 0) & RCODE;
  return rcode === SERVFAIL || rcode === REFUSED;
}

const TRY_MS = 1500;
const TOTAL_MS = 4500;
const ROUNDS = 2;
const HEADER_BYTES = 12;
const QR = 0x8000;
const TC = 0x0200;
const RCODE = 0x000f;
const SERVFAIL = 2;
const REFUSED = 5;
