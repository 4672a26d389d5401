import { createPrivateKey } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { type Certificate, chainsTo, parseCertificate } from '../../identity/certificate.js';
import { issueCrl } from '../../identity/crl.js';
import { writeFileAtomically } from '../../lib/atomic-file.js';
import type { Clock } from '../../lib/clock.js';
import { err, ok, type Result } from '../../lib/result.js';
import type { Logger } from '../../telemetry/log.js';
import { BACK_DATE_MS, type KeyPair } from './rotation.js';

/** Who signs now, and whom everybody trusts. */
export interface Signers {
  readonly root: KeyPair;
  readonly intermediate: KeyPair;
  readonly trusted: readonly Certificate[];
}

export interface RevocationsOptions {
  /** Holds `revocations.json` (0600: serials, and the keys of former intermediates). */
  readonly directory: string;
  readonly clock: Clock;
  readonly log: Logger;
  /** Asked whenever lists are issued. */
  readonly signers: () => Signers;
  /** Called after the lists have changed. */
  readonly changed: () => void;
}

/**
 * What the mesh's own CA has taken back. A serial stands on the list of every issuer whose key is at hand, since nobody
 * needs to know then which of them signed it; former intermediates keep their keys for that until the last certificate
 * under them has ended. While nothing is revoked there are no lists, and handshakes need not look at any.
 */
export class Revocations {
  readonly #options: RevocationsOptions;
  readonly #path: string;
  #state: State;
  #cancelCheck: () => void = () => {};

  /** Throws when there is a state file that cannot be used: what was revoked would be trusted again. */
  constructor(options: RevocationsOptions) {
    this.#options = options;
    this.#path = join(options.directory, STATE_FILE);
    this.#state = this.#issued(readState(this.#path) ?? NOTHING);
    this.#save(this.#state);
    this.#scheduleCheck(CHECK_INTERVAL_MS);
  }

  /** PEM of the lists in force, one per issuer; empty while nothing is revoked. */
  get lists(): string {
    return this.#state.lists.map(({ pem }) => pem).join('');
  }

  /** `serial` in hex, colons or not. Error: why not; then nothing has changed. */
  revoke(serial: string): Result<undefined> {
    const { clock, log, signers } = this.#options;
    const normal = normalSerial(serial);
    if (normal === undefined) return err(`${JSON.stringify(serial.slice(0, 80))} is no serial: 1 to 40 hex digits`);
    if (this.#state.revoked.some((each) => each.serial === normal)) return ok(undefined);
    const { intermediate, trusted } = signers();
    if (trusted.some((root) => normalSerial(root.serial) === normal)) return err('that is a root: rotate the root');
    const hasSerial = ({ certificate }: KeyPair): boolean =>
      normalSerial(parseCertificate(certificate).serial) === normal;
    if (hasSerial(intermediate)) return err('that is the intermediate that signs: rotate the intermediate first');
    if (this.#state.revoked.length >= MAX_REVOKED) return err(`${MAX_REVOKED} certificates are revoked already`);
    const atMs = clock.now();
    const former = this.#state.intermediates.find(hasSerial);
    const untilMs =
      former === undefined ? atMs + MAX_LEAF_LIFE_MS : parseCertificate(former.certificate).notAfter.getTime();
    try {
      this.#become({ ...this.#state, revoked: [...this.#state.revoked, { serial: normal, atMs, untilMs }] });
    } catch (error) {
      return err(`the revocation cannot be kept: ${error instanceof Error ? error.message : error}`);
    }
    log.warn({ serial: normal, revoked: this.#state.revoked.length }, 'certificate revoked');
    return ok(undefined);
  }

  /** To be called when the signers or the trusted roots have changed, and called by itself before lists end. */
  refresh(): void {
    try {
      this.#become(this.#state);
      this.#scheduleCheck(CHECK_INTERVAL_MS);
    } catch (error) {
      this.#options.log.error({ error }, 'revocation lists cannot be issued anew; the former ones stay');
      this.#scheduleCheck(RETRY_MS);
    }
  }

  describe(): object {
    const ends = this.#state.lists.map(({ nextUpdateMs }) => nextUpdateMs);
    const nextUpdate = ends.length === 0 ? {} : { nextUpdate: new Date(Math.min(...ends)).toISOString() };
    return { revoked: this.#state.revoked.map(({ serial }) => serial), ...nextUpdate };
  }

  close(): void {
    this.#cancelCheck();
  }

  #become(state: State): void {
    const before = this.lists;
    const next = this.#issued(state);
    this.#save(next);
    this.#state = next;
    if (this.lists !== before) this.#options.changed();
  }

  /** With what is over left out, and every list signed anew. */
  #issued(state: State): State {
    const nowMs = this.#options.clock.now();
    const { root, intermediate, trusted } = this.#options.signers();
    const intermediates = [
      { ...intermediate },
      ...state.intermediates
        .filter((each) => each.certificate !== intermediate.certificate)
        .map((each) => ({ ...each, untilMs: each.untilMs ?? nowMs + MAX_LEAF_LIFE_MS }))
        .filter(({ certificate, untilMs }) => untilMs > nowMs && isTrusted(certificate, trusted, nowMs)),
    ];
    const revoked = state.revoked.filter(({ untilMs }) => untilMs > nowMs);
    if (revoked.length === 0) return { ...state, intermediates, revoked, lists: [] };
    const number = state.number + 1;
    const listBy = ({ certificate, privateKey }: KeyPair, isRoot: boolean): List => {
      const issuer = { certificate: parseCertificate(certificate), privateKey: createPrivateKey(privateKey) };
      const endMs = issuer.certificate.notAfter.getTime();
      // That of a root must last beyond its key, which a rotation destroys.
      const nextUpdateMs = isRoot ? endMs : Math.min(nowMs + LIST_LIFE_MS, endMs);
      const pem = issueCrl(issuer, {
        number,
        thisUpdate: new Date(nowMs - BACK_DATE_MS),
        nextUpdate: new Date(nextUpdateMs),
        revoked: revoked.map(({ serial, atMs }) => ({ serial, at: new Date(atMs) })),
      });
      return { issuer: issuer.certificate.fingerprint, pem, nextUpdateMs };
    };
    const made = [...intermediates.map((each) => listBy(each, false)), listBy(root, true)];
    const madeBy = new Set(made.map(({ issuer }) => issuer));
    const ofFormerRoots = state.lists.filter(
      ({ issuer }) => !madeBy.has(issuer) && trusted.some(({ fingerprint }) => fingerprint === issuer),
    );
    return { version: 1, number, intermediates, revoked, lists: [...made, ...ofFormerRoots] };
  }

  #scheduleCheck(delayMs: number): void {
    const { clock } = this.#options;
    this.#cancelCheck();
    this.#cancelCheck = clock.schedule(delayMs, () => {
      if (this.#isDue(clock.now())) this.refresh();
      else this.#scheduleCheck(CHECK_INTERVAL_MS);
    });
  }

  #isDue(nowMs: number): boolean {
    const { revoked, intermediates, lists } = this.#state;
    return (
      [...revoked, ...intermediates].some(({ untilMs }) => untilMs !== undefined && untilMs <= nowMs) ||
      lists.some(({ nextUpdateMs }) => nextUpdateMs - nowMs < LIST_LIFE_MS / 2)
    );
  }

  #save(state: State): void {
    writeFileAtomically(this.#path, `${JSON.stringify(state, undefined, 2)}\n`, 0o600);
  }
}

/** Lower case, no colons, no zeros in front; undefined when it is none. */
function normalSerial(text: string): string | undefined {
  const digits = text.toLowerCase().replaceAll(':', '').replace(/^0+/, '');
  return /^[0-9a-f]{1,40}$/.test(digits) ? digits : undefined;
}

function isTrusted(pem: string, roots: readonly Certificate[], nowMs: number): boolean {
  return chainsTo(parseCertificate(pem), [], roots, new Date(nowMs));
}

function readState(path: string): State | undefined {
  let text: string;
  try {
    text = readFileSync(path, 'utf8');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    throw new Error(`the revocations ${path} cannot be read: ${(error as Error).message}`);
  }
  try {
    const state = JSON.parse(text) as State;
    if (state.version !== 1) throw new Error('they are of an unknown version');
    for (const { certificate } of state.intermediates) parseCertificate(certificate);
    for (const { serial } of state.revoked) if (normalSerial(serial) !== serial) throw new Error('a serial is none');
    if (!Array.isArray(state.lists) || !Number.isSafeInteger(state.number)) throw new Error('they are not complete');
    return state;
  } catch (error) {
    const why = error instanceof Error ? error.message : error;
    throw new Error(`the revocations ${path} cannot be used: ${why}. Restore them, or remove them to trust all again`);
  }
}

interface State {
  readonly version: 1;
  /** Of the newest lists. */
  readonly number: number;
  /** The one that signs now comes first; the others sign lists only, `untilMs`. */
  readonly intermediates: readonly (KeyPair & { readonly untilMs?: number })[];
  /** `untilMs`: when the certificate has ended for sure. */
  readonly revoked: readonly { readonly serial: string; readonly atMs: number; readonly untilMs: number }[];
  readonly lists: readonly List[];
}

interface List {
  /** Fingerprint. */
  readonly issuer: string;
  readonly pem: string;
  readonly nextUpdateMs: number;
}

const NOTHING: State = { version: 1, number: 0, intermediates: [], revoked: [], lists: [] };
const STATE_FILE = 'revocations.json';
const MAX_REVOKED = 10_000;
const DAY_MS = 24 * 3600_000;
/** Nothing that we sign for others lives longer. */
const MAX_LEAF_LIFE_MS = 90 * DAY_MS;
/** Signed anew at half of it. */
const LIST_LIFE_MS = 7 * DAY_MS;
const CHECK_INTERVAL_MS = 3600_000;
const RETRY_MS = 60_000;
