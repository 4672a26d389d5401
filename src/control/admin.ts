import { chmodSync, readFileSync } from 'node:fs';
import type { IncomingMessage, Server } from 'node:http';
import { type Answer, json, type Route, serveHttp } from '../lib/http-server.js';
import { isLogLevel, levels, setLevel } from '../telemetry/log.js';
import type { MetricsRegistry } from '../telemetry/metrics.js';

/** What operators and tools may ask a running control plane. */
export interface AdminPages {
  /** Names of what is missing before it is ready. */
  pending(): readonly string[];
  readonly metrics: MetricsRegistry;
  /** How things stand: inputs that are no good, connected agents and what they refused, sizes, versions. */
  status(): unknown;
  /** The mesh as agents are told of it. */
  registry(): unknown;
  readonly config: unknown;
  /** More of them, by `METHOD /path`. */
  readonly more?: ReadonlyMap<string, Route>;
}

export interface AdminAddresses {
  /** Path of a Unix socket; readable by its owner only. */
  readonly socket: string | undefined;
  /** 0 serves nowhere. */
  readonly port: number;
}

/**
 * Serves /ready, /metrics and /version to everybody, and to this machine also /debug/{registryz,configz,status} and
 * /logging. Rejects when an address is taken.
 */
export async function serveAdmin(pages: AdminPages, { socket, port }: AdminAddresses): Promise<readonly Server[]> {
  const open = new Map<string, Route>([
    ['GET /ready', () => ready(pages.pending())],
    ['GET /metrics', async () => ({ contentType: pages.metrics.contentType, body: await pages.metrics.render() })],
    ['GET /version', () => json({ name: 'meltemi', version: VERSION })],
  ]);
  const local = new Map<string, Route>([
    ['GET /debug/registryz', () => json(pages.registry())],
    ['GET /debug/configz', () => json(pages.config)],
    ['GET /debug/status', () => json(pages.status())],
    ['GET /logging', () => json(levels())],
    ['POST /logging', (url) => changeLevel(url)],
    ...(pages.more ?? []),
  ]);
  const guarded = [...local].map(([path, route]): [string, Route] => [
    path,
    (url, request) => (isLocal(request) ? route(url, request) : REFUSED),
  ]);
  const servers: Server[] = [];
  if (socket !== undefined) {
    servers.push(await serveHttp(new Map([...open, ...local]), { path: socket }));
    chmodSync(socket, 0o600);
  }
  if (port > 0) {
    const routes = new Map([...open, ...guarded]);
    const anywhere = (host: string) => serveHttp(routes, { host, port });
    servers.push(
      await anywhere('::').catch((error: NodeJS.ErrnoException) => {
        if (error.code === 'EAFNOSUPPORT' || error.code === 'EADDRNOTAVAIL') return anywhere('0.0.0.0');
        throw new Error(`cannot listen on port ${port}: ${error.message}`);
      }),
    );
  }
  return servers;
}

function ready(pending: readonly string[]): Answer {
  if (pending.length === 0) return { body: 'ready\n' };
  return { status: 500, body: `not ready, pending: ${pending.join(', ')}\n` };
}

function changeLevel(url: URL): Answer {
  const level = url.searchParams.get('level') ?? '';
  if (!isLogLevel(level)) return { status: 400, body: `level is ${JSON.stringify(level)}, which is no log level\n` };
  setLevel(level, url.searchParams.get('scope') ?? undefined);
  return json(levels());
}

function isLocal(request: IncomingMessage): boolean {
  const address = request.socket.remoteAddress ?? '';
  return address === '::1' || /^(?:::ffff:)?127\./.test(address);
}

const REFUSED: Answer = { status: 403, body: 'answered to this machine only: use the Unix socket or 127.0.0.1\n' };
const VERSION = (
  JSON.parse(readFileSync(new URL('../../../package.json', import.meta.url), 'utf8')) as { version: string }
).version;
