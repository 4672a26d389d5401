import { createPrivateKey } from 'node:crypto';
import { isDeepStrictEqual } from 'node:util';
import { type Certificate, chainsTo, parseCertificate } from '../../identity/certificate.js';
import { issueCrl } from '../../identity/crl.js';
import type { Clock } from '../../lib/clock.js';
import { err, ok, type Result } from '../../lib/result.js';
import type { Logger } from '../../telemetry/log.js';
import { BACK_DATE_MS, type KeyPair } from './rotation.js';
import type { SharedDocument } from './shared-document.js';
import { SharedState } from './shared-state.js';

/** Who signs now, and whom everybody trusts. */
export interface Signers {
  readonly root: KeyPair;
  readonly intermediate: KeyPair;
  readonly trusted: readonly Certificate[];
}

export interface RevocationsOptions {
  readonly document: SharedDocument;
  readonly clock: Clock;
  readonly log: Logger;
  /** Asked whenever lists are issued. */
  readonly signers: () => Signers;
  /** Whether what is due by time is for this process to do. */
  readonly isInCharge: () => boolean;
  readonly putsBack: () => boolean;
  readonly maxRevoked?: number;
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
  #state!: SharedState<State>;
  #cancelCheck: () => void = () => {};

  private constructor(options: RevocationsOptions) {
    this.#options = options;
  }

  /** Rejects when there is a state that cannot be used: what was revoked would be trusted again. */
  static async open(options: RevocationsOptions): Promise<Revocations> {
    const { document, putsBack, clock, log, changed } = options;
    const made = new Revocations(options);
    made.#state = await SharedState.open<State>({
      document,
      what: 'the list of revocations',
      remedy: 'Restore it, or remove it to trust all again',
      parse: parseState,
      format: (state) => `${JSON.stringify(state)}\n`,
      initial: () => made.#issued(NOTHING),
      changed: (state, before) => {
        if (listsOf(state) !== listsOf(before)) changed();
      },
      putsBack,
      clock,
      log,
    });
    await made.refresh();
    return made;
  }

  /** PEM of the lists in force, one per issuer; empty while nothing is revoked. */
  get lists(): string {
    return listsOf(this.#state.current);
  }

  /** `serial` in hex, colons or not. Error: why not; then nothing has changed. */
  async revoke(serial: string): Promise<Result<undefined>> {
    const normal = normalSerial(serial);
    if (normal === undefined) return err(`${JSON.stringify(serial.slice(0, 80))} is no serial: 1 to 40 hex digits`);
    const result = await this.#state.update((state) => this.#revoked(state, normal));
    if (!result.ok) return result;
    this.#options.log.warn({ serial: normal, revoked: result.value.revoked.length }, 'certificate revoked');
    return ok(undefined);
  }

  /**
   * To be called when the signers or the trusted roots have changed, with the intermediate that signed before; called by
   * itself before lists end. Does nothing where another has done it.
   */
  async refresh(former?: KeyPair): Promise<void> {
    let delayMs = CHECK_INTERVAL_MS;
    try {
      await this.#state.update((state) => ok(this.#isComplete(state, former) ? state : this.#issued(state, former)));
    } catch (error) {
      this.#options.log.error({ error }, 'revocation lists cannot be issued anew; the former ones stay');
      delayMs = RETRY_MS;
    }
    this.#scheduleCheck(delayMs, former);
  }

  describe(): object {
    const { lists, revoked } = this.#state.current;
    const ends = lists.map(({ nextUpdateMs }) => nextUpdateMs);
    const nextUpdate = ends.length === 0 ? {} : { nextUpdate: new Date(Math.min(...ends)).toISOString() };
    const error = this.#state.error === '' ? {} : { listsError: this.#state.error };
    return { revoked: revoked.map(({ serial }) => serial), ...nextUpdate, ...error };
  }

  close(): void {
    this.#cancelCheck();
    this.#state.close();
  }

  #revoked(state: State, serial: string): Result<State> {
    const { clock, signers, maxRevoked = MAX_REVOKED } = this.#options;
    if (state.revoked.some((each) => each.serial === serial)) return ok(state);
    const { intermediate, trusted } = signers();
    if (trusted.some((root) => normalSerial(root.serial) === serial)) return err('that is a root: rotate the root');
    const hasSerial = ({ certificate }: KeyPair): boolean =>
      normalSerial(parseCertificate(certificate).serial) === serial;
    if (hasSerial(intermediate)) return err('that is the intermediate that signs: rotate the intermediate first');
    if (state.revoked.length >= maxRevoked) return err(`${maxRevoked} certificates are revoked already`);
    const atMs = clock.now();
    const former = state.intermediates.find(hasSerial);
    const untilMs =
      former === undefined ? atMs + MAX_LEAF_LIFE_MS : parseCertificate(former.certificate).notAfter.getTime();
    return ok(this.#issued({ ...state, revoked: [...state.revoked, { serial, atMs, untilMs }] }));
  }

  /** Whoever signs now first, then who signed before and may have signed something that is valid still. */
  #intermediates({ intermediates }: State, former: KeyPair | undefined): State['intermediates'] {
    const nowMs = this.#options.clock.now();
    const { intermediate, trusted } = this.#options.signers();
    const known = (each: KeyPair): boolean => intermediates.some(({ certificate }) => certificate === each.certificate);
    return [
      { ...intermediate },
      ...[...intermediates, ...(former === undefined || known(former) ? [] : [former])]
        .filter((each) => each.certificate !== intermediate.certificate)
        .map((each) => ({ untilMs: nowMs + MAX_LEAF_LIFE_MS, ...each }))
        .filter(({ certificate, untilMs }) => untilMs > nowMs && isTrusted(certificate, trusted, nowMs)),
    ];
  }

  /** Whether nothing would come of issuing lists again but the same ones, later. */
  #isComplete(state: State, former: KeyPair | undefined): boolean {
    const { root, trusted } = this.#options.signers();
    if (this.#isDue(state)) return false;
    const intermediates = this.#intermediates(state, former);
    if (!isDeepStrictEqual(intermediates.map(certificateOf), state.intermediates.map(certificateOf))) return false;
    if (state.revoked.length === 0) return state.lists.length === 0;
    const needed = [root, ...intermediates].map(fingerprintOf);
    const present = state.lists.map(({ issuer }) => issuer);
    const isMeant = (issuer: string): boolean =>
      needed.includes(issuer) || trusted.some((each) => each.fingerprint === issuer);
    return needed.every((issuer) => present.includes(issuer)) && present.every(isMeant);
  }

  /** With what is over left out, and every list signed anew. */
  #issued(state: State, former?: KeyPair): State {
    const nowMs = this.#options.clock.now();
    const { root, trusted } = this.#options.signers();
    const intermediates = this.#intermediates(state, former);
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

  #scheduleCheck(delayMs: number, former?: KeyPair): void {
    const { clock, isInCharge } = this.#options;
    this.#cancelCheck();
    this.#cancelCheck = clock.schedule(delayMs, () => {
      if (delayMs === RETRY_MS || (isInCharge() && this.#isDue(this.#state.current))) void this.refresh(former);
      else this.#scheduleCheck(CHECK_INTERVAL_MS);
    });
  }

  #isDue({ revoked, intermediates, lists }: State): boolean {
    const nowMs = this.#options.clock.now();
    return (
      [...revoked, ...intermediates].some(({ untilMs }) => untilMs !== undefined && untilMs <= nowMs) ||
      lists.some(({ nextUpdateMs }) => nextUpdateMs - nowMs < LIST_LIFE_MS / 2)
    );
  }
}

/** The lists in a state, as they stand; empty when it is none. */
export function listsIn(text: string): string {
  try {
    return listsOf(parseState(text));
  } catch {
    return '';
  }
}

function listsOf({ lists }: State): string {
  return lists.map(({ pem }) => pem).join('');
}

function certificateOf({ certificate }: KeyPair): string {
  return certificate;
}

function fingerprintOf({ certificate }: KeyPair): string {
  return parseCertificate(certificate).fingerprint;
}

/** Lower case, no colons, no zeros in front; undefined when it is none. */
function normalSerial(text: string): string | undefined {
  const digits = text.toLowerCase().replaceAll(':', '').replace(/^0+/, '');
  return /^[0-9a-f]{1,40}$/.test(digits) ? digits : undefined;
}

function isTrusted(pem: string, roots: readonly Certificate[], nowMs: number): boolean {
  return chainsTo(parseCertificate(pem), [], roots, new Date(nowMs));
}

function parseState(text: string): State {
  const state = JSON.parse(text) as State;
  if (state.version !== 1) throw new Error('it is of an unknown version');
  for (const { certificate } of state.intermediates) parseCertificate(certificate);
  for (const { serial } of state.revoked) if (normalSerial(serial) !== serial) throw new Error('a serial is none');
  if (!Array.isArray(state.lists) || !Number.isSafeInteger(state.number)) throw new Error('it is not complete');
  return state;
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
const MAX_REVOKED = 10_000;
const DAY_MS = 24 * 3600_000;
/** Nothing that we sign for others lives longer. */
const MAX_LEAF_LIFE_MS = 90 * DAY_MS;
/** Signed anew at half of it. */
const LIST_LIFE_MS = 7 * DAY_MS;
const CHECK_INTERVAL_MS = 3600_000;
const RETRY_MS = 60_000;
