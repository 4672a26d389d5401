import type { KeyObject } from 'node:crypto';
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import type { Certificate } from '../../identity/certificate.js';
import { issueLeaf } from '../../identity/issue.js';
import { writeFileAtomically } from '../../lib/atomic-file.js';
import type { Clock } from '../../lib/clock.js';
import { err, ok, type Result } from '../../lib/result.js';
import type { Logger } from '../../telemetry/log.js';
import { Holders } from './holders.js';
import { PluggedIn } from './plugged-in.js';
import { BACK_DATE_MS, type CaState, type RotationPhase } from './rotation.js';
import { SelfSigned } from './self-signed.js';
import type { MaterialSource, SigningMaterial } from './signing-material.js';

export interface AuthorityOptions {
  /** Holds the state of a self-signed CA, and the trust bundle `root-cert.pem` of either kind. */
  readonly directory: string;
  /** Directory of a plugged-in CA; self-signed when undefined. */
  readonly cacerts?: string | undefined;
  readonly trustDomain: string;
  /** Life of a certificate when the request names none. */
  readonly defaultTtlSeconds: number;
  readonly clock: Clock;
  readonly log: Logger;
}

export interface IssueInput {
  readonly publicKey: KeyObject;
  readonly uriSans?: readonly string[];
  readonly dnsSans?: readonly string[];
  /** 0 means the default. */
  readonly ttlSeconds: number;
  /** Who will hold it: with its next certificate the former one counts as gone. */
  readonly holder: string;
}

export interface Issued {
  readonly certificate: Certificate;
  /** PEM: the leaf, each CA above it, and last the whole trust bundle in one text, as clients of this API expect. */
  readonly chain: readonly string[];
}

/** Signs for whoever was found worthy elsewhere, and keeps the trust bundle that goes with it. */
export class Authority {
  readonly #options: AuthorityOptions;
  readonly #source: MaterialSource;
  readonly #selfSigned: SelfSigned | undefined;
  readonly #holders = new Holders();
  readonly #startedAtMs: number;
  readonly #listeners = new Set<() => void>();
  #issuedCount = 0;
  #cancelPublish: () => void = () => {};

  /** Throws when the CA on disk cannot be used, and when the bundle cannot be written. */
  constructor(options: AuthorityOptions) {
    const { directory, cacerts, trustDomain, clock, log } = options;
    this.#options = options;
    this.#startedAtMs = clock.now();
    if (cacerts === undefined) {
      this.#selfSigned = new SelfSigned({
        directory,
        trustDomain,
        clock,
        log,
        inUseUntilMs: () => this.#inUseUntilMs(),
      });
    }
    this.#source = this.#selfSigned ?? new PluggedIn({ directory: cacerts ?? '', clock, log });
    mkdirSync(directory, { recursive: true });
    this.#writeBundle();
    this.#source.subscribe(() => {
      this.#publishBundle();
      for (const listener of this.#listeners) listener();
    });
  }

  /** The trust bundle, PEM of one or more roots. */
  get bundle(): string {
    return this.#source.current.roots.map(({ pem }) => pem).join('');
  }

  get material(): SigningMaterial {
    return this.#source.current;
  }

  /** Called after the issuer or the bundle has changed. Returns how to stop. */
  subscribe(listener: () => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  issue({ publicKey, uriSans = [], dnsSans = [], ttlSeconds, holder }: IssueInput): Result<Issued> {
    const { clock, defaultTtlSeconds } = this.#options;
    if (ttlSeconds < 0 || ttlSeconds > MAX_TTL_SECONDS) {
      return err(`a validity of ${ttlSeconds} s was asked for, not 0 to ${MAX_TTL_SECONDS} s`);
    }
    const nowMs = clock.now();
    const { issuer, chain, roots } = this.#source.current;
    const lastMs = issuer.certificate.notAfter.getTime();
    if (nowMs >= lastMs) return err(`the issuing CA ended at ${issuer.certificate.notAfter.toISOString()}`);
    const notAfterMs = Math.min(nowMs + (ttlSeconds || defaultTtlSeconds) * 1000, lastMs);
    const certificate = issueLeaf(issuer, {
      publicKey,
      uriSans,
      dnsSans,
      notBefore: new Date(nowMs - BACK_DATE_MS),
      notAfter: new Date(notAfterMs),
    });
    this.#record(holder, roots, notAfterMs, nowMs);
    return ok({ certificate, chain: [certificate.pem, ...chain.map(({ pem }) => pem), this.bundle] });
  }

  /** Replaces the intermediate at once. Error: a plugged-in CA has none of ours. */
  rotateIntermediate(): Result<undefined> {
    if (this.#selfSigned === undefined) return err(NOT_OURS);
    this.#selfSigned.rotateIntermediate();
    return ok(undefined);
  }

  /** See `rotation.ts` for the steps. Error: why not now. */
  rotateRoot(step: RotationPhase, evenIfInUse = false): Result<CaState['phase']> {
    return this.#selfSigned === undefined ? err(NOT_OURS) : this.#selfSigned.rotateRoot(step, evenIfInUse);
  }

  /** For status pages. */
  describe(): object {
    const { issuer, roots } = this.#source.current;
    const nowMs = this.#options.clock.now();
    return {
      ...this.#source.describe(),
      issuer: summary(issuer.certificate),
      roots: roots.map((root) => ({
        ...summary(root),
        knownHolders: this.#holders.under(root.fingerprint, nowMs).count,
      })),
      issued: this.#issuedCount,
    };
  }

  close(): void {
    this.#cancelPublish();
    this.#source.close();
  }

  #record(holder: string, roots: readonly Certificate[], notAfterMs: number, nowMs: number): void {
    const [signing, ...others] = roots;
    if (signing === undefined) return;
    this.#holders.record(holder, signing.fingerprint, notAfterMs);
    if (++this.#issuedCount % PRUNE_EVERY === 0) this.#holders.prune(nowMs);
    // Certificates made before this process began are unknown: only their end is known to be over.
    const isComplete = others.every((root) => this.#knowsAllUnder(root, nowMs));
    if (isComplete && others.every((root) => this.#holders.under(root.fingerprint, nowMs).count === 0)) {
      this.#selfSigned?.formerIsUnused();
    }
  }

  #knowsAllUnder(root: Certificate, nowMs: number): boolean {
    const isOurs = root.notBefore.getTime() + BACK_DATE_MS >= Math.floor(this.#startedAtMs / 1000) * 1000;
    return isOurs || nowMs >= this.#startedAtMs + this.#options.defaultTtlSeconds * 1000;
  }

  #inUseUntilMs(): number {
    const nowMs = this.#options.clock.now();
    const [root] = this.#source.current.roots;
    if (root === undefined) return 0;
    const { untilMs } = this.#holders.under(root.fingerprint, nowMs);
    return this.#knowsAllUnder(root, nowMs)
      ? untilMs
      : Math.max(untilMs, this.#startedAtMs + this.#options.defaultTtlSeconds * 1000);
  }

  #writeBundle(): void {
    writeFileAtomically(join(this.#options.directory, BUNDLE_FILE), this.bundle, 0o644);
  }

  /** A disk that is full now may not be so later; until then agents trust what they trusted. */
  #publishBundle(): void {
    const { clock, log } = this.#options;
    this.#cancelPublish();
    try {
      this.#writeBundle();
    } catch (error) {
      log.error({ error }, 'the trust bundle cannot be written; trying again');
      this.#cancelPublish = clock.schedule(PUBLISH_RETRY_MS, () => this.#publishBundle());
    }
  }
}

function summary({ fingerprint, notAfter }: Certificate): object {
  return { fingerprint, notAfter: notAfter.toISOString() };
}

const BUNDLE_FILE = 'root-cert.pem';
const NOT_OURS = 'the CA is plugged in: replace its files to rotate it';
/** 90 days. */
const MAX_TTL_SECONDS = 90 * 86_400;
const PUBLISH_RETRY_MS = 1_000;
const PRUNE_EVERY = 1024;
