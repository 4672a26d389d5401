import { createPrivateKey, createPublicKey } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { type Certificate, chainsTo, parseCertificate } from '../../identity/certificate.js';
import { parseCrl } from '../../identity/crl.js';
import { splitPem } from '../../identity/pem.js';
import type { Clock } from '../../lib/clock.js';
import { err, ok, type Result } from '../../lib/result.js';
import type { Logger } from '../../telemetry/log.js';
import type { MaterialSource, SigningMaterial } from './signing-material.js';

export interface PluggedInOptions {
  /** `ca-cert.pem`, `ca-key.pem`, `root-cert.pem`, and if there is anything to say, `cert-chain.pem`, `ca-crl.pem`. */
  readonly directory: string;
  readonly clock: Clock;
  readonly log: Logger;
  /** Called after the revocation lists have changed. */
  readonly listsChanged: () => void;
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
  #lists = '';
  #listsText: string | undefined;
  #listsError: string | undefined;
  #cancel: () => void = () => {};

  /** Throws when the files make no CA. */
  constructor(options: PluggedInOptions) {
    this.#options = options;
    const files = readFiles(options.directory);
    const material = readMaterial(files, options);
    if (!material.ok) throw new Error(`the CA in ${options.directory} cannot be used: ${material.error}`);
    this.#texts = JSON.stringify(files);
    this.#material = material.value;
    this.#reloadLists();
    this.#scheduleReload();
  }

  get current(): SigningMaterial {
    return this.#material;
  }

  get revocationLists(): string {
    return this.#lists;
  }

  subscribe(listener: () => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  describe(): object {
    const { directory } = this.#options;
    return {
      kind: 'plugged-in',
      directory,
      revocationLists: splitPem('X509 CRL', this.#lists).length,
      ...(this.#lastError === undefined ? {} : { lastError: this.#lastError }),
      ...(this.#listsError === undefined ? {} : { listsError: this.#listsError }),
    };
  }

  close(): void {
    this.#cancel();
  }

  #scheduleReload(): void {
    const { clock, reloadIntervalMs = DEFAULT_RELOAD_INTERVAL_MS } = this.#options;
    this.#cancel = clock.schedule(reloadIntervalMs, () => {
      this.#reload();
      if (this.#reloadLists()) this.#options.listsChanged();
      this.#scheduleReload();
    });
  }

  /** Whether there are other lists now. */
  #reloadLists(): boolean {
    const { directory, log } = this.#options;
    const text = textOf(directory, 'ca-crl.pem');
    // Lists are judged against the CA in use: both count.
    const seen = `${this.#texts}${text}`;
    if (seen === this.#listsText) return false;
    this.#listsText = seen;
    const lists =
      text === undefined && this.#lists !== ''
        ? err('ca-crl.pem is gone; to withdraw its lists, leave it there empty')
        : readLists(text ?? '', [...this.#material.chain, ...this.#material.roots]);
    this.#listsError = lists.ok ? undefined : lists.error;
    if (!lists.ok) {
      log.error({ directory, error: lists.error }, 'the new revocation lists are no good; the former ones stay');
      return false;
    }
    if (lists.value === this.#lists) return false;
    this.#lists = lists.value;
    log.info({ directory }, 'the revocation lists were replaced');
    return true;
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

/** One list that does not fit an issuer breaks every handshake under that issuer: it must not go out. */
function readLists(text: string, issuers: readonly Certificate[]): Result<string> {
  const pems = splitPem('X509 CRL', text);
  if (pems.length === 0 && text.trim() !== '') return err('ca-crl.pem holds no PEM X509 CRL');
  const names = new Set<string>();
  for (const [index, pem] of pems.entries()) {
    try {
      const list = parseCrl(pem);
      const name = list.issuerDer.toString('hex');
      if (names.has(name)) return err(`list ${index + 1} in ca-crl.pem is by the same issuer as one before it`);
      names.add(name);
      const ours = issuers.filter(({ subjectDer }) => subjectDer.equals(list.issuerDer));
      if (ours.length > 0 && !ours.some(({ publicKey }) => list.isSignedBy(publicKey)))
        return err(`list ${index + 1} in ca-crl.pem names our CA and is signed by another key`);
    } catch (error) {
      return err(`list ${index + 1} in ca-crl.pem is no good: ${error instanceof Error ? error.message : error}`);
    }
  }
  return ok(pems.join(''));
}

function certificatesOf(text: string): Certificate[] {
  return splitPem('CERTIFICATE', text).map((pem) => parseCertificate(pem));
}

const DEFAULT_RELOAD_INTERVAL_MS = 5_000;
