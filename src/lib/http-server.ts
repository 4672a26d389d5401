import { renameSync, rmSync, statSync } from 'node:fs';
import type { IncomingMessage, Server, ServerResponse } from 'node:http';
import { dirname, join } from 'node:path';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';

/** A page or an action. Thrown errors become status 500. */
export type Route = (url: URL, request: IncomingMessage) => Promise<Answer> | Answer;

export interface Answer {
  readonly status?: number;
  readonly contentType?: string;
  /** Or pieces, made as the client takes them. */
  readonly body: string | Iterable<string>;
}

export function json(value: unknown): Answer {
  return { contentType: 'application/json', body: `${stringify(value)}\n` };
}

/**
 * One object, its members written one after the other and generators as arrays item by item: for what would be too
 * large as one value. What changes meanwhile may show in the part that is not written yet.
 */
export function jsonInPieces(members: Iterable<readonly [string, unknown]>): Answer {
  return { contentType: 'application/json', body: piecesOf(members) };
}

function* piecesOf(members: Iterable<readonly [string, unknown]>): Generator<string> {
  let separator = '{';
  for (const [name, value] of members) {
    if (value === undefined) continue;
    yield `${separator}\n${JSON.stringify(name)}: `;
    separator = ',';
    if (isGenerator(value)) yield* itemsOf(value);
    else yield stringify(value) ?? 'null';
  }
  yield separator === '{' ? '{}\n' : '\n}\n';
}

function* itemsOf(values: Iterable<unknown>): Generator<string> {
  let separator = '[';
  for (const value of values) {
    yield `${separator}\n${stringify(value)}`;
    separator = ',';
  }
  yield separator === '[' ? '[]' : '\n]';
}

function isGenerator(value: unknown): value is Iterable<unknown> {
  return typeof value === 'object' && value !== null && Symbol.iterator in value && !Array.isArray(value);
}

function stringify(value: unknown): string | undefined {
  return JSON.stringify(value, (_key, each) => (typeof each === 'bigint' ? each.toString() : each), 2);
}

/** Where to listen: a Unix socket (which replaces another's, without a gap) or an address. */
export type ListenAddress = { readonly path: string } | { readonly host: string; readonly port: number };

/**
 * A small HTTP server for operators: routes by `METHOD /path`. Rejects when an address cannot be listened on. It does
 * not keep the process alive. Closing it removes its socket, unless a successor has the path.
 */
export async function serveHttp(routes: ReadonlyMap<string, Route>, address: ListenAddress): Promise<Server> {
  const server = createServer((request, response) => void respond(routes, request, response));
  server.requestTimeout = REQUEST_TIMEOUT_MS;
  server.unref();
  // Node removes the path that was listened on, whoever has it by then: it is one that nobody else ever has.
  const own = 'path' in address ? { path: join(dirname(address.path), `.${process.pid}-${++lastSocket}`) } : address;
  if ('path' in address && 'path' in own) {
    if (Buffer.byteLength(address.path) > MAX_SOCKET_PATH_BYTES) {
      throw new Error(`socket path ${address.path} is longer than the ${MAX_SOCKET_PATH_BYTES} bytes that Linux takes`);
    }
    rmSync(own.path, { force: true });
  }
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    server.listen(own, () => {
      server.removeListener('error', reject);
      resolve();
    });
  });
  if ('path' in address && 'path' in own) {
    const { ino } = statSync(own.path);
    renameSync(own.path, address.path);
    const close = server.close.bind(server);
    server.close = (callback) => {
      if (statSync(address.path, { throwIfNoEntry: false })?.ino === ino) rmSync(address.path, { force: true });
      return close(callback);
    };
  }
  return server;
}

async function respond(
  routes: ReadonlyMap<string, Route>,
  request: IncomingMessage,
  response: ServerResponse,
): Promise<void> {
  const url = new URL(request.url ?? '/', 'http://localhost');
  const method = request.method === 'HEAD' ? 'GET' : request.method;
  const route = routes.get(`${method} ${url.pathname}`);
  request.resume();
  let answer: Answer;
  try {
    answer = route === undefined ? notFound(routes, url) : await route(url, request);
  } catch (error) {
    answer = { status: 500, body: `${error instanceof Error ? error.message : error}\n` };
  }
  response.writeHead(answer.status ?? 200, { 'content-type': answer.contentType ?? 'text/plain; charset=utf-8' });
  if (request.method === 'HEAD') response.end();
  else if (typeof answer.body === 'string') response.end(answer.body);
  // A client that goes away, or a piece that cannot be made, ends the answer half-way: that is all there is to do.
  else await pipeline(Readable.from(inChunks(answer.body)), response).catch(() => response.destroy());
}

/** Small pieces cost a write each. */
function* inChunks(pieces: Iterable<string>): Generator<string> {
  let chunk = '';
  for (const piece of pieces) {
    chunk += piece;
    if (chunk.length < CHUNK_LENGTH) continue;
    yield chunk;
    chunk = '';
  }
  yield chunk;
}

function notFound(routes: ReadonlyMap<string, Route>, url: URL): Answer {
  const methods = [...routes.keys()].filter((key) => key.endsWith(` ${url.pathname}`));
  if (methods.length > 0) return { status: 405, body: `only ${methods.join(', ')}\n` };
  return { status: 404, body: `nothing here; there is\n${[...routes.keys()].join('\n')}\n` };
}

let lastSocket = 0;
/** `sun_path` with its closing zero. */
const MAX_SOCKET_PATH_BYTES = 107;
const REQUEST_TIMEOUT_MS = 10_000;
const CHUNK_LENGTH = 64 * 1024;
/** Not imported: an import evaluates all its exports, and one of them (WebSocket) loads 12 MB that nobody uses. */
const { createServer } = process.getBuiltinModule('node:http');
