import type { Socket as UdpSocket } from 'node:dgram';
import type { Server, Socket } from 'node:net';
import type { Clock } from '../../lib/clock.js';
import type { PodResolver } from './pod-resolver.js';
import type { PodSockets } from './pod-sockets.js';
import { frame, splitFrames } from './tcp-frames.js';

/**
 * One pod's DNS sockets, on loopback inside its network namespace: queries that the pod sends to its nameservers are
 * redirected to them. IPv6 is left out where the pod has no IPv6 loopback.
 */
export class PodListeners {
  readonly #udp: UdpSocket[] = [];
  readonly #servers: Server[] = [];
  readonly #connections = new Set<Socket>();
  #closed = false;
  #pending = 0;
  #idle: () => void = () => undefined;

  private constructor(readonly resolver: PodResolver) {}

  /** Rejects when the IPv4 sockets cannot be made. */
  static async open(netns: string, port: number, sockets: PodSockets, resolver: PodResolver): Promise<PodListeners> {
    const listeners = new PodListeners(resolver);
    try {
      const udp = await sockets.bindUdp(netns, '127.0.0.1', port, 0);
      listeners.#answerUdp(udp);
      const bound = udp.address().port;
      listeners.#answerTcp(await sockets.listenTcp(netns, '127.0.0.1', bound));
      const udp6 = await sockets.bindUdp(netns, '::1', bound, 0).catch(() => undefined);
      if (udp6 !== undefined) {
        listeners.#answerUdp(udp6);
        listeners.#answerTcp(await sockets.listenTcp(netns, '::1', bound));
      }
      return listeners;
    } catch (error) {
      listeners.close();
      throw error;
    }
  }

  get port(): number {
    return this.#udp[0]?.address().port ?? 0;
  }

  close(): void {
    this.#closed = true;
    for (const socket of this.#udp.splice(0)) socket.close();
    for (const server of this.#servers.splice(0)) server.close();
    for (const connection of this.#connections) connection.destroy();
  }

  /**
   * Leaves the sockets to a successor that has them too: closes when no query is under way, after a while in any case.
   * A connection ends when its client is done with it.
   */
  async retire(clock: Clock): Promise<void> {
    for (const server of this.#servers.splice(0)) server.close();
    if (this.#pending > 0) {
      const { promise, resolve } = Promise.withResolvers<void>();
      const cancel = clock.schedule(RETIRE_MS, resolve);
      this.#idle = resolve;
      await promise;
      cancel();
    }
    this.#closed = true;
    for (const socket of this.#udp.splice(0)) socket.close();
  }

  #answerUdp(socket: UdpSocket): void {
    this.#udp.push(socket);
    // A reply that cannot be delivered (the asker has gone) is reported here and means nothing.
    socket.on('error', () => undefined);
    socket.on('message', async (message, from) => {
      this.#pending++;
      const reply = await this.resolver.resolve(message, 'udp').catch(() => undefined);
      if (reply === undefined || this.#closed) this.#answered();
      else socket.send(reply, from.port, from.address, () => this.#answered());
    });
  }

  #answered(): void {
    if (--this.#pending === 0) this.#idle();
  }

  #answerTcp(server: Server): void {
    this.#servers.push(server);
    server.maxConnections = MAX_CONNECTIONS;
    server.on('error', () => undefined);
    server.on('connection', (socket) => this.#serve(socket));
  }

  #serve(socket: Socket): void {
    this.#connections.add(socket);
    let held: Buffer = Buffer.alloc(0);
    socket.setTimeout(IDLE_MS, () => socket.destroy());
    socket.on('close', () => this.#connections.delete(socket));
    socket.on('error', () => undefined);
    socket.on('data', (chunk: Buffer) => {
      const { frames, rest } = splitFrames(Buffer.concat([held, chunk]));
      held = Buffer.from(rest);
      for (const message of frames) void this.#reply(socket, message);
    });
  }

  async #reply(socket: Socket, message: Buffer): Promise<void> {
    const reply = await this.resolver.resolve(message, 'tcp');
    if (reply === undefined) socket.destroy();
    else if (!socket.destroyed) socket.write(frame(reply));
    // One that asks and never reads is cut off before its answers fill the memory.
    if (socket.writableLength > MAX_UNREAD_BYTES) socket.destroy();
  }
}

const MAX_CONNECTIONS = 64;
const IDLE_MS = 10_000;
/** Longer than an upstream is waited for. */
const RETIRE_MS = 10_000;
const MAX_UNREAD_BYTES = 512 * 1024;
