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
  /** Holds the state of a self-signed CA, and `root-cert.pem` (trust bundle) and `ca-crl.pem` (revoked) of either. */
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
  #bundle: string;
  #issuedCount = 0;
  #cancelPublish: () => void = () => {};

  /** Throws when the CA on disk cannot be used, and when the bundle cannot be written. */
  constructor(options: AuthorityOptions) {
    const { directory, cacerts, trustDomain, clock, log } = options;
    this.#options = options;
    this.#startedAtMs = clock.now();
    let isWritten = false;
    const listsChanged = (): void => {
      if (isWritten) this.#publish();
    };
    if (cacerts === undefined) {
      this.#selfSigned = new SelfSigned({
        directory,
        trustDomain,
        clock,
        log,
        inUseUntilMs: () => this.#inUseUntilMs(),
        listsChanged,
      });
    }
    this.#source = this.#selfSigned ?? new PluggedIn({ directory: cacerts ?? '', clock, log, listsChanged });
    this.#bundle = bundleOf(this.#source.current);
    mkdirSync(directory, { recursive: true });
    this.#write();
    isWritten = true;
    this.#source.subscribe(() => {
      this.#bundle = bundleOf(this.#source.current);
      this.#publish();
      for (const listener of this.#listeners) listener();
    });
  }

  /** The trust bundle, PEM of one or more roots. */
  get bundle(): string {
    return this.#bundle;
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
    const { issuer, chain } = this.#source.current;
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
    this.#record(holder, notAfterMs, nowMs);
    return ok({ certificate, chain: [certificate.pem, ...chain.map(({ pem }) => pem), this.bundle] });
  }

  /** Replaces the intermediate at once. Error: a plugged-in CA has none of ours. */
  rotateIntermediate(): Result<undefined> {
    if (this.#selfSigned === undefined) return err(NOT_OURS);
    this.#selfSigned.rotateIntermediate();
    return ok(undefined);
  }

  /**
   * No peer trusts the certificate with this serial (hex) as soon as agents have read `ca-crl.pem`. Error: why that is
   * not possible.
   */
  revoke(serial: string): Result<undefined> {
    return this.#selfSigned === undefined ? err(LISTS_NOT_OURS) : this.#selfSigned.revoke(serial);
  }

  /** See `rotation.ts` for the steps. Error: why not now. */
  rotateRoot(step: RotationPhase, evenIfUnseen = false): Result<CaState['phase']> {
    return this.#selfSigned === undefined ? err(NOT_OURS) : this.#selfSigned.rotateRoot(step, evenIfUnseen);
  }

  /** For status pages. */
  describe(): object {
    const { issuer, roots } = this.#source.current;
    const nowMs = this.#options.clock.now();
    return {
      ...this.#source.describe(),
      issuer: summary(issuer.certificate),
      roots: roots.map(summary),
      holders: this.#holders.count(nowMs),
      holdersWithFormerBundle: this.#holders.without(this.bundle, nowMs).count,
      issued: this.#issuedCount,
    };
  }

  close(): void {
    this.#cancelPublish();
    this.#source.close();
  }

  #record(holder: string, notAfterMs: number, nowMs: number): void {
    this.#holders.record(holder, this.bundle, notAfterMs);
    if (++this.#issuedCount % PRUNE_EVERY === 0) this.#holders.prune(nowMs);
    if (this.#selfSigned?.isWaiting !== true || !this.#knowsAll(nowMs)) return;
    if (this.#holders.without(this.bundle, nowMs).count === 0) this.#selfSigned.stepWasSeen();
  }

  /** Whether every valid certificate is known: it was made since this process began. */
  #knowsAll(nowMs: number): boolean {
    const madeHere = this.#source.current.roots.every(
      (root) => root.notBefore.getTime() + BACK_DATE_MS >= Math.floor(this.#startedAtMs / 1000) * 1000,
    );
    return madeHere || nowMs >= this.#startedAtMs + this.#options.defaultTtlSeconds * 1000;
  }

  #inUseUntilMs(): number {
    const nowMs = this.#options.clock.now();
    const { untilMs } = this.#holders.without('', nowMs);
    return this.#knowsAll(nowMs)
      ? untilMs
      : Math.max(untilMs, this.#startedAtMs + this.#options.defaultTtlSeconds * 1000);
  }

  #write(): void {
    const { directory } = this.#options;
    writeFileAtomically(join(directory, LISTS_FILE), this.#source.revocationLists, 0o644);
    writeFileAtomically(join(directory, BUNDLE_FILE), this.bundle, 0o644);
  }

  /** A disk that is full now may not be so later; until then agents trust what they trusted. */
  #publish(): void {
    const { clock, log } = this.#options;
    this.#cancelPublish();
    try {
      this.#write();
    } catch (error) {
      log.error({ error }, 'the trust bundle or the revocation lists cannot be written; trying again');
      this.#cancelPublish = clock.schedule(PUBLISH_RETRY_MS, () => this.#publish());
    }
  }
}

function bundleOf({ roots }: SigningMaterial): string {
  return roots.map(({ pem }) => pem).join('');
}

function summary({ fingerprint, notAfter }: Certificate): object {
  return { fingerprint, notAfter: notAfter.toISOString() };
}

const BUNDLE_FILE = 'root-cert.pem';
const LISTS_FILE = 'ca-crl.pem';
const NOT_OURS = 'the CA is plugged in: replace its files to rotate it';
const LISTS_NOT_OURS = 'the CA is plugged in: put its revocation lists into ca-crl.pem beside its files';
/** 90 days. */
const MAX_TTL_SECONDS = 90 * 86_400;
const PUBLISH_RETRY_MS = 1_000;
const PRUNE_EVERY = 1024;
