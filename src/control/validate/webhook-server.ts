import type { IncomingMessage, ServerResponse } from 'node:http';
import type { Server } from 'node:https';
import type { AddressInfo, Socket } from 'node:net';
import type { LiveServerCredentials } from '../../grpc/credentials.js';
import { err, ok, type Result } from '../../lib/result.js';
import type { Logger } from '../../telemetry/log.js';
import type { MetricsRegistry } from '../../telemetry/metrics.js';
import type { WarningFacts } from '../mesh/warnings.js';
import { type AdmissionRequest, answerOf, judge, readAdmissionReview, type Verdict } from './admission-review.js';
import { unreadKind } from './unread-kinds.js';

export interface WebhookOptions {
  /** 0 takes a free one. */
  readonly port: number;
  readonly credentials: LiveServerCredentials;
  /** What is known of the mesh; undefined while it has not been read. */
  facts(): WarningFacts | undefined;
  readonly log: Logger;
  readonly metrics: MetricsRegistry;
  readonly limits?: Partial<WebhookLimits>;
}

export interface WebhookLimits {
  readonly bodyBytes: number;
  /** Of all bodies that are being received. */
  readonly heldBytes: number;
  readonly connections: number;
  readonly connectionsPerAddress: number;
  /** From the first byte of a request to its last. */
  readonly requestMs: number;
}

export interface WebhookServer {
  readonly port: number;
  close(): void;
}

/**
 * `POST /validate` over TLS: what the API server asks before it lets an object in. Everybody in the cluster can reach it,
 * so nothing that is sent is believed, and no caller can take what others need. Rejects when the port is taken.
 */
export async function serveWebhook(options: WebhookOptions): Promise<WebhookServer> {
  const limits = { ...WEBHOOK_LIMITS, ...options.limits };
  const { credentials, log } = options;
  const count = counters(options.metrics);
  const held = { bytes: 0 };
  const server = createServer(
    {
      ...tlsOf(credentials.identity),
      maxHeaderSize: MAX_HEADER_BYTES,
      handshakeTimeout: limits.requestMs,
      connectionsCheckingInterval: Math.min(limits.requestMs, CHECK_INTERVAL_MS),
    },
    (request, response) => {
      void respond(request, response).catch((error: unknown) => {
        count.turnedAway('failed');
        log.error({ error }, 'a bug: a review failed');
        finish(response, 500, 'the review failed: see the control plane’s log\n');
      });
    },
  );
  server.requestTimeout = limits.requestMs;
  server.headersTimeout = limits.requestMs;
  server.keepAliveTimeout = KEEP_ALIVE_MS;
  limitConnections(server, limits, () => count.turnedAway('connections'));
  const unsubscribe = credentials.subscribe((identity) => server.setSecureContext(tlsOf(identity)));

  async function respond(request: IncomingMessage, response: ServerResponse): Promise<void> {
    if (request.url?.split('?')[0] !== PATH) return finish(response, 404, `there is ${PATH} only\n`);
    if (request.method !== 'POST') return finish(response, 405, 'an AdmissionReview is POSTed\n');
    const body = await readBody(request, limits, held);
    if (!body.ok) {
      count.turnedAway(body.error.reason);
      return finish(response, body.error.status, `${body.error.message}\n`);
    }
    const review = parse(body.value);
    if (!review.ok) {
      count.turnedAway('malformed');
      return finish(response, 400, `${review.error}\n`);
    }
    const verdict = judge(review.value, options.facts());
    count.judged(review.value, verdict);
    finish(response, 200, JSON.stringify(answerOf(review.value, verdict)), 'application/json');
  }

  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    server.listen(options.port, () => resolve());
  });
  server.unref();
  return {
    port: (server.address() as AddressInfo).port,
    close() {
      unsubscribe();
      server.close();
      server.closeAllConnections();
    },
  };
}

function tlsOf({ certificateChain, privateKey }: LiveServerCredentials['identity']) {
  return { cert: certificateChain, key: privateKey, minVersion: 'TLSv1.2' as const };
}

function limitConnections(server: Server, limits: WebhookLimits, refused: () => void): void {
  const open = new Map<string, number>();
  let all = 0;
  server.on('connection', (socket: Socket) => {
    const address = socket.remoteAddress ?? '';
    const ofAddress = (open.get(address) ?? 0) + 1;
    if (ofAddress > limits.connectionsPerAddress || all >= limits.connections) {
      refused();
      socket.destroy();
      return;
    }
    all++;
    open.set(address, ofAddress);
    socket.once('close', () => {
      all--;
      const left = (open.get(address) ?? 1) - 1;
      if (left === 0) open.delete(address);
      else open.set(address, left);
    });
  });
  // A handshake that fails is the client's trouble: a probe of a port scanner, a bundle that is out of date.
  server.on('tlsClientError', () => {});
  server.on('clientError', (_error, socket) => socket.destroy());
}

interface TurnedAway {
  readonly status: number;
  readonly reason: 'too-large' | 'busy' | 'cut-off';
  readonly message: string;
}

async function readBody(
  request: IncomingMessage,
  limits: WebhookLimits,
  held: { bytes: number },
): Promise<Result<Buffer, TurnedAway>> {
  const chunks: Buffer[] = [];
  let bytes = 0;
  try {
    for await (const chunk of request as AsyncIterable<Buffer>) {
      bytes += chunk.length;
      held.bytes += chunk.length;
      if (bytes > limits.bodyBytes) {
        const message = `the review has more than ${limits.bodyBytes} bytes`;
        return err({ status: 413, reason: 'too-large', message });
      }
      if (held.bytes > limits.heldBytes)
        return err({ status: 503, reason: 'busy', message: 'too many reviews at once: try again' });
      chunks.push(chunk);
    }
    return ok(Buffer.concat(chunks));
  } catch {
    return err({ status: 400, reason: 'cut-off', message: 'the request ended before its body did' });
  } finally {
    held.bytes -= bytes;
  }
}

function parse(body: Buffer): Result<AdmissionRequest> {
  try {
    return readAdmissionReview(JSON.parse(body.toString('utf8')) as unknown);
  } catch {
    return err('the body is no JSON');
  }
}

/** The rest of a body that was not read is not waited for. */
function finish(response: ServerResponse, status: number, body: string, contentType = 'text/plain; charset=utf-8') {
  if (response.headersSent || response.destroyed) return;
  const headers = { 'content-type': contentType, 'content-length': Buffer.byteLength(body) };
  response.writeHead(status, response.req.complete ? headers : { ...headers, connection: 'close' });
  response.end(body);
}

function counters(metrics: MetricsRegistry) {
  const labels = ['group', 'resource'];
  const passed = metrics.counter('galley_validation_passed', 'Objects that were let in.', labels);
  const failed = metrics.counter('galley_validation_failed', 'Objects that were refused.', labels);
  const warnings = metrics.counter('meltemi_webhook_warnings_total', 'Warnings given to those who write objects.');
  const turnedAway = metrics.counter('meltemi_webhook_turned_away_total', 'Requests that were not judged.', ['reason']);
  return {
    judged({ group, kind }: AdmissionRequest, verdict: Verdict) {
      // Names that a caller makes up are not kept.
      const isKnown = JUDGED.has(`${group}/${kind}`) || unreadKind(group, kind) !== undefined;
      (verdict.allowed ? passed : failed).inc(
        isKnown ? { group, resource: kind } : { group: 'other', resource: 'other' },
      );
      warnings.inc({}, verdict.warnings.length);
    },
    turnedAway(reason: TurnedAway['reason'] | 'connections' | 'malformed' | 'failed') {
      turnedAway.inc({ reason });
    },
  };
}

/** Beyond: 413, 503, the connection is closed, 408. */
export const WEBHOOK_LIMITS: WebhookLimits = {
  bodyBytes: 4 * 1024 * 1024,
  heldBytes: 32 * 1024 * 1024,
  connections: 256,
  connectionsPerAddress: 64,
  requestMs: 5_000,
};
const PATH = '/validate';
const MAX_HEADER_BYTES = 16 * 1024;
const KEEP_ALIVE_MS = 90_000;
const CHECK_INTERVAL_MS = 1_000;
const JUDGED: ReadonlySet<string> = new Set([
  'networking.istio.io/ServiceEntry',
  'networking.istio.io/WorkloadEntry',
  'security.istio.io/AuthorizationPolicy',
  'security.istio.io/PeerAuthentication',
  '/Namespace',
  '/Pod',
  '/Service',
]);
/** As in lib/http-server.ts: an import would evaluate all exports. */
const { createServer } = process.getBuiltinModule('node:https');
