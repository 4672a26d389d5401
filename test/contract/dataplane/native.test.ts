import { execFileSync } from 'node:child_process';
import { createServer, type Server, Socket } from 'node:net';
import t from 'tap';
import type { Dataplane } from '../../../src/agent/dataplane/dataplane.js';
import { openNative } from '../../../src/agent/dataplane/native.js';
import type { NetnsTools } from '../../../src/agent/dataplane/netns.js';
import { type Client, type Harness, type HarnessOptions, HOSTS, POD, POD_IDENTITY } from './harness.js';
import { dataplaneSuite } from './suite.js';

/** The engine with one pod, a network namespace whose connections to 10.99.0.0/24 are redirected to it. */
class NativeHarness implements Harness {
  static #count = 0;
  readonly dataplane: Dataplane;
  readonly server = { ip: '127.0.0.1', port: 7777 };
  readonly #tools: NetnsTools;
  readonly #name = `meltemi-contract-${process.pid}-${NativeHarness.#count++}`;
  readonly #clients = new Set<Socket>();
  #listener: Server | undefined;

  private constructor(options: HarnessOptions) {
    const { dataplane, netns } = openNative({ threads: 1, spinUs: 0, auditOneIn: 0, ...options });
    this.dataplane = dataplane;
    this.#tools = netns;
  }

  static async open(options: HarnessOptions = {}): Promise<Harness> {
    const harness = new NativeHarness(options);
    try {
      await harness.#setUp();
      return harness;
    } catch (error) {
      await harness[Symbol.asyncDispose]();
      throw error;
    }
  }

  async #setUp(): Promise<void> {
    const ip = (...args: string[]) => execFileSync('ip', args);
    ip('netns', 'add', this.#name);
    ip('-n', this.#name, 'link', 'set', 'lo', 'up');
    for (const host of HOSTS) ip('-n', this.#name, 'address', 'add', `${host}/24`, 'dev', 'lo');
    const rules = `table ip contract {
      chain out {
        type nat hook output priority -100
        ip daddr 10.99.0.0/24 meta mark and 0xfff != 0x539 tcp dport 8000-8001 redirect to :15001
      }
    }`;
    execFileSync('ip', ['netns', 'exec', this.#name, 'nft', '-f', '-'], { input: rules });
    await this.#serve();
  }

  async addPod(): Promise<void> {
    const identity = { identity: POD_IDENTITY, name: 'client', namespace: 'default' };
    const result = await this.dataplane.addPod({ uid: POD, ...identity, netns: this.#netns, addresses: ['10.99.0.4'] });
    if (!result.ok) throw new Error(result.error);
  }

  connect(host: string, port: number): Client {
    const { fd, error } = this.#tools.openTcpConnection(this.#netns, host, port, 0);
    if (fd < 0) throw new Error(error);
    const socket = new Socket({ fd, allowHalfOpen: false });
    this.#clients.add(socket);
    const decided = Promise.withResolvers<'open' | 'refused'>();
    const ended = Promise.withResolvers<void>();
    socket.on('error', () => undefined);
    socket.once('data', () => decided.resolve('open'));
    socket.once('close', () => {
      this.#clients.delete(socket);
      decided.resolve('refused');
      ended.resolve();
    });
    socket.write('ping');
    return { decided: decided.promise, ended: ended.promise, end: () => socket.destroy() };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const socket of this.#clients) socket.destroy();
    this.#listener?.close();
    this.dataplane.close();
    execFileSync('ip', ['netns', 'del', this.#name]);
  }

  async #serve(): Promise<void> {
    const { fd, error } = this.#tools.openTcpListener(this.#netns, this.server.ip, this.server.port);
    if (fd < 0) throw new Error(error);
    this.#listener = createServer((socket) => {
      socket.on('error', () => undefined);
      socket.pipe(socket);
    });
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#listener.listen({ fd }, resolve);
    await promise;
  }

  get #netns(): string {
    return `/run/netns/${this.#name}`;
  }
}

if (process.getuid?.() !== 0) t.plan(0, 'needs root: the engine listens in network namespaces of its own');
else dataplaneSuite(t, NativeHarness.open);
