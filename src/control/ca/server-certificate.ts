import { generateKeyPairSync } from 'node:crypto';
import { LiveServerCredentials, type ServerIdentity } from '../../grpc/credentials.js';
import { BackOff } from '../../lib/back-off.js';
import type { Clock } from '../../lib/clock.js';
import type { Logger } from '../../telemetry/log.js';
import type { Authority } from './authority.js';

export interface ServerCertificateOptions {
  readonly authority: Authority;
  /** Names that clients look for. */
  readonly dnsSans: readonly string[];
  readonly clock: Clock;
  readonly log: Logger;
}

/**
 * The control plane's own certificate: a fresh key each time, replaced at half of its life and whenever the CA
 * changes, without cutting a connection.
 */
export class ServerCertificate {
  readonly credentials: LiveServerCredentials;
  readonly #options: ServerCertificateOptions;
  readonly #unsubscribe: () => void;
  readonly #backOff = new BackOff(RETRY_BASE_MS, RETRY_MAX_MS);
  #cancel: () => void = () => {};

  /** Throws when the CA cannot sign now. */
  constructor(options: ServerCertificateOptions) {
    this.#options = options;
    this.credentials = new LiveServerCredentials(this.#make());
    this.#unsubscribe = options.authority.subscribe((change) => {
      if (change === 'material') this.#renew();
    });
  }

  close(): void {
    this.#cancel();
    this.#unsubscribe();
  }

  #renew(): void {
    const { clock, log } = this.#options;
    this.#cancel();
    try {
      this.credentials.replace(this.#make());
      this.#backOff.reset();
    } catch (error) {
      log.error({ error }, 'the control plane’s own certificate could not be renewed; the former one stays in use');
      this.#cancel = clock.schedule(this.#backOff.next(), () => this.#renew());
    }
  }

  #make(): ServerIdentity {
    const { authority, dnsSans, clock, log } = this.#options;
    const keys = generateKeyPairSync('ec', { namedCurve: 'P-256' });
    const issued = authority.issue({ publicKey: keys.publicKey, dnsSans, ttlSeconds: 0, holder: 'control plane' });
    if (!issued.ok) throw new Error(issued.error);
    const { certificate, chain } = issued.value;
    this.#cancel = clock.schedule((certificate.notAfter.getTime() - clock.now()) / 2, () => this.#renew());
    log.info({ serial: certificate.serial, notAfter: certificate.notAfter, dnsSans }, 'own certificate issued');
    return {
      // Without the last element, the bundle: clients have it.
      certificateChain: chain.slice(0, -1).join(''),
      privateKey: keys.privateKey.export({ format: 'pem', type: 'pkcs8' }).toString(),
    };
  }
}

const RETRY_BASE_MS = 1_000;
const RETRY_MAX_MS = 60_000;
