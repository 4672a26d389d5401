/**
 * Simulated agents, many in one process: each has a connection and an ADS stream of its own, asks for everything, accepts
 * what comes and notes when. Told what to do by its parent.
 */
import { create, toBinary } from '@bufbuild/protobuf';
import { Client, type ClientDuplexStream, credentials, Metadata } from '@grpc/grpc-js';
import { ADDRESS_TYPE, AUTHORIZATION_TYPE } from '../../../src/control/push/push.js';
import { DeltaDiscoveryRequestSchema } from '../../../src/gen/envoy/service/discovery/v3/discovery_pb.js';
import { scanResponse } from './frames.js';
import type { AgentsAnswer, AgentsOrder, MadeChange } from './orders.js';

class Agent {
  readonly #client: Client;
  readonly #stream: ClientDuplexStream<Buffer, Buffer>;
  /** Of every resource that came after the first response: when, and at which version (empty: removed). */
  readonly seen = new Map<string, { atMs: number; version: string }[]>();
  readonly #answered = new Set<string>();
  readonly first = Promise.withResolvers<void>();
  firstAtMs = 0;
  messages = 0;
  bytes = 0;
  resources = 0;
  readonly names = new Map<string, string>();

  constructor(
    readonly port: number,
    readonly index: number,
    /** Whether to remember every resource, for comparing at the end. */
    readonly remembers: boolean,
  ) {
    this.#client = new Client(`127.0.0.1:${port}`, credentials.createInsecure(), {
      'grpc.use_local_subchannel_pool': 1,
      'grpc.max_receive_message_length': -1,
      'grpc-node.flow_control_window': 4 * 1024 * 1024,
    });
    this.#stream = this.#client.makeBidiStreamRequest(
      '/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources',
      (bytes: Buffer) => bytes,
      (bytes: Buffer) => bytes,
      new Metadata(),
    );
    this.#stream.on('data', (bytes: Buffer) => this.#receive(bytes));
    this.#stream.on('error', (error: Error) => this.first.reject(error));
    this.first.promise.catch(() => {});
    for (const typeUrl of [ADDRESS_TYPE, AUTHORIZATION_TYPE]) {
      this.#send({ typeUrl, resourceNamesSubscribe: ['*'], node: { id: `agent-${index}` } });
    }
  }

  pause(): void {
    this.#stream.pause();
  }

  resume(): void {
    this.#stream.resume();
  }

  close(): void {
    this.#stream.cancel();
    this.#client.close();
  }

  #receive(bytes: Buffer): void {
    const atMs = nowMs();
    const { typeUrl, nonce, changed, removed } = scanResponse(bytes);
    this.messages++;
    this.bytes += bytes.length;
    this.#send({ typeUrl, responseNonce: nonce });
    if (this.remembers) {
      for (const [name, version] of changed) this.names.set(name, version);
      for (const name of removed) this.names.delete(name);
    }
    if (this.#answered.size === 2) {
      this.resources += changed.length + removed.length;
      for (const [name, version] of changed) this.#note(name, atMs, version);
      for (const name of removed) this.#note(name, atMs, '');
      return;
    }
    this.#answered.add(typeUrl);
    if (this.#answered.size < 2) return;
    this.firstAtMs = atMs;
    this.first.resolve();
  }

  #note(name: string, atMs: number, version: string): void {
    const known = this.seen.get(name);
    if (known === undefined) this.seen.set(name, [{ atMs, version }]);
    else known.push({ atMs, version });
  }

  #send(request: object): void {
    this.#stream.write(
      Buffer.from(toBinary(DeltaDiscoveryRequestSchema, create(DeltaDiscoveryRequestSchema, request))),
    );
  }
}

let agents: Agent[] = [];

async function obey(order: AgentsOrder): Promise<AgentsAnswer> {
  switch (order.what) {
    case 'connect': {
      const startMs = nowMs();
      const added = Array.from(
        { length: order.count },
        (_, i) => new Agent(order.port, agents.length + i, order.remember),
      );
      agents.push(...added);
      await Promise.all(added.map(({ first }) => first.promise));
      const tookMs = added.map(({ firstAtMs }) => firstAtMs - startMs);
      return { tookMs, atMs: Math.max(...added.map(({ firstAtMs }) => firstAtMs)), bytes: added[0]?.bytes ?? 0 };
    }
    case 'pause':
      for (const index of order.indexes) agents[index]?.pause();
      return {};
    case 'resume':
      for (const index of order.indexes) agents[index]?.resume();
      return {};
    case 'forget':
      for (const agent of agents) {
        agent.seen.clear();
        agent.messages = agent.bytes = agent.resources = 0;
      }
      return {};
    case 'match':
      return match(order.changes, order.indexes ?? agents.map(({ index }) => index));
    case 'names':
      return { names: agents.map(({ names }) => [...names].map(([name, version]) => `${name} ${version}`).sort()) };
    case 'disconnect':
      for (const agent of agents) agent.close();
      agents = [];
      return {};
  }
}

/** For each change, what each agent was told first after it was asked for. */
function match(changes: readonly MadeChange[], indexes: readonly number[]): AgentsAnswer {
  const latenciesMs: number[] = [];
  let lost = 0;
  for (const index of indexes) {
    const agent = agents[index];
    for (const { name, fromMs, answeredMs, gone } of changes) {
      const told = agent?.seen.get(name)?.find(({ atMs, version }) => atMs >= fromMs && (version === '') === gone);
      if (told === undefined) lost++;
      else latenciesMs.push(Math.max(0, told.atMs - answeredMs));
    }
  }
  const chosen = indexes.flatMap((index) => agents[index] ?? []);
  return {
    latenciesMs: Float64Array.from(latenciesMs).sort(),
    lost,
    messages: chosen.map(({ messages }) => messages),
    bytes: Math.max(...chosen.map(({ bytes }) => bytes)),
    resources: Math.max(...chosen.map(({ resources }) => resources)),
  };
}

/** The same clock in every process of the machine. */
function nowMs(): number {
  return Number(process.hrtime.bigint()) / 1e6;
}

process.on('message', ({ id, order }: { id: number; order: AgentsOrder }) => {
  obey(order).then(
    (answer) => process.send?.({ id, answer }),
    (error: unknown) => process.send?.({ id, error: String(error) }),
  );
});
process.on('disconnect', () => process.exit());
