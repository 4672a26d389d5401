import type { KeyObject } from 'node:crypto';
import type { Certificate } from '../../identity/certificate.js';
import { issueLeaf } from '../../identity/issue.js';
import type { Clock } from '../../lib/clock.js';
import { err, ok, type Result } from '../../lib/result.js';
import type { Logger } from '../../telemetry/log.js';
import type { Holders } from './holders.js';
import { BACK_DATE_MS, type CaState, type RotationPhase } from './rotation.js';
import type { MaterialSource, SigningMaterial, SourceChange } from './signing-material.js';

export interface AuthorityOptions {
  readonly source: MaterialSource;
  readonly holders: Holders;
  /** Life of a certificate when the request names none. */
  readonly defaultTtlSeconds: number;
  /** Called at once and after each change, again and again while it throws. */
  readonly publish?: (bundle: string, revocationLists: string) => void;
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
  readonly #listeners = new Set<(change: SourceChange) => void>();
  #bundle: string;
  #issuedCount = 0;
  #cancelPublish: () => void = () => {};

  /** Throws when what is to be published cannot be. */
  constructor(options: AuthorityOptions) {
    this.#options = options;
    const { source, publish } = options;
    this.#bundle = bundleOf(source.current);
    publish?.(this.#bundle, source.revocationLists);
    source.subscribe((change) => {
      if (change === 'material') this.#bundle = bundleOf(source.current);
      this.#publish();
      for (const listener of this.#listeners) listener(change);
    });
  }

  /** The trust bundle, PEM of one or more roots. */
  get bundle(): string {
    return this.#bundle;
  }

  /** PEM of the lists of what is revoked, at most one by each issuer; empty when nothing is. */
  get revocationLists(): string {
    return this.#options.source.revocationLists;
  }

  get material(): SigningMaterial {
    return this.#options.source.current;
  }

  /** Called after the issuer or the bundle (`material`) or the revocation lists have changed. Returns how to stop. */
  subscribe(listener: (change: SourceChange) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  issue({ publicKey, uriSans = [], dnsSans = [], ttlSeconds, holder }: IssueInput): Result<Issued> {
    const { clock, defaultTtlSeconds, source } = this.#options;
    if (ttlSeconds < 0 || ttlSeconds > MAX_TTL_SECONDS) {
      return err(`a validity of ${ttlSeconds} s was asked for, not 0 to ${MAX_TTL_SECONDS} s`);
    }
    const nowMs = clock.now();
    const { issuer, chain } = source.current;
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
    this.#record(holder, notAfterMs);
    return ok({ certificate, chain: [certificate.pem, ...chain.map(({ pem }) => pem), this.bundle] });
  }

  /** Replaces the intermediate at once. Error: a plugged-in CA has none of ours. */
  rotateIntermediate(): Promise<Result<undefined>> {
    return this.#kept(this.#options.source.rotateIntermediate());
  }

  /**
   * No peer trusts the certificate with this serial (hex) as soon as agents have read the lists. Error: why that is not
   * possible.
   */
  revoke(serial: string): Promise<Result<undefined>> {
    return this.#kept(this.#options.source.revoke(serial));
  }

  /** See `rotation.ts` for the steps. Error: why not now. */
  rotateRoot(step: RotationPhase, evenIfUnseen = false): Promise<Result<CaState['phase']>> {
    return this.#kept(this.#options.source.rotateRoot(step, evenIfUnseen));
  }

  /** For status pages. */
  describe(): object {
    const { source, holders } = this.#options;
    const { issuer, roots } = source.current;
    return {
      ...source.describe(),
      issuer: summary(issuer.certificate),
      roots: roots.map(summary),
      holders: holders.count,
      holdersWithFormerBundle: holders.without(this.bundle).count,
      issued: this.#issuedCount,
    };
  }

  close(): void {
    this.#cancelPublish();
    this.#options.source.close();
  }

  /** What cannot be kept has not happened. */
  async #kept<T>(change: Promise<Result<T>>): Promise<Result<T>> {
    try {
      return await change;
    } catch (error) {
      this.#options.log.error({ error }, 'a change to the CA cannot be kept');
      return err(`this cannot be kept: ${error instanceof Error ? error.message : error}`);
    }
  }

  #record(holder: string, notAfterMs: number): void {
    const { holders, source } = this.#options;
    this.#issuedCount++;
    holders.record(holder, this.bundle, notAfterMs);
    if (!source.isWaiting || !holders.knowsAll(source.current.roots)) return;
    if (holders.without(this.bundle).count === 0) source.stepWasSeen();
  }

  /** A disk that is full now may not be so later; until then agents trust what they trusted. */
  #publish(): void {
    const { clock, log, publish, source } = this.#options;
    this.#cancelPublish();
    try {
      publish?.(this.bundle, source.revocationLists);
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

/** 90 days. */
const MAX_TTL_SECONDS = 90 * 86_400;
const PUBLISH_RETRY_MS = 1_000;
