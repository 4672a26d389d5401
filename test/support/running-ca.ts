import { createPublicKey } from 'node:crypto';
import { readFileSync } from 'node:fs';
import type { Authority } from '../../src/control/ca/authority.js';
import { caMetrics } from '../../src/control/ca/ca-metrics.js';
import { authenticatedBy, createCaService } from '../../src/control/ca/certificate-service.js';
import { openDirectoryCa } from '../../src/control/ca/directory-ca.js';
import { JwtVerifier, type TrustedIssuer } from '../../src/control/ca/jwt-verifier.js';
import { caRoutes } from '../../src/control/ca/routes.js';
import { ServerCertificate } from '../../src/control/ca/server-certificate.js';
import type { LiveServerCredentials } from '../../src/grpc/credentials.js';
import type { Caller, GrpcServer } from '../../src/grpc/server.js';
import type { Clock } from '../../src/lib/clock.js';
import type { Route } from '../../src/lib/http-server.js';
import { logger } from '../../src/telemetry/log.js';
import type { MetricsRegistry } from '../../src/telemetry/metrics.js';

export interface CaOptions {
  readonly directory: string;
  readonly cacerts: string | undefined;
  readonly workloadTtlSeconds: number;
  readonly trustDomain: string;
  /** Namespace of the control plane and of the node agents. */
  readonly rootNamespace: string;
  /** Whose tokens are believed; `publicKey` is the path of a PEM file. */
  readonly issuers: readonly { readonly issuer: string; readonly audience: string; readonly publicKey: string }[];
  /** SPIFFE ids of the live pods of a node. */
  readonly identitiesOfNode: (node: string) => ReadonlySet<string>;
  readonly registry: MetricsRegistry;
  readonly clock: Clock;
}

export interface Ca {
  /** Adds the certificate service. For TLS listeners only. */
  addTo(server: GrpcServer): void;
  /** Of the TLS listener; they renew themselves. */
  readonly credentials: LiveServerCredentials;
  /** Lets in callers with a token that is believed, until it ends; rejects with the reason. */
  readonly authenticate: (caller: Caller) => Promise<{ readonly untilMs: number }>;
  /** For a local admin address. */
  readonly routes: ReadonlyMap<string, Route>;
  readonly authority: Authority;
  close(): void;
}

/** The certificate authority of a mesh, wired as the control plane wires it. */
export async function createCa(options: CaOptions): Promise<Ca> {
  const { directory, cacerts, trustDomain, rootNamespace, workloadTtlSeconds, clock, identitiesOfNode } = options;
  const log = logger('ca');
  const verifier = new JwtVerifier({ issuers: options.issuers.map(readIssuer), trustDomain, clock });
  const authority = await openDirectoryCa({
    directory,
    cacerts,
    trustDomain,
    defaultTtlSeconds: workloadTtlSeconds,
    clock,
    log,
  });
  const dnsSans = SERVICE_NAMES.map((name) => `${name}.${rootNamespace}.svc`);
  const certificate = new ServerCertificate({ authority, dnsSans, clock, log });
  const metrics = caMetrics(options.registry, {
    root: () => (authority.material.roots[0]?.notAfter.getTime() ?? 0) / 1000,
    chain: () => authority.material.issuer.certificate.notAfter.getTime() / 1000,
    now: () => clock.now() / 1000,
  });
  const nodeAccounts = new Set(NODE_ACCOUNTS.map((name) => `${rootNamespace}/${name}`));
  const rule = { trustDomain, nodeAccounts, identitiesOfNode };
  const service = createCaService({ authority, verifier, rule, metrics, log });
  return {
    addTo: service.addTo,
    credentials: certificate.credentials,
    authenticate: authenticatedBy(verifier),
    routes: caRoutes(authority),
    authority,
    close() {
      certificate.close();
      authority.close();
    },
  };
}

function readIssuer({ issuer, audience, publicKey }: CaOptions['issuers'][number]): TrustedIssuer {
  try {
    return { issuer, audience, publicKey: createPublicKey(readFileSync(publicKey)) };
  } catch (error) {
    throw new Error(`the public key ${publicKey} of issuer ${issuer} cannot be read: ${(error as Error).message}`);
  }
}

/** Under which names clients of this ecosystem look for the control plane. */
const SERVICE_NAMES = ['meltemi', 'istiod'];
const NODE_ACCOUNTS = ['meltemi-agent', 'ztunnel'];
