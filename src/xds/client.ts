import type { MessageInitShape } from '@bufbuild/protobuf';
import type { NodeSchema } from '../gen/envoy/config/core/v3/base_pb.js';
import { AggregatedDiscoveryService } from '../gen/envoy/service/discovery/v3/ads_pb.js';
import type {
  DeltaDiscoveryRequestSchema,
  DeltaDiscoveryResponse,
  DeltaDiscoveryResponseSchema,
} from '../gen/envoy/service/discovery/v3/discovery_pb.js';
import { type ClientStream, type Headers, openChannel } from '../grpc/channel.js';
import { type RpcError, StatusCode } from '../grpc/status.js';
import { BackOff } from '../lib/back-off.js';
import { type Clock, systemClock } from '../lib/clock.js';
import { type Logger, logger } from '../telemetry/log.js';
import { ClientType, type Request, type SubscriptionMode } from './client-type.js';
import type { RefusedResource, UpdateHandler } from './update.js';

export interface AdsClientOptions {
  /** `host:port` of the control plane. */
  readonly address: string;
  /** The name its certificate must carry, when that is not the host's. */
  readonly serverName?: string;
  /** PEM of the roots to trust, asked at every attempt, so that a rotated root is found. Undefined: plaintext. */
  readonly rootCerts: () => Promise<string | undefined>;
  /** Request headers, asked at every attempt: `authorization`, `clusterid`. */
  readonly headers?: () => Promise<Headers>;
  /** Who is asking: id, cluster, locality, metadata. */
  readonly node: MessageInitShape<typeof NodeSchema>;
  /** In the order in which they are asked for. A response of one type is handed up whole, in one call. */
  readonly types: readonly {
    readonly typeUrl: string;
    readonly mode: SubscriptionMode;
    readonly onUpdate: UpdateHandler;
  }[];
  /** Once, when every wildcard type has been answered for the first time. */
  readonly onSynced?: () => void;
  readonly onConnected?: (connected: boolean) => void;
  readonly metrics?: AdsClientMetrics;
  readonly clock?: Clock;
  readonly random?: () => number;
  readonly log?: Logger;
}

export interface AdsClientMetrics {
  /** One response of so many encoded bytes. */
  message(typeUrl: string, bytes: number): void;
  refused(typeUrl: string, resources: number): void;
  terminated(reason: Termination): void;
}

/** `complete`: the server ended the stream well. `reconnect`: an established one broke. `connection_error`: never came up. */
export type Termination = 'complete' | 'reconnect' | 'connection_error' | 'error';

export interface AdsClient {
  /** Wants resources of an on-demand type, by name or alias. A name that does not exist is reported as removed. */
  subscribe(typeUrl: string, names: Iterable<string>): void;
  unsubscribe(typeUrl: string, names: Iterable<string>): void;
  status(): AdsClientStatus;
  /** Ends the stream for good. */
  close(): void;
}

export interface AdsClientStatus {
  /** The server has answered on the present stream. */
  readonly connected: boolean;
  readonly synced: boolean;
  /** Why the last stream ended, while there is none. */
  readonly lastError?: string;
  readonly types: readonly { readonly typeUrl: string; readonly resources: number; readonly synced: boolean }[];
}

/**
 * Keeps one delta ADS stream to a control plane for as long as it lives: subscribes, hands updates up, accepts or
 * refuses them, and comes back after a failure with what it already knows.
 */
export function connectAds(options: AdsClientOptions): AdsClient {
  const client = new DeltaAdsClient(options);
  void client.connect();
  return client;
}

class DeltaAdsClient implements AdsClient {
  readonly #options: AdsClientOptions;
  readonly #types: Map<string, ClientType>;
  readonly #clock: Clock;
  readonly #log: Logger;
  readonly #backOff: BackOff;
  #stream: Stream | undefined;
  #disconnect: () => void = () => {};
  #connected = false;
  #lastError: string | undefined;
  #syncedReported = false;
  #flushing = false;
  #closed = false;
  #nodeSaid = false;

  constructor(options: AdsClientOptions) {
    this.#options = options;
    this.#clock = options.clock ?? systemClock;
    this.#log = options.log ?? logger('xds');
    this.#backOff = new BackOff(BACK_OFF_BASE_MS, BACK_OFF_MAX_MS, options.random);
    this.#types = new Map(
      options.types.map(({ typeUrl, mode, onUpdate }) => [typeUrl, new ClientType(typeUrl, mode, onUpdate)]),
    );
  }

  subscribe(typeUrl: string, names: Iterable<string>): void {
    const type = this.#onDemandType(typeUrl);
    for (const name of names) type.subscribe(name);
    this.#flushSoon();
  }

  unsubscribe(typeUrl: string, names: Iterable<string>): void {
    const type = this.#onDemandType(typeUrl);
    type.unsubscribe(names);
    this.#flushSoon();
  }

  status(): AdsClientStatus {
    const types = [...this.#types.values()];
    return {
      connected: this.#connected,
      synced: types.every((type) => type.synced),
      ...(this.#lastError === undefined ? {} : { lastError: this.#lastError }),
      types: types.map(({ typeUrl, heldCount, synced }) => ({ typeUrl, resources: heldCount, synced })),
    };
  }

  close(): void {
    this.#closed = true;
    this.#disconnect();
  }

  /** One attempt; whatever ends it schedules the next. */
  async connect(): Promise<void> {
    if (this.#closed) return;
    try {
      const [rootCerts, headers] = await Promise.all([this.#options.rootCerts(), this.#options.headers?.() ?? {}]);
      if (!this.#closed) this.#open(rootCerts, headers);
    } catch (error) {
      this.#ended(
        'connection_error',
        `cannot prepare the connection: ${error instanceof Error ? error.message : error}`,
      );
    }
  }

  #open(rootCerts: string | undefined, headers: Headers): void {
    const { address, serverName } = this.#options;
    const channel = openChannel({ address, serverName, rootCerts });
    const stream = channel.bidi(AggregatedDiscoveryService.method.deltaAggregatedResources, { headers });
    this.#stream = stream;
    this.#nodeSaid = false;
    stream.onMessage((response, bytes) => {
      if (this.#stream === stream) this.#receive(response, bytes);
    });
    stream.onClose((error) => {
      channel.close();
      if (this.#stream === stream) this.#closedBy(error);
    });
    this.#disconnect = () => {
      this.#stream = undefined;
      stream.cancel();
      channel.close();
    };
    this.#flush();
  }

  #receive(response: DeltaDiscoveryResponse, bytes: number): void {
    this.#options.metrics?.message(response.typeUrl, bytes);
    if (!this.#connected) {
      this.#connected = true;
      this.#lastError = undefined;
      this.#backOff.reset();
      this.#log.info({ address: this.#options.address }, 'connected to the control plane');
      this.#options.onConnected?.(true);
    }
    const { typeUrl, nonce } = response;
    const type = this.#types.get(typeUrl);
    const refused = type?.receive(response) ?? [{ name: '*', reason: `${typeUrl} was not asked for` }];
    if (refused.length === 0) {
      this.#send({ typeUrl, responseNonce: nonce });
    } else {
      const message = refusal(refused, response.resources.length);
      this.#log.error({ typeUrl, nonce, refused: refused.slice(0, MAX_LOGGED_REFUSALS) }, `refused: ${message}`);
      this.#options.metrics?.refused(typeUrl, refused.length);
      this.#send({ typeUrl, responseNonce: nonce, errorDetail: { code: StatusCode.INVALID_ARGUMENT, message } });
    }
    // The handler may have asked for more names.
    this.#flushSoon();
    this.#reportSynced();
  }

  #reportSynced(): void {
    if (this.#syncedReported || ![...this.#types.values()].every((type) => type.synced)) return;
    this.#syncedReported = true;
    this.#options.onSynced?.();
  }

  #closedBy(error: RpcError | undefined): void {
    if (error === undefined) {
      this.#ended('complete', 'the control plane ended the stream');
      return;
    }
    const broken = this.#connected && RECONNECT_CODES.has(error.code);
    const reason = broken ? 'reconnect' : error.code === StatusCode.UNAVAILABLE ? 'connection_error' : 'error';
    this.#ended(reason, `${error}`);
  }

  #ended(reason: Termination, why: string): void {
    this.#stream = undefined;
    this.#lastError = why;
    for (const type of this.#types.values()) type.disconnected();
    if (this.#connected) {
      this.#connected = false;
      this.#options.onConnected?.(false);
    }
    this.#options.metrics?.terminated(reason);
    if (this.#closed) return;
    const delayMs = this.#backOff.next();
    const fields = { address: this.#options.address, retryInMs: Math.round(delayMs), error: why };
    if (reason === 'complete' || reason === 'reconnect') this.#log.info(fields, 'stream ended, connecting again');
    else this.#log.warn(fields, 'no connection to the control plane');
    this.#disconnect = this.#clock.schedule(delayMs, () => void this.connect());
  }

  /** Names asked for in one turn go out in one request. */
  #flushSoon(): void {
    if (this.#flushing) return;
    this.#flushing = true;
    queueMicrotask(() => {
      this.#flushing = false;
      this.#flush();
    });
  }

  #flush(): void {
    if (this.#stream === undefined) return;
    for (const type of this.#types.values()) {
      const request = type.nextRequest();
      if (request !== undefined) this.#send(request);
    }
  }

  #send(request: Request): void {
    const node = this.#nodeSaid ? {} : { node: { userAgentName: 'meltemi', ...this.#options.node } };
    this.#nodeSaid = true;
    this.#stream?.send({ ...request, ...node });
  }

  #onDemandType(typeUrl: string): ClientType {
    const type = this.#types.get(typeUrl);
    if (type?.mode !== 'onDemand') throw new Error(`${typeUrl} is not subscribed on demand`);
    return type;
  }
}

/** `2 of 10 resources refused: a: why; b: why`, cut to what fits in a trailer. */
function refusal(refused: readonly RefusedResource[], total: number): string {
  let text = `${refused.length} of ${total} resources refused: `;
  for (const [index, { name, reason }] of refused.entries()) {
    const next = `${index === 0 ? '' : '; '}${name}: ${reason}`;
    if (text.length + next.length > MAX_REFUSAL_LENGTH) return `${text}; and ${refused.length - index} more`;
    text += next;
  }
  return text;
}

type Stream = ClientStream<typeof DeltaDiscoveryRequestSchema, typeof DeltaDiscoveryResponseSchema>;

/** How an established stream ends when its server restarts or hands over. */
const RECONNECT_CODES: ReadonlySet<StatusCode> = new Set([
  StatusCode.UNKNOWN,
  StatusCode.CANCELLED,
  StatusCode.DEADLINE_EXCEEDED,
  StatusCode.UNAVAILABLE,
  StatusCode.INTERNAL,
]);
const BACK_OFF_BASE_MS = 200;
const BACK_OFF_MAX_MS = 15_000;
const MAX_REFUSAL_LENGTH = 16 * 1024;
const MAX_LOGGED_REFUSALS = 20;
