import { fromPem } from '../../identity/pem.js';
import type { Clock } from '../../lib/clock.js';
import { WatchedFile } from '../../lib/watched-file.js';
import type { Logger } from '../../telemetry/log.js';
import type { Dataplane } from '../dataplane/dataplane.js';

export interface TrustParts {
  readonly dataplane: Pick<Dataplane, 'setTrust' | 'setRevocations'>;
  readonly clock: Clock;
  readonly log: Logger;
  readonly trustDomain: string;
  /** PEM file of the roots, one or more. */
  readonly rootsPath: string;
  /** PEM or DER file of revocation lists; empty for none. */
  readonly revocationsPath: string;
  /** Called when a set of roots is in force; `isFirst` until then there was none. */
  readonly trusted: (isFirst: boolean) => void;
  /** Called when revocation lists (DER) are in force. */
  readonly revoked: (lists: readonly Buffer[]) => void;
}

/** Follows the files that say whom to trust. Bad content is reported and the former set stays in force. */
export class Trust {
  readonly #files: WatchedFile[] = [];
  #isTrusting = false;

  constructor(readonly parts: TrustParts) {
    const { clock, log, rootsPath, revocationsPath } = parts;
    const failed = (path: string) => (error: string) => log.warn({ path, error }, 'a trust file cannot be read');
    this.#files.push(new WatchedFile(rootsPath, clock, (content) => this.#setRoots(content), failed(rootsPath)));
    if (revocationsPath === '') return;
    this.#files.push(
      new WatchedFile(revocationsPath, clock, (content) => this.#setRevocations(content), failed(revocationsPath)),
    );
  }

  async start(): Promise<void> {
    await Promise.all(this.#files.map((file) => file.start()));
  }

  close(): void {
    for (const file of this.#files) file.close();
  }

  #setRoots(content: Buffer): void {
    const { dataplane, log, trustDomain, rootsPath, trusted } = this.parts;
    const roots = fromPem('CERTIFICATE', content.toString('latin1'));
    const result =
      roots.length === 0
        ? { ok: false, error: 'the file holds no PEM certificate' }
        : dataplane.setTrust([{ trustDomain, roots }]);
    if (!result.ok) {
      log.error({ path: rootsPath, error: result.error }, 'roots refused; the former ones stay in force');
      return;
    }
    log.info({ path: rootsPath, roots: roots.length }, 'roots in force');
    trusted(!this.#isTrusting);
    this.#isTrusting = true;
  }

  #setRevocations(content: Buffer): void {
    const { dataplane, log, revocationsPath, revoked } = this.parts;
    const pems = fromPem('X509 CRL', content.toString('latin1'));
    const lists = pems.length > 0 || content.length === 0 ? pems : [content];
    const result = dataplane.setRevocations(lists);
    if (!result.ok) {
      log.error({ path: revocationsPath, error: result.error }, 'revocation lists refused; the former ones stay');
      return;
    }
    log.info({ path: revocationsPath, lists: lists.length }, 'revocation lists in force');
    revoked(lists);
  }
}
