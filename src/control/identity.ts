import { createPublicKey, type KeyObject } from 'node:crypto';
import { readFileSync } from 'node:fs';
import type { GrpcServer } from '../grpc/server.js';
import type { KubeApi } from '../kube/api.js';
import type { Clock } from '../lib/clock.js';
import { type Logger, logger } from '../telemetry/log.js';
import type { MetricsRegistry } from '../telemetry/metrics.js';
import type { Authority } from './ca/authority.js';
import { caMetrics } from './ca/ca-metrics.js';
import { createCaService } from './ca/certificate-service.js';
import { openDirectoryCa } from './ca/directory-ca.js';
import { JwtVerifier } from './ca/jwt-verifier.js';
import { PodLookup } from './ca/pod-lookup.js';
import { openSecretCa } from './ca/secret-ca.js';
import { ServerCertificate } from './ca/server-certificate.js';
import { TokenReviewVerifier } from './ca/token-review-verifier.js';
import type { TokenVerifier } from './ca/token-verifier.js';
import type { ControlPlaneConfig } from './config.js';
import type { Leader } from './leader/leader.js';
import type { Mesh } from './mesh/mesh.js';

export interface IdentityParts {
  readonly kube: KubeApi | undefined;
  readonly leader: Leader;
  readonly mesh: Pick<Mesh, 'identitiesOfNode'>;
  /** Nobody is judged by an input that has not been read yet. */
  readonly loaded: Promise<void>;
  readonly clock: Clock;
  readonly metrics: MetricsRegistry;
}

export interface Identity {
  readonly authority: Authority;
  readonly verifier: TokenVerifier;
  /** Our own certificate, for every listener with TLS. */
  readonly certificate: ServerCertificate;
  /** Adds the certificate service. For TLS listeners only: callers send their tokens. */
  addTo(server: GrpcServer): void;
  close(): void;
}

/** Who callers are, what they get signed, and who we are to them. Rejects when there is no CA to be had. */
export async function buildIdentity(config: ControlPlaneConfig, parts: IdentityParts): Promise<Identity> {
  const { clock, metrics, loaded, mesh, kube } = parts;
  const log = logger('ca');
  const { trustDomain, rootNamespace } = config.mesh;
  const judge = tokenVerifier(config, parts, log);
  const verifier: TokenVerifier = { verify: (token) => loaded.then(() => judge.verify(token)) };
  const authority = await openAuthority(config, parts, log);
  try {
    const certificate = new ServerCertificate({ authority, dnsSans: serverNames(config), clock, log });
    const lookup = kube === undefined ? undefined : new PodLookup({ api: kube, clock, log, metrics });
    const service = createCaService({
      authority,
      verifier,
      rule: {
        trustDomain,
        nodeAccounts: new Set(NODE_ACCOUNTS.map((name) => `${rootNamespace}/${name}`)),
        identitiesOfNode: mesh.identitiesOfNode,
        ...(lookup === undefined ? {} : { lives: (node, identity) => lookup.lives(node, identity) }),
      },
      metrics: caMetrics(metrics, {
        root: () => seconds(authority.material.roots[0]?.notAfter),
        chain: () => seconds(authority.material.issuer.certificate.notAfter),
        now: () => clock.now() / 1000,
      }),
      log,
    });
    return {
      authority,
      verifier,
      certificate,
      addTo: service.addTo,
      close() {
        certificate.close();
        authority.close();
      },
    };
  } catch (error) {
    authority.close();
    throw error;
  }
}

function openAuthority(config: ControlPlaneConfig, parts: IdentityParts, log: Logger): Promise<Authority> {
  const { ca, mesh } = config;
  const { clock, kube, leader } = parts;
  const { trustDomain, rootNamespace: namespace } = mesh;
  const common = { trustDomain, defaultTtlSeconds: ca.workloadTtlSeconds, clock, log };
  if ('directory' in ca) return openDirectoryCa({ ...common, directory: ca.directory, cacerts: ca.cacerts });
  if (kube === undefined) throw new Error('a bug: the CA is in Secrets, and nobody has connected to the API server');
  return openSecretCa({ ...common, api: kube, namespace, isInCharge: () => leader.isLeader });
}

/** Tokens of issuers that the configuration names are verified here, all others by the API server. */
function tokenVerifier(config: ControlPlaneConfig, parts: IdentityParts, log: Logger): TokenVerifier {
  const { clock, kube, metrics } = parts;
  const { issuers, tokenReview } = config.auth;
  const { trustDomain } = config.mesh;
  const jwt = new JwtVerifier({
    issuers: issuers.map(({ issuer, audience, publicKey }) => ({
      issuer,
      audience,
      publicKey: readPublicKey(publicKey, issuer),
    })),
    trustDomain,
    clock,
  });
  if (tokenReview === undefined || kube === undefined) {
    if (issuers.length === 0) log.warn('auth has neither issuers nor tokenReview: no agent can prove who it is');
    return jwt;
  }
  const { audience } = tokenReview;
  const review = new TokenReviewVerifier({ api: kube, audience, trustDomain, clock, log, metrics });
  return { verify: (token) => (jwt.knowsIssuer(token) ? jwt : review).verify(token) };
}

/** What callers look for in our certificate: our own name, and the one that agents of Istio know. */
function serverNames({ revision, mesh }: ControlPlaneConfig): readonly string[] {
  const services = ['meltemi', 'istiod'].flatMap((name) => (revision === '' ? [name] : [`${name}-${revision}`, name]));
  return services.flatMap((service) => {
    const name = `${service}.${mesh.rootNamespace}.svc`;
    return [name, `${name}.${mesh.clusterDomain}`];
  });
}

function readPublicKey(path: string, issuer: string): KeyObject {
  try {
    return createPublicKey(readFileSync(path));
  } catch (error) {
    const why = error instanceof Error ? error.message : String(error);
    throw new Error(`the public key of issuer ${issuer} cannot be read from ${path}: ${why}`);
  }
}

function seconds(date: Date | undefined): number {
  return date === undefined ? 0 : date.getTime() / 1000;
}

/** Service accounts in the root namespace that may ask for the identities of their node's pods. */
const NODE_ACCOUNTS = ['meltemi-agent', 'ztunnel'];
