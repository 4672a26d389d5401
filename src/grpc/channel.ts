import type {
  DescMessage,
  DescMethodBiDiStreaming,
  DescMethodUnary,
  MessageInitShape,
  MessageShape,
} from '@bufbuild/protobuf';
import { create } from '@bufbuild/protobuf';
import { Client, connectivityState, Metadata, type ServiceError } from '@grpc/grpc-js';
import { type ChannelSecurity, channelCredentials } from './credentials.js';
import { decoder, encoder, methodPath } from './method.js';
import './library-log.js';
import { RpcError, StatusCode } from './status.js';

export interface ChannelOptions extends ChannelSecurity {
  /** `host:port`. */
  readonly address: string;
  /** The name to find in the server's certificate and to send as authority, when it is not the host's. */
  readonly serverName?: string | undefined;
  /** Largest answer, bytes. */
  readonly maxResponseBytes?: number;
  /** A connection that answers no ping is given up: how often to ask, and how long to wait. */
  readonly keepaliveIntervalMs?: number;
  readonly keepaliveTimeoutMs?: number;
  /** A stream ends with UNAVAILABLE when there is no connection after it. */
  readonly connectTimeoutMs?: number;
}

/** Request headers by lower-case name. */
export type Headers = Readonly<Record<string, string>>;

export interface CallOptions {
  readonly headers?: Headers;
  /** The call fails with DEADLINE_EXCEEDED after it. */
  readonly timeoutMs?: number;
}

/** One bidirectional stream as its client sees it. */
export interface ClientStream<I extends DescMessage, O extends DescMessage> {
  send(message: MessageInitShape<I>): void;
  /** Stops and starts reading: while paused, flow control holds the server back. */
  pause(): void;
  resume(): void;
  onMessage(callback: (message: MessageShape<O>, encodedBytes: number) => void): void;
  /** Once; without an error when the server ended the stream well. */
  onClose(callback: (error: RpcError | undefined) => void): void;
  cancel(): void;
}

/** One connection to one server. It makes no second attempt by itself: whoever opened it decides when to try again. */
export interface Channel {
  /** Rejects with an RpcError. */
  unary<I extends DescMessage, O extends DescMessage>(
    method: DescMethodUnary<I, O>,
    request: MessageInitShape<I>,
    options?: CallOptions,
  ): Promise<MessageShape<O>>;
  bidi<I extends DescMessage, O extends DescMessage>(
    method: DescMethodBiDiStreaming<I, O>,
    options?: CallOptions,
  ): ClientStream<I, O>;
  close(): void;
}

export function openChannel(options: ChannelOptions): Channel {
  const { connectTimeoutMs = DEFAULT_CONNECT_TIMEOUT_MS } = options;
  const client = new Client(options.address, channelCredentials(options), {
    'grpc.max_receive_message_length': options.maxResponseBytes ?? DEFAULT_MAX_RESPONSE_BYTES,
    'grpc.max_send_message_length': -1,
    'grpc.keepalive_time_ms': options.keepaliveIntervalMs ?? DEFAULT_KEEPALIVE_INTERVAL_MS,
    'grpc.keepalive_timeout_ms': options.keepaliveTimeoutMs ?? DEFAULT_KEEPALIVE_TIMEOUT_MS,
    'grpc.use_local_subchannel_pool': 1,
    'grpc.enable_retries': 0,
    'grpc.enable_http_proxy': 0,
    'grpc.enable_channelz': 0,
    'grpc.service_config_disable_resolution': 1,
    'grpc-node.flow_control_window': FLOW_CONTROL_WINDOW_BYTES,
    ...(options.serverName === undefined
      ? {}
      : {
          'grpc.ssl_target_name_override': options.serverName,
          'grpc.default_authority': options.serverName,
        }),
  });

  return {
    unary(method, request, call = {}) {
      return new Promise((resolve, reject) => {
        client.makeUnaryRequest(
          methodPath(method),
          encoder(method.input),
          decoder(method.output) as (bytes: Buffer) => MessageShape<typeof method.output>,
          create(method.input, request),
          metadataOf(call.headers),
          deadlineOf(call),
          (error, value) => {
            if (error !== null) reject(rpcError(error));
            else if (value === undefined) reject(new Error(`${methodPath(method)}: no answer and no error`));
            else resolve(value);
          },
        );
      });
    },
    bidi(method, call = {}) {
      let encodedBytes = 0;
      const decode = decoder(method.output) as (bytes: Buffer) => MessageShape<typeof method.output>;
      const stream = client.makeBidiStreamRequest(
        methodPath(method),
        encoder(method.input),
        (bytes: Buffer) => {
          encodedBytes = bytes.length;
          return { message: decode(bytes), encodedBytes };
        },
        metadataOf(call.headers),
        deadlineOf(call),
      );
      let closed = false;
      const closing: ((error: RpcError | undefined) => void)[] = [];
      const close = (error: RpcError | undefined): void => {
        if (closed) return;
        closed = true;
        clearTimeout(connecting);
        for (const callback of closing) callback(error);
      };
      // Where packets get lost (a Service that led to a pod which has gone) the kernel would try for minutes.
      const connecting = setTimeout(() => {
        if (client.getChannel().getConnectivityState(false) === connectivityState.READY) return;
        close(new RpcError(StatusCode.UNAVAILABLE, `no connection within ${connectTimeoutMs} ms`));
        stream.cancel();
      }, connectTimeoutMs);
      stream.on('error', (error: ServiceError) => close(rpcError(error)));
      stream.on('end', () => {
        stream.end();
        // A failure is reported as an error event after the end of the data: let it speak first.
        setImmediate(close, undefined);
      });
      return {
        send: (message) => {
          if (!closed) stream.write(create(method.input, message));
        },
        pause: () => void stream.pause(),
        resume: () => void stream.resume(),
        onMessage: (callback) =>
          void stream.on('data', (each: { message: MessageShape<typeof method.output>; encodedBytes: number }) =>
            callback(each.message, each.encodedBytes),
          ),
        onClose: (callback) => void closing.push(callback),
        cancel: () => stream.cancel(),
      };
    },
    close: () => client.close(),
  };
}

function metadataOf(headers: Headers = {}): Metadata {
  const metadata = new Metadata();
  for (const [name, value] of Object.entries(headers)) metadata.set(name, value);
  return metadata;
}

function deadlineOf({ timeoutMs }: CallOptions): { deadline?: number } {
  return timeoutMs === undefined ? {} : { deadline: Date.now() + timeoutMs };
}

function rpcError(error: ServiceError): RpcError {
  return new RpcError(error.code, error.details);
}

/** A mesh of 100,000 workloads arrives in one message of some 40 MB. */
const DEFAULT_MAX_RESPONSE_BYTES = 256 * 1024 * 1024;
const DEFAULT_CONNECT_TIMEOUT_MS = 10_000;
const DEFAULT_KEEPALIVE_INTERVAL_MS = 30_000;
const DEFAULT_KEEPALIVE_TIMEOUT_MS = 10_000;
const FLOW_CONTROL_WINDOW_BYTES = 1024 * 1024;
