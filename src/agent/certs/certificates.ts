import { mayName } from '../../identity/crl.js';
import { BackOff } from '../../lib/back-off.js';
import type { Clock } from '../../lib/clock.js';
import type { Result } from '../../lib/result.js';
import type { Logger } from '../../telemetry/log.js';
import type { Dataplane, KeyHandle } from '../dataplane/dataplane.js';

/** What is signed for an identity. */
export interface SignedCertificate {
  /** DER, leaf first. */
  readonly chain: readonly Uint8Array[];
  readonly notBeforeMs: number;
  readonly notAfterMs: number;
  readonly serial: string;
}

/** Asks the authority for a certificate. Error: a sentence with the likely cause. Never throws. */
export interface CertificateSource {
  request(identity: string, csrPem: string): Promise<Result<SignedCertificate>>;
}

export interface CertificateParts {
  readonly dataplane: Pick<Dataplane, 'createKey' | 'sign' | 'installCertificate' | 'removeCertificate'>;
  readonly source: CertificateSource;
  /** Builds a request; the key stays where `sign` uses it. */
  readonly buildCsr: (input: {
    spiffeId: string;
    publicKeySpki: Uint8Array;
    sign: (bytes: Uint8Array) => Uint8Array;
  }) => string;
  readonly clock: Clock;
  readonly log: Logger;
  readonly random?: () => number;
  /** Requests under way at a time. */
  readonly concurrency?: number;
}

/** One identity as dumps and readiness see it. */
export interface CertificateState {
  readonly identity: string;
  readonly state: 'waiting' | 'requested' | 'installed' | 'failed';
  readonly notBeforeMs: number;
  readonly notAfterMs: number;
  readonly serial: string;
  /** Of the last try; empty when it went well. */
  readonly error: string;
  readonly pods: number;
}

/**
 * Keeps a valid certificate for the identity of each pod of this node: fetched when the first pod comes, renewed at
 * half of its life, forgotten with the last pod. A failed request is tried again later, and the certificate at hand
 * stays in use meanwhile.
 */
export class Certificates {
  readonly #identities = new Map<string, Identity>();
  #underWay = 0;

  constructor(readonly parts: CertificateParts) {}

  /** A pod needs this identity. */
  hold(identity: string, pod: string): void {
    const known = this.#identities.get(identity);
    if (known !== undefined) {
      known.pods.add(pod);
      return;
    }
    const fresh = new Identity(identity, new BackOff(BACK_OFF_BASE_MS, BACK_OFF_MAX_MS, this.parts.random));
    fresh.pods.add(pod);
    this.#identities.set(identity, fresh);
    this.#enqueue(fresh, Priority.warmup);
  }

  /** The pod is gone; with the last one the identity is forgotten. */
  release(identity: string, pod: string): void {
    const known = this.#identities.get(identity);
    if (known === undefined || !known.pods.delete(pod) || known.pods.size > 0) return;
    this.#identities.delete(identity);
    known.cancelTimer();
    known.priority = undefined;
    this.parts.dataplane.removeCertificate(identity);
  }

  /** Connections wait for these: they go first. A request that has just failed still waits out its pause. */
  want(identities: readonly string[]): void {
    for (const identity of identities) {
      const known = this.#identities.get(identity);
      if (known !== undefined && known.priority !== undefined) known.priority = Priority.realtime;
    }
    this.#pump();
  }

  /** Renews everything soon, for example when the roots have changed. */
  renewAll(): void {
    for (const identity of this.#identities.values()) this.#enqueue(identity, Priority.background);
  }

  /** Renews what is revoked, by lists in DER: a new key and serial, so that whoever has the old key has nothing. */
  renewRevoked(lists: readonly Buffer[]): void {
    for (const identity of this.#identities.values()) {
      const chain = identity.installed?.chain ?? [];
      if (!chain.some((certificate) => lists.some((list) => mayName(list, certificate)))) continue;
      this.parts.log.warn(
        { identity: identity.name, serial: identity.installed?.serial },
        'revoked; asking for another',
      );
      this.#enqueue(identity, Priority.realtime);
    }
  }

  /** Identities that have no valid certificate. */
  missing(): string[] {
    const now = this.parts.clock.now();
    return [...this.#identities.values()]
      .filter(({ installed }) => installed === undefined || installed.notAfterMs <= now)
      .map(({ name }) => name);
  }

  states(): CertificateState[] {
    return [...this.#identities.values()].map((identity) => ({
      identity: identity.name,
      state: identity.state,
      notBeforeMs: identity.installed?.notBeforeMs ?? 0,
      notAfterMs: identity.installed?.notAfterMs ?? 0,
      serial: identity.installed?.serial ?? '',
      error: identity.error,
      pods: identity.pods.size,
    }));
  }

  #enqueue(identity: Identity, priority: Priority): void {
    identity.cancelTimer();
    identity.priority = Math.max(identity.priority ?? priority, priority);
    this.#pump();
  }

  #pump(): void {
    while (this.#underWay < (this.parts.concurrency ?? DEFAULT_CONCURRENCY)) {
      const next = this.#next();
      if (next === undefined) return;
      next.priority = undefined;
      next.underWay = true;
      this.#underWay++;
      void this.#fetch(next);
    }
  }

  /** The most urgent identity that waits; of equals the one that came first. */
  #next(): Identity | undefined {
    let best: Identity | undefined;
    for (const identity of this.#identities.values()) {
      if (identity.priority === undefined || identity.underWay) continue;
      if (best?.priority === undefined || identity.priority > best.priority) best = identity;
    }
    return best;
  }

  async #fetch(identity: Identity): Promise<void> {
    const result = await this.#request(identity);
    identity.underWay = false;
    this.#underWay--;
    // The last pod may have left meanwhile, or left and come back under a new entry.
    if (this.#identities.get(identity.name) === identity) {
      if (result.ok) this.#installed(identity, result.value);
      else this.#failed(identity, result.error);
    }
    this.#pump();
  }

  async #request(identity: Identity): Promise<Result<Requested>> {
    const { name } = identity;
    const { dataplane, source, buildCsr, clock } = this.parts;
    try {
      // One key per certificate, also when it takes several tries to get it.
      identity.key ??= dataplane.createKey();
      const { keyId, publicKey } = identity.key;
      const sign = (bytes: Uint8Array): Uint8Array => {
        const signature = dataplane.sign(keyId, bytes);
        if (signature === undefined) throw new Error(`the engine does not know key ${keyId}`);
        return signature;
      };
      const signed = await source.request(name, buildCsr({ spiffeId: name, publicKeySpki: publicKey, sign }));
      if (!signed.ok) return signed;
      if (signed.value.notAfterMs <= clock.now()) {
        return { ok: false, error: `the certificate for ${name} has expired already: is a clock wrong?` };
      }
      return { ok: true, value: { keyId, certificate: signed.value } };
    } catch (error) {
      return { ok: false, error: `no certificate for ${name}: ${error instanceof Error ? error.message : error}` };
    }
  }

  #installed(identity: Identity, { keyId, certificate }: Requested): void {
    const { dataplane, log, clock } = this.parts;
    identity.key = undefined;
    const installed = dataplane.installCertificate({
      identity: identity.name,
      keyId,
      chain: [...certificate.chain],
    });
    if (!installed.ok) {
      this.#failed(identity, installed.error);
      return;
    }
    identity.installed = certificate;
    identity.error = '';
    identity.backOff.reset();
    const renewInMs = renewalDelayMs(certificate, clock.now(), this.parts.random ?? Math.random);
    log.info({ identity: identity.name, serial: certificate.serial, renewInMs }, 'certificate installed');
    this.#schedule(identity, renewInMs, Priority.background);
  }

  #failed(identity: Identity, error: string): void {
    const retryInMs = identity.backOff.next();
    identity.error = error;
    this.parts.log.warn({ identity: identity.name, error, retryInMs: Math.round(retryInMs) }, 'no certificate yet');
    this.#schedule(identity, retryInMs, identity.installed === undefined ? Priority.realtime : Priority.background);
  }

  #schedule(identity: Identity, delayMs: number, priority: Priority): void {
    identity.cancelTimer();
    if (identity.priority !== undefined) return;
    identity.cancelTimer = this.parts.clock.schedule(delayMs, () => this.#enqueue(identity, priority));
  }
}

/** Half of the life, less up to a twentieth, so that the pods of a node do not all come at once. */
function renewalDelayMs(certificate: SignedCertificate, now: number, random: () => number): number {
  const life = certificate.notAfterMs - certificate.notBeforeMs;
  const halfLife = certificate.notBeforeMs + life / 2 - (random() * life) / 20;
  return Math.max(MIN_RENEWAL_MS, Math.round(halfLife - now));
}

interface Requested {
  readonly keyId: number;
  readonly certificate: SignedCertificate;
}

enum Priority {
  background = 0,
  warmup = 1,
  realtime = 2,
}

class Identity {
  readonly pods = new Set<string>();
  /** Set while it waits for its turn. */
  priority: Priority | undefined;
  underWay = false;
  installed: SignedCertificate | undefined;
  /** Made for the request under way or to be tried again. */
  key: KeyHandle | undefined;
  error = '';
  cancelTimer: () => void = () => undefined;

  constructor(
    readonly name: string,
    readonly backOff: BackOff,
  ) {}

  get state(): CertificateState['state'] {
    if (this.installed !== undefined) return 'installed';
    if (this.underWay) return 'requested';
    return this.error === '' ? 'waiting' : 'failed';
  }
}

const BACK_OFF_BASE_MS = 500;
const BACK_OFF_MAX_MS = 150_000;
const MIN_RENEWAL_MS = 1000;
const DEFAULT_CONCURRENCY = 8;
