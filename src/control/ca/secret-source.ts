import { type Certificate, parseCertificate } from '../../identity/certificate.js';
import { splitPem } from '../../identity/pem.js';
import type { KubeApi } from '../../kube/api.js';
import type { Clock } from '../../lib/clock.js';
import type { Result } from '../../lib/result.js';
import type { Logger } from '../../telemetry/log.js';
import { CA_FILES, type CaFiles } from './ca-files.js';
import type { Holders } from './holders.js';
import { PluggedIn } from './plugged-in.js';
import { listsIn } from './revocations.js';
import type { CaState, RotationPhase } from './rotation.js';
import { caFilesOf, SelfSigned } from './self-signed.js';
import type { MaterialSource, SigningMaterial, SourceChange } from './signing-material.js';
import { WatchedSecret } from './watched-secret.js';

export interface SecretSourceOptions {
  readonly api: KubeApi;
  readonly namespace: string;
  readonly trustDomain: string;
  readonly holders: Holders;
  /** Whether what is due by time is for this process to do. */
  readonly isInCharge: () => boolean;
  readonly clock: Clock;
  readonly log: Logger;
}

/**
 * The CA of all control planes of a mesh, in Secrets of its namespace: `cacerts` when an operator has put one there,
 * else one of its own in `istio-ca-secret`, made by whoever comes first. When `cacerts` appears later it signs from then
 * on, and what was signed before stays trusted until the operator removes `istio-ca-secret`.
 */
export class SecretSource implements MaterialSource {
  readonly #options: SecretSourceOptions;
  readonly #cacerts: WatchedSecret;
  readonly #own: WatchedSecret;
  readonly #revocations: WatchedSecret;
  readonly #listeners = new Set<(change: SourceChange) => void>();
  #active!: SelfSigned | PluggedIn;
  #material!: SigningMaterial;
  #lastError: string | undefined;
  #closed = false;

  private constructor(options: SecretSourceOptions) {
    this.#options = options;
    const follow = (name: string): WatchedSecret => new WatchedSecret({ ...options, name });
    this.#cacerts = follow('cacerts');
    this.#own = follow('istio-ca-secret');
    this.#revocations = follow('meltemi-ca-revocations');
  }

  /**
   * Waits until the API server has said what there is. Rejects when that cannot be used: others may go by an earlier
   * version of it, and with another root in its place half of the mesh would not trust the other.
   */
  static async open(options: SecretSourceOptions): Promise<SecretSource> {
    const source = new SecretSource(options);
    try {
      await source.#open();
      return source;
    } catch (error) {
      source.close();
      throw error;
    }
  }

  get current(): SigningMaterial {
    return this.#material;
  }

  get revocationLists(): string {
    return this.#active.revocationLists + this.#formerLists();
  }

  get isWaiting(): boolean {
    return this.#active.isWaiting;
  }

  subscribe(listener: (change: SourceChange) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  stepWasSeen(): void {
    this.#active.stepWasSeen();
  }

  rotateIntermediate(): Promise<Result<undefined>> {
    return this.#active.rotateIntermediate();
  }

  rotateRoot(step: RotationPhase, evenIfUnseen: boolean): Promise<Result<CaState['phase']>> {
    return this.#active.rotateRoot(step, evenIfUnseen);
  }

  revoke(serial: string): Promise<Result<undefined>> {
    return this.#active.revoke(serial);
  }

  describe(): object {
    const former = this.#formerRoots().length;
    return {
      ...this.#active.describe(),
      ...(former === 0 ? {} : { rootsOfFormerCa: former }),
      ...(this.#lastError === undefined ? {} : { lastError: this.#lastError }),
    };
  }

  close(): void {
    this.#closed = true;
    this.#active?.close();
    for (const each of [this.#cacerts, this.#own, this.#revocations]) each.close();
  }

  async #open(): Promise<void> {
    await Promise.all([this.#cacerts, this.#own, this.#revocations].map(({ synced }) => synced));
    this.#use(this.#cacerts.data === undefined ? await this.#openSelfSigned() : this.#openPluggedIn());
    this.#cacerts.subscribe(() => this.#plugIn());
    // It may have come while the other was made.
    this.#plugIn();
    for (const each of [this.#own, this.#revocations]) {
      each.subscribe(() => {
        if (this.#active instanceof PluggedIn) this.#changed('material');
      });
    }
  }

  #openSelfSigned(): Promise<SelfSigned> {
    const { trustDomain, holders, isInCharge, clock, log } = this.#options;
    return SelfSigned.open({
      state: this.#own.document('meltemi-ca.json', 'istio.io/ca-root', caFilesOf),
      revocations: this.#revocations.document('revocations.json'),
      trustDomain,
      holders,
      isInCharge,
      putsBack: () => !this.#closed && !(this.#active instanceof PluggedIn),
      maxRevoked: MAX_REVOKED,
      clock,
      log,
    });
  }

  #openPluggedIn(): PluggedIn {
    const { clock, log } = this.#options;
    return new PluggedIn({ files: filesOf(this.#cacerts), clock, log });
  }

  /** Lets `cacerts` sign, if it can and something else did until now. */
  #plugIn(): void {
    if (this.#active instanceof PluggedIn || this.#cacerts.data === undefined || this.#closed) return;
    const { log } = this.#options;
    try {
      const plugged = this.#openPluggedIn();
      this.#active.close();
      this.#lastError = undefined;
      log.warn('the CA in cacerts signs from now on; remove istio-ca-secret to end the trust in the former root');
      this.#use(plugged);
      this.#changed('material');
    } catch (error) {
      this.#lastError = error instanceof Error ? error.message : String(error);
      log.error({ error: this.#lastError }, 'the new CA is no good; the former one stays in use');
    }
  }

  #use(active: SelfSigned | PluggedIn): void {
    this.#active = active;
    this.#material = this.#withFormerRoots(active.current);
    active.subscribe((change) => this.#changed(change));
  }

  #changed(change: SourceChange): void {
    this.#material = this.#withFormerRoots(this.#active.current);
    for (const listener of this.#listeners) listener(change);
  }

  #withFormerRoots(material: SigningMaterial): SigningMaterial {
    const former = this.#formerRoots().filter((each) =>
      material.roots.every(({ fingerprint }) => fingerprint !== each.fingerprint),
    );
    return former.length === 0 ? material : { ...material, roots: [...material.roots, ...former] };
  }

  /** Of our own CA, while another signs: what it has signed before is in use for some time. */
  #formerRoots(): readonly Certificate[] {
    if (!(this.#active instanceof PluggedIn)) return [];
    try {
      const { 'root-cert.pem': bundle, 'ca-cert.pem': root } = this.#own.data ?? {};
      return splitPem('CERTIFICATE', bundle ?? root ?? '').map((pem) => parseCertificate(pem));
    } catch {
      return [];
    }
  }

  #formerLists(): string {
    if (!(this.#active instanceof PluggedIn) || this.#own.data === undefined) return '';
    return listsIn(this.#revocations.data?.['revocations.json'] ?? '');
  }
}

/** `cacerts` under the names of Istio, or as a TLS Secret that a certificate manager keeps. */
function filesOf(secret: WatchedSecret): CaFiles {
  return {
    where: secret.where,
    read() {
      const data = secret.data ?? {};
      const { 'tls.crt': chain, 'tls.key': key, 'ca.crt': roots } = data;
      const files =
        data['ca-cert.pem'] === undefined && chain !== undefined
          ? {
              'ca-cert.pem': chain,
              'cert-chain.pem': chain,
              ...(key === undefined ? {} : { 'ca-key.pem': key }),
              ...(roots === undefined ? {} : { 'root-cert.pem': roots }),
              ...(data['ca-crl.pem'] === undefined ? {} : { 'ca-crl.pem': data['ca-crl.pem'] }),
            }
          : data;
      return Object.fromEntries(CA_FILES.flatMap((name) => (files[name] === undefined ? [] : [[name, files[name]]])));
    },
    subscribe: (listener) => secret.subscribe(listener),
  };
}

/** So that lists by several issuers fit into one Secret, 1 MiB. */
const MAX_REVOKED = 2_000;
