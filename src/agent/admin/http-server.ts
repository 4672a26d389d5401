import { renameSync, rmSync } from 'node:fs';
import type { IncomingMessage, Server, ServerResponse } from 'node:http';

/** A page or an action. Thrown errors become status 500. */
export type Route = (url: URL, request: IncomingMessage) => Promise<Answer> | Answer;

export interface Answer {
  readonly status?: number;
  readonly contentType?: string;
  readonly body: string;
}

export function json(value: unknown): Answer {
  const body = JSON.stringify(value, (_key, each) => (typeof each === 'bigint' ? each.toString() : each), 2);
  return { contentType: 'application/json', body: `${body}\n` };
}

/** Where to listen: a Unix socket (replaced if one is left over) or an address. */
export type ListenAddress = { readonly path: string } | { readonly host: string; readonly port: number };

/**
 * A small HTTP server for operators: routes by `METHOD /path`. Rejects when an address cannot be listened on.
 */
export async function serveHttp(routes: ReadonlyMap<string, Route>, address: ListenAddress): Promise<Server> {
  const server = createServer((request, response) => void respond(routes, request, response));
  server.requestTimeout = REQUEST_TIMEOUT_MS;
  // A server that closes removes the path it listens on. Under a name of its own it never removes a successor's.
  const own = 'path' in address ? { path: `${address.path}.${process.pid}` } : address;
  if ('path' in own) rmSync(own.path, { force: true });
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    server.listen(own, () => {
      server.removeListener('error', reject);
      resolve();
    });
  });
  if ('path' in address && 'path' in own) renameSync(own.path, address.path);
  return server;
}

async function respond(
  routes: ReadonlyMap<string, Route>,
  request: IncomingMessage,
  response: ServerResponse,
): Promise<void> {
  const url = new URL(request.url ?? '/', 'http://agent');
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
  response.end(request.method === 'HEAD' ? '' : answer.body);
}

function notFound(routes: ReadonlyMap<string, Route>, url: URL): Answer {
  const methods = [...routes.keys()].filter((key) => key.endsWith(` ${url.pathname}`));
  if (methods.length > 0) return { status: 405, body: `only ${methods.join(', ')}\n` };
  return { status: 404, body: `nothing here; there is\n${[...routes.keys()].join('\n')}\n` };
}

/** Not imported: an import evaluates all its exports, and one of them (WebSocket) loads 12 MB that nobody uses. */
const { createServer } = process.getBuiltinModule('node:http');
const REQUEST_TIMEOUT_MS = 10_000;
