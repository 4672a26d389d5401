import { generateKeyPairSync } from 'node:crypto';
import { once } from 'node:events';
import type { IncomingMessage } from 'node:http';
import { request } from 'node:https';
import type { WarningFacts } from '../../src/control/mesh/warnings.js';
import { serveWebhook, type WebhookLimits, type WebhookServer } from '../../src/control/validate/webhook-server.js';
import { LiveServerCredentials, type ServerIdentity } from '../../src/grpc/credentials.js';
import { type Issuer, issueLeaf, issueRoot } from '../../src/identity/issue.js';
import { logger } from '../../src/telemetry/log.js';
import { createRegistry, type MetricsRegistry } from '../../src/telemetry/metrics.js';

/** The control plane's webhook on its own, at `https://localhost:PORT`. */
export interface TestWebhook extends Disposable {
  readonly server: WebhookServer;
  /** PEM of what its certificates come from. */
  readonly root: string;
  readonly metrics: MetricsRegistry;
  /** A new certificate, from the same root. */
  renew(): void;
  /** What it answers to `body`, or to its JSON. */
  post(body: unknown, options?: { readonly path?: string; readonly method?: string }): Promise<Answered>;
}

export interface Answered {
  readonly status: number;
  readonly body: string;
  /** SHA-256 of the certificate that was shown. */
  readonly fingerprint: string;
}

export async function startWebhook(
  options: { readonly facts?: () => WarningFacts | undefined; readonly limits?: Partial<WebhookLimits> } = {},
): Promise<TestWebhook> {
  const { privateKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
  const issuer = { privateKey, certificate: issueRoot(privateKey, { ...validity(), ...ROOT }) };
  const credentials = new LiveServerCredentials(identity(issuer));
  const metrics = createRegistry();
  const server = await serveWebhook({
    port: 0,
    credentials,
    facts: options.facts ?? (() => undefined),
    log: logger('webhook'),
    metrics,
    ...(options.limits === undefined ? {} : { limits: options.limits }),
  });
  const root = issuer.certificate.pem;
  return {
    server,
    root,
    metrics,
    renew: () => credentials.replace(identity(issuer)),
    post: (body, { path = '/validate', method = 'POST' } = {}) => post(server.port, root, body, path, method),
    [Symbol.dispose]: () => server.close(),
  };
}

/** What the API server sends of an object that is created. */
export function reviewOf(object: unknown, request: Readonly<Record<string, unknown>> = {}): unknown {
  const { apiVersion = '', kind = '', metadata = {} } = (object ?? {}) as Record<string, never>;
  const [group, version] = String(apiVersion).includes('/') ? String(apiVersion).split('/') : ['', apiVersion];
  return {
    apiVersion: 'admission.k8s.io/v1',
    kind: 'AdmissionReview',
    request: {
      uid: '705ab4f5-6393-11e8-b7cc-42010a800002',
      kind: { group, version, kind },
      operation: 'CREATE',
      namespace: (metadata as { namespace?: string } | null)?.namespace ?? '',
      object,
      oldObject: null,
      ...request,
    },
  };
}

async function post(port: number, ca: string, body: unknown, path: string, method: string): Promise<Answered> {
  const sent = typeof body === 'string' || Buffer.isBuffer(body) ? body : JSON.stringify(body);
  const call = request({ port, host: '127.0.0.1', servername: 'localhost', path, method, ca, agent: false });
  // Whoever is turned away early need not have sent everything.
  call.on('error', () => {});
  call.end(sent);
  const [answer] = (await once(call, 'response')) as [IncomingMessage];
  const { fingerprint256 } = (answer.socket as import('node:tls').TLSSocket).getPeerCertificate();
  let text = '';
  for await (const chunk of answer.setEncoding('utf8')) text += chunk;
  return { status: answer.statusCode ?? 0, body: text, fingerprint: fingerprint256 };
}

function identity(issuer: Issuer): ServerIdentity {
  const keys = generateKeyPairSync('ec', { namedCurve: 'P-256' });
  return {
    certificateChain: issueLeaf(issuer, { publicKey: keys.publicKey, dnsSans: ['localhost'], ...validity() }).pem,
    privateKey: keys.privateKey.export({ format: 'pem', type: 'pkcs8' }).toString(),
  };
}

function validity() {
  return { notBefore: new Date(Date.now() - 60_000), notAfter: new Date(Date.now() + 3_600_000) };
}

const ROOT = { commonName: 'root', organization: 'test' };
