import { type Answer, json, jsonInPieces, type Route } from '../../lib/http-server.js';
import { canonicalIp } from '../../lib/ip.js';
import { levels, setLevel } from '../../telemetry/log.js';
import type { MetricsRegistry } from '../../telemetry/metrics.js';
import type { Enrolment } from '../enroll/enrolment.js';
import { explainInbound } from '../explain/explain-inbound.js';
import { type ExplainParts, explainOutbound, namesToLookUp } from '../explain/explain-outbound.js';
import { configDump, type DumpParts } from './config-dump.js';
import type { Readiness } from './readiness.js';

export interface AdminParts {
  readonly dump: DumpParts;
  readonly enrolment: Enrolment;
  readonly explain: ExplainParts;
  /** Resolves when a host name has been looked up. */
  lookUp(host: string): Promise<void>;
  /** Ends the process in an orderly way. */
  quit(): void;
}

/** For operators: the Unix socket and port 15000. */
export function adminRoutes({ dump, enrolment, explain, lookUp, quit }: AdminParts): Map<string, Route> {
  const routes = new Map<string, Route>([
    ['GET /config_dump', () => jsonInPieces(configDump(dump))],
    ['GET /connections', () => json(dump.connections())],
    ['GET /logging', () => json(levels())],
    ['POST /logging', (url) => changeLevel(url.searchParams)],
    ['GET /explain', (url) => explainFrom(url.searchParams, enrolment, explain, lookUp)],
    ['GET /explain-inbound', (url) => explainTo(url.searchParams, enrolment, explain)],
    [
      'POST /quitquitquit',
      () => {
        quit();
        return { body: 'shutting down\n' };
      },
    ],
  ]);
  routes.set('GET /', () => ({
    body: `meltemi agent ${dump.version}, process ${process.pid}\n${[...routes.keys()].join('\n')}\n`,
  }));
  return routes;
}

/** For Prometheus: port 15020. */
export function metricsRoutes(registry: MetricsRegistry): Map<string, Route> {
  const metrics: Route = async () => ({ contentType: registry.contentType, body: await registry.render() });
  return new Map([
    ['GET /metrics', metrics],
    ['GET /stats/prometheus', metrics],
  ]);
}

/** For the kubelet: port 15021. */
export function readinessRoutes(readiness: Readiness): Map<string, Route> {
  return new Map<string, Route>([
    [
      'GET /healthz/ready',
      () => {
        const pending = readiness.pending();
        if (pending.length === 0) return { body: 'ready\n' };
        return { status: 500, body: `not ready, pending: ${pending.join(', ')}\n` };
      },
    ],
  ]);
}

/** `level=debug`, or `level=xds:debug,ca:info`. */
function changeLevel(query: URLSearchParams): Answer {
  try {
    const parts = (query.get('level') ?? 'info').split(',').map((part) => part.split(':'));
    // First for all scopes, then for some: whatever the order.
    for (const [level = '', scoped] of parts) if (scoped === undefined) setLevel(level);
    for (const [scope, level] of parts) if (level !== undefined) setLevel(level, scope);
  } catch (error) {
    return { status: 400, body: `${error instanceof Error ? error.message : error}\n` };
  }
  return json(levels());
}

/** Names that its answer depends on are looked up first, as they would be for a connection. */
async function explainFrom(
  query: URLSearchParams,
  enrolment: Enrolment,
  parts: ExplainParts,
  lookUp: AdminParts['lookUp'],
): Promise<Answer> {
  const [host, port] = [query.get('host') ?? '', Number(query.get('port'))];
  if (host === '' || !isPort(port)) return { status: 400, body: 'wanted: pod=NAMESPACE/NAME&host=HOST&port=PORT\n' };
  const pod = podOf(query, enrolment);
  if (pod === undefined) return unknownPod(query);
  const explain = () => explainOutbound(pod.record, pod.state, host, port, parts);
  const names = namesToLookUp(explain());
  await Promise.all(names.map(lookUp));
  return json(explain());
}

function explainTo(query: URLSearchParams, enrolment: Enrolment, parts: ExplainParts): Answer {
  const [ip, port] = [canonicalIp(query.get('ip') ?? ''), Number(query.get('port'))];
  const srcIp = canonicalIp(query.get('src') ?? '');
  if (ip === undefined || srcIp === undefined || !isPort(port)) {
    return { status: 400, body: 'wanted: pod=NAMESPACE/NAME&ip=IP&port=PORT&src=IP[&identity=SPIFFE][&authority=A]\n' };
  }
  const pod = podOf(query, enrolment);
  if (pod === undefined) return unknownPod(query);
  const identity = query.get('identity') ?? '';
  const connection = {
    transport: identity === '' ? ('plaintext' as const) : ('hbone' as const),
    ip,
    port,
    srcIp,
    identity,
    authority: query.get('authority') ?? '',
  };
  return json(explainInbound(pod.record, pod.state, connection, parts));
}

function podOf(query: URLSearchParams, enrolment: Enrolment) {
  const name = query.get('pod') ?? '';
  const record = enrolment.record(name);
  const state = enrolment.states().find((each) => `${each.namespace}/${each.name}` === name);
  return record === undefined || state === undefined ? undefined : { record, state };
}

function unknownPod(query: URLSearchParams): Answer {
  return { status: 404, body: `no pod ${query.get('pod')} on this node\n` };
}

function isPort(port: number): boolean {
  return Number.isInteger(port) && port > 0 && port < 65536;
}
