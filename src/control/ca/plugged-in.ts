import { createPrivateKey, createPublicKey } from 'node:crypto';
import { type Certificate, chainsTo, parseCertificate } from '../../identity/certificate.js';
import { parseCrl } from '../../identity/crl.js';
import { splitPem } from '../../identity/pem.js';
import type { Clock } from '../../lib/clock.js';
import { err, ok, type Result } from '../../lib/result.js';
import type { Logger } from '../../telemetry/log.js';
import type { CaFiles } from './ca-files.js';
import type { MaterialSource, SigningMaterial, SourceChange } from './signing-material.js';

export interface PluggedInOptions {
  /** `ca-cert.pem`, `ca-key.pem`, `root-cert.pem`, and if there is anything to say, `cert-chain.pem`, `ca-crl.pem`. */
  readonly files: CaFiles;
  readonly clock: Clock;
  readonly log: Logger;
}

/**
 * A CA that an operator provides as files, read again when they change. A set that is not complete or does not fit
 * together (as while it is being replaced) is reported, and the last good one stays in use.
 */
export class PluggedIn implements MaterialSource {
  readonly isWaiting = false;
  readonly #options: PluggedInOptions;
  readonly #listeners = new Set<(change: SourceChange) => void>();
  readonly #unsubscribe: () => void;
  #texts: string;
  #material: SigningMaterial;
  #lastError: string | undefined;
  #lists = '';
  #listsText: string | undefined;
  #listsError: string | undefined;

  /** Throws when the files make no CA. */
  constructor(options: PluggedInOptions) {
    const { files } = options;
    this.#options = options;
    const { texts, material } = readMaterial(files, options);
    if (!material.ok) throw new Error(`the CA in ${files.where} cannot be used: ${material.error}`);
    this.#texts = texts;
    this.#material = material.value;
    this.#reloadLists();
    this.#unsubscribe = files.subscribe(() => {
      const changes: SourceChange[] = [];
      if (this.#reload()) changes.push('material');
      if (this.#reloadLists()) changes.push('lists');
      for (const change of changes) for (const listener of this.#listeners) listener(change);
    });
  }

  get current(): SigningMaterial {
    return this.#material;
  }

  get revocationLists(): string {
    return this.#lists;
  }

  subscribe(listener: (change: SourceChange) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  stepWasSeen(): void {}

  async rotateIntermediate(): Promise<Result<never>> {
    return err(NOT_OURS);
  }

  async rotateRoot(): Promise<Result<never>> {
    return err(NOT_OURS);
  }

  async revoke(): Promise<Result<never>> {
    return err(LISTS_NOT_OURS);
  }

  describe(): object {
    return {
      kind: 'plugged-in',
      directory: this.#options.files.where,
      revocationLists: splitPem('X509 CRL', this.#lists).length,
      ...(this.#lastError === undefined ? {} : { lastError: this.#lastError }),
      ...(this.#listsError === undefined ? {} : { listsError: this.#listsError }),
    };
  }

  close(): void {
    this.#unsubscribe();
  }

  /** Whether there are other lists now. */
  #reloadLists(): boolean {
    const { files, log } = this.#options;
    const text = files.read()['ca-crl.pem'];
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
      log.error(
        { where: files.where, error: lists.error },
        'the new revocation lists are no good; the former ones stay',
      );
      return false;
    }
    if (lists.value === this.#lists) return false;
    this.#lists = lists.value;
    log.info({ where: files.where }, 'the revocation lists were replaced');
    return true;
  }

  /** Whether another CA signs now. */
  #reload(): boolean {
    const { files, log } = this.#options;
    const { texts, material } = readMaterial(files, this.#options);
    if (texts === this.#texts) {
      this.#lastError = undefined;
      return false;
    }
    if (!material.ok) {
      if (material.error !== this.#lastError)
        log.error({ where: files.where, error: material.error }, 'the new CA is no good; the former one stays in use');
      this.#lastError = material.error;
      return false;
    }
    this.#lastError = undefined;
    this.#texts = texts;
    this.#material = material.value;
    log.info({ where: files.where, notAfter: material.value.issuer.certificate.notAfter }, 'the CA was replaced');
    return true;
  }
}

/** With the texts that it was made of, to tell them from others. */
function readMaterial(files: CaFiles, { clock }: PluggedInOptions) {
  const { 'ca-crl.pem': _, ...texts } = files.read();
  return { texts: JSON.stringify(texts), material: materialFrom(texts, clock) };
}

function materialFrom(files: ReturnType<CaFiles['read']>, clock: Clock): Result<SigningMaterial> {
  const { 'ca-cert.pem': certificateText, 'ca-key.pem': keyText, 'root-cert.pem': rootsText } = files;
  if (certificateText === undefined) return err('ca-cert.pem cannot be read');
  if (keyText === undefined) return err('ca-key.pem cannot be read');
  if (rootsText === undefined) return err('root-cert.pem cannot be read');
  try {
    const [certificate] = certificatesOf(certificateText);
    const roots = certificatesOf(rootsText);
    const privateKey = createPrivateKey(keyText);
    if (certificate === undefined) return err('ca-cert.pem holds no certificate');
    if (roots.length === 0) return err('root-cert.pem holds no certificate');
    if (!certificate.isCa) return err('the certificate in ca-cert.pem is not a CA');
    if (!certificate.publicKey.equals(createPublicKey(privateKey)))
      return err('ca-key.pem is not the key of ca-cert.pem');
    const above = certificatesOf(files['cert-chain.pem'] ?? '').filter(
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

const NOT_OURS = 'the CA is plugged in: replace its files to rotate it';
const LISTS_NOT_OURS = 'the CA is plugged in: put its revocation lists into ca-crl.pem beside its files';
