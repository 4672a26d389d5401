import type { IncomingMessage } from 'node:http';
import { request as httpRequest } from 'node:http';
import { request as httpsRequest, type RequestOptions } from 'node:https';
import { ApiError } from './api.js';

/** How to reach an API server and who one is there. */
export interface Connection {
  /** `https://10.96.0.1:443`, without a slash at the end; may have a path when the server is behind a proxy. */
  readonly url: string;
  /** Asked for before every request: tokens rotate. Agent, TLS options, headers. */
  options(): Promise<RequestOptions>;
  /** The server did not believe what `options` gave: read it again. */
  distrust(): void;
  close(): void;
}

export interface Exchange {
  readonly method: string;
  /** With query; starts with a slash. */
  readonly path: string;
  readonly headers?: Readonly<Record<string, string>>;
  readonly body?: string;
  /** Longest silence until the next byte of the answer, ms. */
  readonly silenceMs: number;
  readonly signal?: AbortSignal;
}

/**
 * Sends a request; resolves with the head of the answer, whatever its status. Rejects with an `ApiError` of status 0
 * when there is none. A request that met a connection which the server had just closed is sent once more if it may be.
 */
export async function send(connection: Connection, exchange: Exchange): Promise<IncomingMessage> {
  try {
    return await sendOnce(connection, exchange);
  } catch (error) {
    if (!(error instanceof StaleConnection) || exchange.method === 'POST') throw error;
    return sendOnce(connection, exchange);
  }
}

async function sendOnce(connection: Connection, exchange: Exchange): Promise<IncomingMessage> {
  const { method, path, headers, body, silenceMs, signal } = exchange;
  let own: RequestOptions;
  try {
    own = await connection.options();
  } catch (error) {
    throw new ApiError(0, '', `${nameOf(exchange)}: no credentials: ${messageOf(error)}`);
  }
  const all: RequestOptions = {
    ...own,
    method,
    headers: {
      accept: 'application/json',
      'user-agent': 'meltemi',
      ...own.headers,
      ...headers,
      ...(body === undefined ? {} : { 'content-length': String(Buffer.byteLength(body)) }),
    },
    ...(signal === undefined ? {} : { signal }),
  };
  return new Promise((resolve, reject) => {
    const request = (connection.url.startsWith('https:') ? httpsRequest : httpRequest)(connection.url + path, all);
    request.setTimeout(silenceMs, () => request.destroy(new Error(`silent for ${silenceMs} ms`)));
    // A server that vanishes sends nothing; the kernel finds out within half a minute.
    request.once('socket', (socket) => socket.setKeepAlive(true, KEEP_ALIVE_MS));
    request.once('response', resolve);
    request.on('error', (error: NodeJS.ErrnoException) => {
      const stale = request.reusedSocket && (error.code === 'ECONNRESET' || error.code === 'EPIPE');
      const why = `${nameOf(exchange)}: no answer from ${connection.url}: ${messageOf(error)}`;
      reject(stale ? new StaleConnection(0, '', why) : new ApiError(0, '', why));
    });
    request.end(body);
  });
}

/** The whole body as text. Rejects with an `ApiError` of status 0 when the connection breaks before its end. */
export async function bodyOf(answer: IncomingMessage, exchange: Exchange): Promise<string> {
  const pieces: Buffer[] = [];
  try {
    for await (const piece of answer) pieces.push(piece as Buffer);
  } catch (error) {
    throw new ApiError(0, '', `${nameOf(exchange)}: the answer broke off: ${messageOf(error)}`);
  }
  return Buffer.concat(pieces).toString('utf8');
}

/** `GET /api/v1/pods`, for messages. */
export function nameOf({ method, path }: Pick<Exchange, 'method' | 'path'>): string {
  return `${method} ${path.split('?', 1)[0]}`;
}

export function messageOf(error: unknown): string {
  if (error instanceof AggregateError && error.message === '') return error.errors.map(messageOf).join(', ');
  return error instanceof Error ? error.message : String(error);
}

class StaleConnection extends ApiError {}

const KEEP_ALIVE_MS = 15_000;
