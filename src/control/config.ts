import { readFileSync } from 'node:fs';
import { isIP } from 'node:net';
import type { InClusterOptions } from '../kube/in-cluster.js';
import { readApiServer } from '../kube/settings.js';
import { ConfigReader } from '../lib/config-reader.js';
import { parseHostPort } from '../lib/ip.js';
import { err, ok, type Result } from '../lib/result.js';
import { parseYaml } from '../lib/yaml.js';
import { isLogLevel, type LogLevel } from '../telemetry/log.js';
import type { MeshOptions } from './mesh/mesh-options.js';

/** The control plane's configuration, parsed once. All paths are as written. */
export interface ControlPlaneConfig {
  readonly source: SourceConfig;
  /** Where the API server is, for whatever needs it. */
  readonly kubernetes: InClusterOptions;
  readonly mesh: MeshOptions;
  /** Tells control planes side by side from each other; empty for the only one. */
  readonly revision: string;
  /** Whether one of several control planes is to be elected to write. */
  readonly leaderElection: boolean;
  readonly listen: {
    readonly tls: Listener;
    /** Off when undefined. */
    readonly plaintext: Listener | undefined;
  };
  readonly admin: {
    /** Path of a Unix socket; off when undefined. */
    readonly socket: string | undefined;
    /** Where HTTP is served, on all addresses; 0 serves nowhere. */
    readonly port: number;
  };
  readonly ca: CaConfig & { readonly workloadTtlSeconds: number };
  readonly auth: {
    readonly issuers: readonly Issuer[];
    /** Tokens of service accounts, judged by the API server; off when undefined. */
    readonly tokenReview: { readonly audience: string } | undefined;
  };
  readonly webhook: {
    /** Where the API server asks whether an object is good, on all addresses; 0 serves nowhere. */
    readonly port: number;
    /** What is to become of objects while no replica answers, once the webhook is known to be reached. */
    readonly failurePolicy: 'Fail' | 'Ignore';
  };
  readonly logLevel: LogLevel;
}

/** Where the CA is kept. */
export type CaConfig =
  | {
      /** Where the self-signed root, the intermediates and the bundle are kept. */
      readonly directory: string;
      /** A plugged-in CA (ca-cert.pem, ca-key.pem, cert-chain.pem, root-cert.pem); self-signed when undefined. */
      readonly cacerts: string | undefined;
    }
  /** In Secrets of the root namespace, shared by all control planes. */
  | { readonly secret: true };

/** What the mesh is derived from: a directory of manifests, or the API server. */
export type SourceConfig = { readonly directory: string } | { readonly kubernetes: true };

export interface Listener {
  readonly ip: string;
  readonly port: number;
}

/** Whose tokens are believed. */
export interface Issuer {
  readonly issuer: string;
  readonly audience: string;
  /** Path of a PEM public key. */
  readonly publicKey: string;
}

/** Error: every mistake of the file, one a line. */
export function readConfig(path: string): Result<ControlPlaneConfig> {
  let text: string;
  try {
    text = readFileSync(path, 'utf8');
  } catch (error) {
    return err(`configuration ${path} cannot be read: ${error instanceof Error ? error.message : String(error)}`);
  }
  const parsed = parseConfig(text);
  return parsed.ok ? parsed : err(`configuration ${path}:\n${parsed.error.map((each) => `  ${each}`).join('\n')}`);
}

export function parseConfig(text: string): Result<ControlPlaneConfig, readonly string[]> {
  const yaml = parseYaml(text);
  if (!yaml.ok) return yaml;
  const root = new ConfigReader(yaml.value ?? {});
  const [source, listen, admin] = [root.object('source'), root.object('listen'), root.object('admin')];
  const [ca, auth, webhook] = [root.object('ca'), root.object('auth'), root.object('webhook')];
  const config: ControlPlaneConfig = {
    source: readSource(source),
    kubernetes: readApiServer(root),
    mesh: {
      cluster: root.text('cluster', 'Kubernetes'),
      network: root.text('network', ''),
      trustDomain: root.text('trustDomain', 'cluster.local'),
      clusterDomain: root.text('clusterDomain', 'cluster.local'),
      rootNamespace: root.text('rootNamespace', 'istio-system'),
    },
    listen: {
      tls: readListener(listen, 'tls', '0.0.0.0:15012') ?? { ip: '0.0.0.0', port: 15012 },
      plaintext: readListener(listen, 'plaintext', ''),
    },
    admin: { socket: admin.text('socket', '') || undefined, port: admin.port('port', 15014) },
    revision: readRevision(root),
    leaderElection: root.flag('leaderElection', true),
    ca: {
      ...readCa(ca),
      workloadTtlSeconds: ca.number('workloadTtlSeconds', 86_400, 1, MAX_TTL_SECONDS),
    },
    auth: { issuers: auth.objects('issuers').map(readIssuer), tokenReview: readTokenReview(auth) },
    webhook: { port: webhook.port('port', 0), failurePolicy: readFailurePolicy(webhook) },
    logLevel: readLogLevel(root),
  };
  for (const reader of [source, listen, admin, ca, auth, webhook, root]) reader.end();
  return root.problems.length > 0 ? err(root.problems) : ok(config);
}

/** Whether any part of the control plane talks to the API server. */
export function needsApiServer({ source, ca, auth }: ControlPlaneConfig): boolean {
  return 'kubernetes' in source || 'secret' in ca || auth.tokenReview !== undefined;
}

function readSource(reader: ConfigReader): SourceConfig {
  const directory = reader.text('directory', '');
  const kubernetes = reader.flag('kubernetes', false);
  if (kubernetes === (directory !== '')) {
    reader.problems.push(
      kubernetes
        ? 'source has both a directory and kubernetes: true; only one is the truth'
        : 'source.directory is missing (or say kubernetes: true)',
    );
  }
  return kubernetes ? { kubernetes } : { directory };
}

function readCa(reader: ConfigReader): CaConfig {
  const [directory, cacerts] = [reader.text('directory', ''), reader.text('cacerts', '')];
  const secret = reader.flag('secret', false);
  if (secret && directory !== '') {
    reader.problems.push('ca has both a directory and secret: true; it is kept in one place');
  } else if (secret && cacerts !== '') {
    reader.problems.push('ca.cacerts is a folder; with secret: true put its files into the Secret cacerts');
  } else if (!secret && directory === '') {
    reader.problems.push('ca.directory is missing (or say secret: true)');
  }
  return secret ? { secret } : { directory, cacerts: cacerts || undefined };
}

function readTokenReview(auth: ConfigReader): { readonly audience: string } | undefined {
  if (!auth.names().includes('tokenReview')) return undefined;
  const reader = auth.object('tokenReview');
  const audience = reader.text('audience', 'istio-ca');
  reader.end();
  return { audience };
}

function readRevision(root: ConfigReader): string {
  const revision = root.text('revision', '');
  if (!REVISION.test(revision)) {
    root.problems.push(`revision is ${JSON.stringify(revision)}, not lower-case letters, digits and dashes, up to 40`);
  }
  return revision;
}

function readFailurePolicy(reader: ConfigReader): 'Fail' | 'Ignore' {
  const text = reader.text('failurePolicy', 'Fail');
  if (text !== 'Fail' && text !== 'Ignore')
    reader.problems.push(`webhook.failurePolicy is "${text}", neither Fail nor Ignore`);
  return text === 'Ignore' ? text : 'Fail';
}

function readIssuer(reader: ConfigReader): Issuer {
  const issuer = {
    issuer: reader.text('issuer'),
    audience: reader.text('audience', 'istio-ca'),
    publicKey: reader.text('publicKey'),
  };
  reader.end();
  return issuer;
}

/** `IP:port`; port 0 lets the system choose. Undefined when empty. */
function readListener(reader: ConfigReader, name: string, fallback: string): Listener | undefined {
  const text = reader.text(name, fallback);
  if (text === '') return undefined;
  const anyPort = /^\[?([^\]]*)\]?:0$/.exec(text)?.[1];
  const parsed = anyPort === undefined ? parseHostPort(text) : { host: anyPort, port: 0 };
  if (parsed !== undefined && isIP(parsed.host) !== 0) return { ip: parsed.host, port: parsed.port };
  reader.problems.push(`listen.${name} is ${JSON.stringify(text)}, not IP:port like 0.0.0.0:15012`);
  return undefined;
}

function readLogLevel(reader: ConfigReader): LogLevel {
  const text = reader.text('logLevel', 'info');
  if (isLogLevel(text)) return text;
  reader.problems.push(`logLevel is ${JSON.stringify(text)}, which is no log level`);
  return 'info';
}

/** It is part of names of objects. */
const REVISION = /^(?:[a-z0-9](?:[a-z0-9-]{0,38}[a-z0-9])?)?$/;
/** 90 days. */
const MAX_TTL_SECONDS = 90 * 86_400;
