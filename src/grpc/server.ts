import type { DescMessage, DescMethodBiDiStreaming, DescMethodUnary, MessageShape } from '@bufbuild/protobuf';
import {
  Metadata,
  Server,
  ServerCredentials,
  type ServerDuplexStream,
  type ServerUnaryCall,
  status,
} from '@grpc/grpc-js';
import './library-log.js';
import { formatHostPort } from '../lib/ip.js';
import type { LiveServerCredentials } from './credentials.js';
import { type Encodable, methodDefinition, methodPath } from './method.js';
import { RpcError } from './status.js';

/** What is known of a caller. */
export interface Caller {
  /** `ip:port`, for logs. */
  readonly peer: string;
  /** The first value of a request header, name in lower case. */
  header(name: string): string | undefined;
  /** DER of the client certificate, when one was shown and verified. */
  readonly certificate: Uint8Array | undefined;
}

/** One bidirectional stream as its server sees it. */
export interface ServerStream<I extends DescMessage, O extends DescMessage> {
  readonly caller: Caller;
  /** Messages wait until someone listens. */
  onMessage(callback: (message: MessageShape<I>) => void): void;
  /** Once, when the client is done or gone, whatever the reason. */
  onClose(callback: () => void): void;
  /** `sent` is called when the peer's flow control has taken the message: until then, send no other. */
  send(message: Encodable<O>, sent: () => void): void;
  /** Ends the stream with an error, or well. */
  end(error?: RpcError): void;
}

export interface GrpcServer {
  unary<I extends DescMessage, O extends DescMessage>(
    method: DescMethodUnary<I, O>,
    handler: (request: MessageShape<I>, caller: Caller) => Promise<Encodable<O>>,
  ): void;
  bidi<I extends DescMessage, O extends DescMessage>(
    method: DescMethodBiDiStreaming<I, O>,
    handler: (stream: ServerStream<I, O>) => void | Promise<void>,
  ): void;
  /** Plaintext without credentials. Resolves with the port, which matters when 0 was asked for. */
  listen(address: { readonly ip: string; readonly port: number }, credentials?: LiveServerCredentials): Promise<number>;
  /** Lets running calls finish for at most `graceMs`, then cuts them. Streams that never end are cut at once with 0. */
  close(graceMs: number): Promise<void>;
}

export interface GrpcServerOptions {
  /** Largest request, bytes. */
  readonly maxRequestBytes?: number;
  /** A connection that answers no ping is closed: how often to ask, and how long to wait. */
  readonly keepaliveIntervalMs?: number;
  readonly keepaliveTimeoutMs?: number;
}

export function createGrpcServer(options: GrpcServerOptions = {}): GrpcServer {
  const server = new Server({
    'grpc.max_receive_message_length': options.maxRequestBytes ?? DEFAULT_MAX_REQUEST_BYTES,
    'grpc.max_send_message_length': -1,
    'grpc.keepalive_time_ms': options.keepaliveIntervalMs ?? DEFAULT_KEEPALIVE_INTERVAL_MS,
    'grpc.keepalive_timeout_ms': options.keepaliveTimeoutMs ?? DEFAULT_KEEPALIVE_TIMEOUT_MS,
    // Channelz stays on: without it grpc-js 1.14 keeps no list of its sessions, and a forced shutdown cuts none.
  });
  const register = (
    method: DescMethodUnary<DescMessage, DescMessage> | DescMethodBiDiStreaming<DescMessage, DescMessage>,
    kind: 'unary' | 'bidi',
    handler: unknown,
  ): void => {
    const { responseSerialize, requestDeserialize } = methodDefinition(method);
    // The signature of `register` wants the handler's exact kind; the kind is given beside it.
    server.register(methodPath(method), handler as never, responseSerialize, requestDeserialize, kind);
  };

  return {
    unary(method, handler) {
      register(
        method,
        'unary',
        (call: ServerUnaryCall<never, unknown>, reply: (error: object | null, value?: unknown) => void) => {
          handler(call.request, callerOf(call)).then(
            (value) => reply(null, value),
            (error: unknown) => reply(statusOf(error)),
          );
        },
      );
    },
    bidi(method, handler) {
      register(method, 'bidi', (call: ServerDuplexStream<never, unknown>) => handler(serverStream(call)));
    },
    listen({ ip, port }, credentials) {
      return new Promise((resolve, reject) => {
        const security = credentials?.grpc ?? ServerCredentials.createInsecure();
        server.bindAsync(formatHostPort(ip, port), security, (error, bound) => {
          if (error === null) resolve(bound);
          else reject(new Error(`cannot listen on ${formatHostPort(ip, port)}: ${error.message}`));
        });
      });
    },
    async close(graceMs) {
      if (graceMs > 0) {
        const drained = new Promise<void>((resolve) => server.tryShutdown(() => resolve()));
        const late = new Promise<void>((resolve) => setTimeout(resolve, graceMs).unref());
        await Promise.race([drained, late]);
      }
      server.forceShutdown();
    },
  };
}

function serverStream(call: ServerDuplexStream<never, unknown>): ServerStream<never, never> {
  let closed = false;
  const closing: (() => void)[] = [];
  const close = (): void => {
    if (closed) return;
    closed = true;
    for (const callback of closing) callback();
  };
  call.on('cancelled', close);
  call.on('error', close);
  call.on('close', close);
  // The client has said its last word: answer in kind.
  call.on('end', () => {
    close();
    call.end();
  });
  return {
    caller: callerOf(call),
    onMessage: (callback) => void call.on('data', callback),
    onClose: (callback) => void closing.push(callback),
    send(message, sent) {
      if (!closed) call.write(message, (error?: Error | null) => (error ? close() : sent()));
    },
    end(error) {
      if (closed) return;
      if (error === undefined) call.end();
      else call.emit('error', statusOf(error));
      close();
    },
  };
}

function callerOf(call: ServerUnaryCall<never, unknown> | ServerDuplexStream<never, unknown>): Caller {
  return {
    peer: call.getPeer(),
    header: (name) => call.metadata.get(name)[0]?.toString(),
    certificate: call.getAuthContext().sslPeerCertificate?.raw,
  };
}

/** A peer learns of a failure what an RpcError says; anything else is a bug of ours, and none of its business. */
function statusOf(error: unknown): { code: status; details: string; metadata: Metadata } {
  const known = error instanceof RpcError;
  return {
    code: known ? error.code : status.INTERNAL,
    details: known ? error.message : 'internal error',
    metadata: new Metadata(),
  };
}

/** A client that comes back with the versions of 100,000 resources sends about 10 MB. */
const DEFAULT_MAX_REQUEST_BYTES = 16 * 1024 * 1024;
const DEFAULT_KEEPALIVE_INTERVAL_MS = 30_000;
const DEFAULT_KEEPALIVE_TIMEOUT_MS = 10_000;
