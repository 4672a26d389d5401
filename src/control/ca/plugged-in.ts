import { createPrivateKey, createPublicKey } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { type Certificate, chainsTo, parseCertificate } from '../../identity/certificate.js';
import { splitPem } from '../../identity/pem.js';
import type { Clock } from '../../lib/clock.js';
import { err, ok, type Result } from '../../lib/result.js';
import type { Logger } from '../../telemetry/log.js';
import type { MaterialSource, SigningMaterial } from './signing-material.js';

export interface PluggedInOptions {
  /** `ca-cert.pem`, `ca-key.pem`, `root-cert.pem` and, when there is anything between, `cert-chain.pem`. */
  readonly directory: string;
  readonly clock: Clock;
  readonly log: Logger;
  readonly reloadIntervalMs?: number;
}

/**
 * A CA that an operator provides as files, read again when they change. A set that is not complete or does not fit
 * together (as while it is being replaced) is reported, and the last good one stays in use.
 */
export class PluggedIn implements MaterialSource {
  readonly #options: PluggedInOptions;
  readonly #listeners = new Set<() => void>();
  #texts: string;
  #material: SigningMaterial;
  #lastError: string | undefined;
  #cancel: () => void = () => {};

  /** Throws when the files make no CA. */
  constructor(options: PluggedInOptions) {
    this.#options = options;
    const files = readFiles(options.directory);
    const material = readMaterial(files, options);
    if (!material.ok) throw new Error(`the CA in ${options.directory} cannot be used: ${material.error}`);
    this.#texts = JSON.stringify(files);
    this.#material = material.value;
    this.#scheduleReload();
  }

  get current(): SigningMaterial {
    return this.#material;
  }

  subscribe(listener: () => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  describe(): object {
    const { directory } = this.#options;
    return { kind: 'plugged-in', directory, ...(this.#lastError === undefined ? {} : { lastError: this.#lastError }) };
  }

  close(): void {
    this.#cancel();
  }

  #scheduleReload(): void {
    const { clock, reloadIntervalMs = DEFAULT_RELOAD_INTERVAL_MS } = this.#options;
    this.#cancel = clock.schedule(reloadIntervalMs, () => {
      this.#reload();
      this.#scheduleReload();
    });
  }

  #reload(): void {
    const { directory, log } = this.#options;
    const files = readFiles(directory);
    const texts = JSON.stringify(files);
    if (texts === this.#texts) return;
    const material = readMaterial(files, this.#options);
    if (!material.ok) {
      if (material.error !== this.#lastError)
        log.error({ directory, error: material.error }, 'the new CA is no good; the former one stays in use');
      this.#lastError = material.error;
      return;
    }
    this.#lastError = undefined;
    this.#texts = texts;
    this.#material = material.value;
    log.info({ directory, notAfter: material.value.issuer.certificate.notAfter }, 'the CA was replaced');
    for (const listener of this.#listeners) listener();
  }
}

interface Files {
  readonly certificate: string | undefined;
  readonly key: string | undefined;
  readonly chain: string | undefined;
  readonly roots: string | undefined;
}

function readFiles(directory: string): Files {
  return {
    certificate: textOf(directory, 'ca-cert.pem'),
    key: textOf(directory, 'ca-key.pem'),
    chain: textOf(directory, 'cert-chain.pem'),
    roots: textOf(directory, 'root-cert.pem'),
  };
}

function textOf(directory: string, name: string): string | undefined {
  try {
    return readFileSync(join(directory, name), 'utf8');
  } catch {
    return undefined;
  }
}

function readMaterial(files: Files, { clock }: PluggedInOptions): Result<SigningMaterial> {
  if (files.certificate === undefined) return err('ca-cert.pem cannot be read');
  if (files.key === undefined) return err('ca-key.pem cannot be read');
  if (files.roots === undefined) return err('root-cert.pem cannot be read');
  try {
    const [certificate] = certificatesOf(files.certificate);
    const roots = certificatesOf(files.roots);
    const privateKey = createPrivateKey(files.key);
    if (certificate === undefined) return err('ca-cert.pem holds no certificate');
    if (roots.length === 0) return err('root-cert.pem holds no certificate');
    if (!certificate.isCa) return err('the certificate in ca-cert.pem is not a CA');
    if (!certificate.publicKey.equals(createPublicKey(privateKey)))
      return err('ca-key.pem is not the key of ca-cert.pem');
    const above = certificatesOf(files.chain ?? '').filter(
      ({ fingerprint }) => fingerprint !== certificate.fingerprint,
    );
    const leading = roots.find((root) => chainsTo(certificate, above, [root], new Date(clock.now())));
    if (leading === undefined)
      return err('ca-cert.pem does not lead through cert-chain.pem to a root in root-cert.pem, now');
    const isRoot = ({ fingerprint }: Certificate): boolean => roots.some((root) => root.fingerprint === fingerprint);
    return ok({
      issuer: { certificate, privateKey },
      chain: [certificate, ...above].filter((each) => !isRoot(each)),
      roots: [leading, ...roots.filter((root) => root !== leading)],
    });
  } catch (error) {
    return err(error instanceof Error ? error.message : String(error));
  }
}

function certificatesOf(text: string): Certificate[] {
  return splitPem('CERTIFICATE', text).map((pem) => parseCertificate(pem));
}

const DEFAULT_RELOAD_INTERVAL_MS = 5_000;
