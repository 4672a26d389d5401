import type {
  DeltaDiscoveryRequest,
  DeltaDiscoveryRequestSchema,
  DeltaDiscoveryResponseSchema,
} from '../gen/envoy/service/discovery/v3/discovery_pb.js';
import type { ServerStream } from '../grpc/server.js';
import { RpcError, StatusCode } from '../grpc/status.js';
import type { Clock } from '../lib/clock.js';
import type { Logger } from '../telemetry/log.js';
import type { Gate } from './gate.js';
import type { ResourceSource } from './resource-source.js';
import type { AdsServerMetrics } from './server-metrics.js';
import { type Push, ServerType } from './server-type.js';
import type { SharedResponses } from './shared-responses.js';

export interface StreamStatus {
  readonly peer: string;
  readonly nodeId: string;
  readonly types: readonly {
    readonly typeUrl: string;
    readonly mode: 'wildcard' | 'onDemand';
    readonly names: number;
    readonly sentNonce: string;
    readonly acceptedNonce: string;
    /** What the client last said was wrong, and with which response. */
    readonly lastRefusal?: { readonly nonce: string; readonly message: string };
  }[];
}

/**
 * One client of the server. At most one response is on its way at a time; while it is, changes only mark names, so
 * that a slow client gets the newest state next and nothing queues for it.
 */
export class AdsServerStream {
  readonly #stream: ServerStream<typeof DeltaDiscoveryRequestSchema, typeof DeltaDiscoveryResponseSchema>;
  readonly #types = new Map<string, TypeOnStream>();
  readonly #options: StreamOptions;
  readonly #unsubscribe: (() => void)[] = [];
  /** Types still to be looked at in this pass; a pass goes through them in the order of the sources. */
  #pass: TypeOnStream[] = [];
  #nodeId = '';
  #sending = false;
  /** How to leave the gate, while this stream waits there or is inside. */
  #gate: (() => void) | undefined;
  #scheduled = false;
  #closed = false;

  constructor(
    stream: ServerStream<typeof DeltaDiscoveryRequestSchema, typeof DeltaDiscoveryResponseSchema>,
    options: StreamOptions,
  ) {
    this.#stream = stream;
    this.#options = options;
    stream.onMessage((request) => this.#request(request));
  }

  status(): StreamStatus {
    return {
      peer: this.#stream.caller.peer,
      nodeId: this.#nodeId,
      types: [...this.#types.values()].map(({ state, sentNonce, acceptedNonce, lastRefusal }) => ({
        typeUrl: state.source.typeUrl,
        mode: state.mode,
        names: state.nameCount,
        sentNonce,
        acceptedNonce,
        ...(lastRefusal === undefined ? {} : { lastRefusal }),
      })),
    };
  }

  close(): void {
    this.#closed = true;
    this.#leaveGate();
    for (const unsubscribe of this.#unsubscribe) unsubscribe();
  }

  #request(request: DeltaDiscoveryRequest): void {
    if (request.node !== undefined) this.#nodeId = request.node.id;
    const type = this.#types.get(request.typeUrl) ?? this.#addType(request.typeUrl);
    if (type === undefined) {
      this.#fail(StatusCode.INVALID_ARGUMENT, `${JSON.stringify(request.typeUrl.slice(0, 200))} is not served here`);
      return;
    }
    this.#answer(type, request);
    type.state.request(request);
    if (type.state.nameCount > this.#options.maxNames) {
      this.#fail(StatusCode.RESOURCE_EXHAUSTED, `more than ${this.#options.maxNames} names of ${request.typeUrl}`);
      return;
    }
    this.#flushSoon();
  }

  /** Acceptance or refusal of a response; with delta, accepting a later one does not mend what was refused. */
  #answer(type: TypeOnStream, { responseNonce, errorDetail }: DeltaDiscoveryRequest): void {
    if (responseNonce === '') return;
    if (errorDetail === undefined) {
      type.acceptedNonce = responseNonce;
      return;
    }
    type.lastRefusal = { nonce: responseNonce, message: errorDetail.message.slice(0, MAX_KEPT_REFUSAL) };
    this.#options.metrics.rejected(type.state.source.metricName);
    this.#options.log.warn(
      { node: this.#nodeId, typeUrl: type.state.source.typeUrl, ...type.lastRefusal },
      'a proxy refused what it was sent; it keeps the last good values',
    );
  }

  #addType(typeUrl: string): TypeOnStream | undefined {
    const source = this.#options.sources.find((each) => each.typeUrl === typeUrl);
    if (source === undefined) return undefined;
    const type: TypeOnStream = {
      state: new ServerType(source),
      sentNonce: '',
      acceptedNonce: '',
      changedAtMs: undefined,
    };
    this.#types.set(typeUrl, type);
    const unsubscribe = source.subscribe((changes) => {
      type.state.sourceChanged(changes);
      if (!type.state.dirty) return;
      type.changedAtMs ??= this.#options.clock.now();
      this.#flushSoon();
    });
    this.#unsubscribe.push(unsubscribe);
    return type;
  }

  /** After the present turn of the event loop, so that one turn's transactions travel together. */
  #flushSoon(): void {
    if (this.#scheduled || this.#sending || this.#closed) return;
    this.#scheduled = true;
    setImmediate(() => {
      this.#scheduled = false;
      this.#flush();
    });
  }

  #flush(): void {
    if (this.#sending || this.#closed) return;
    if (this.#pass.length === 0) this.#pass = this.#inSourceOrder();
    for (let type = this.#pass.shift(); type !== undefined; type = this.#pass.shift()) {
      if (type.state.waiting > LARGE_RESOURCES && this.#gate === undefined) {
        this.#pass.unshift(type);
        this.#enterGate();
        return;
      }
      const push = type.state.take();
      const changedAtMs = type.changedAtMs;
      type.changedAtMs = undefined;
      if (push === undefined) continue;
      this.#send(type, push, changedAtMs);
      return;
    }
  }

  /** A large response waits for its turn, and is made only then: of the newest state. */
  #enterGate(): void {
    this.#sending = true;
    const { gate } = this.#options;
    this.#gate = gate.enter(() => {
      this.#sending = false;
      this.#flush();
      // Nothing to say after all.
      if (!this.#sending) this.#leaveGate();
    });
  }

  #leaveGate(): void {
    if (this.#gate === undefined) return;
    this.#gate();
    this.#gate = undefined;
    this.#options.largeLeft();
  }

  #inSourceOrder(): TypeOnStream[] {
    return this.#options.sources
      .map((source) => this.#types.get(source.typeUrl))
      .filter((type) => type?.state.dirty === true) as TypeOnStream[];
  }

  #send(type: TypeOnStream, push: Push, changedAtMs: number | undefined): void {
    const { source } = type.state;
    const { nonce, bytes } = this.#options.responses.encode(source, push, type.sentNonce);
    type.sentNonce = nonce;
    this.#sending = true;
    this.#stream.send(bytes, () => {
      this.#sending = false;
      this.#leaveGate();
      if (changedAtMs !== undefined) this.#options.metrics.converged((this.#options.clock.now() - changedAtMs) / 1000);
      this.#flush();
    });
    this.#options.metrics.pushed(source.metricName, bytes.length);
    this.#options.log.debug(
      {
        node: this.#nodeId,
        typeUrl: source.typeUrl,
        nonce: type.sentNonce,
        changed: push.changed.length,
        removed: push.removed.length,
        bytes: bytes.length,
      },
      'sent',
    );
  }

  #fail(code: StatusCode, why: string): void {
    this.#options.log.warn({ node: this.#nodeId, peer: this.#stream.caller.peer, error: why }, 'stream ended');
    this.#stream.end(new RpcError(code, why));
  }
}

export interface StreamOptions {
  readonly sources: readonly ResourceSource[];
  readonly metrics: AdsServerMetrics;
  readonly responses: SharedResponses;
  readonly gate: Gate;
  /** Called after each large response, sent or not. */
  readonly largeLeft: () => void;
  readonly clock: Clock;
  readonly log: Logger;
  /** Names one stream may ask for, of one type. */
  readonly maxNames: number;
}

interface TypeOnStream {
  readonly state: ServerType;
  sentNonce: string;
  acceptedNonce: string;
  lastRefusal?: { readonly nonce: string; readonly message: string };
  /** When the oldest change that waits was made. */
  changedAtMs: number | undefined;
}

const MAX_KEPT_REFUSAL = 4096;
const LARGE_RESOURCES = 500;
