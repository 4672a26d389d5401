import type { Certificate } from '../../identity/certificate.js';
import type { Clock } from '../../lib/clock.js';
import { err, ok, type Result } from '../../lib/result.js';
import type { Logger } from '../../telemetry/log.js';
import type { CaFile } from './ca-files.js';
import type { Holders } from './holders.js';
import { Revocations } from './revocations.js';
import {
  type CaState,
  importedCa,
  materialOf,
  NEXT_STEP,
  newCa,
  type RotationPhase,
  rotated,
  withNewIntermediate,
} from './rotation.js';
import type { SharedDocument } from './shared-document.js';
import { SharedState } from './shared-state.js';
import type { MaterialSource, SigningMaterial, SourceChange } from './signing-material.js';

export interface SelfSignedOptions {
  /** Keys and phase. Made when missing. */
  readonly state: SharedDocument;
  /** Serials, and the keys of former intermediates. */
  readonly revocations: SharedDocument;
  readonly trustDomain: string;
  readonly holders: Holders;
  /** Whether what is due by time is for this process to do. */
  readonly isInCharge?: () => boolean;
  /** Whether a state that somebody removed is to be put back. */
  readonly putsBack?: () => boolean;
  readonly maxRevoked?: number;
  readonly clock: Clock;
  readonly log: Logger;
}

/**
 * The CA that a mesh makes for itself. Its state is one document, replaced as a whole before it takes effect, and shared
 * by all who sign with it; what it has revoked is another beside it.
 */
export class SelfSigned implements MaterialSource {
  readonly #options: SelfSignedOptions;
  readonly #listeners = new Set<(change: SourceChange) => void>();
  #state!: SharedState<CaState>;
  #revocations!: Revocations;
  #material!: SigningMaterial;
  #settled: Promise<void> = Promise.resolve();
  #cancelCheck: () => void = () => {};

  private constructor(options: SelfSignedOptions) {
    this.#options = options;
  }

  /** Rejects when there is a state that cannot be used: a new root in its place would break every workload. */
  static async open(options: SelfSignedOptions): Promise<SelfSigned> {
    const made = new SelfSigned(options);
    await made.#open();
    return made;
  }

  get current(): SigningMaterial {
    return this.#material;
  }

  get revocationLists(): string {
    return this.#revocations.lists;
  }

  get isWaiting(): boolean {
    return waitsUntilMs(this.#state.current) > this.#options.clock.now();
  }

  subscribe(listener: (change: SourceChange) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  async rotateIntermediate(): Promise<Result<undefined>> {
    const result = await this.#state.update((state) => ok(withNewIntermediate(state, this.#context())));
    await this.#settled;
    return result.ok ? ok(undefined) : result;
  }

  /** `sign` and `drop` wait until every holder has fetched another certificate, unless `evenIfUnseen`. */
  async rotateRoot(step: RotationPhase, evenIfUnseen: boolean): Promise<Result<CaState['phase']>> {
    const { clock, holders } = this.#options;
    const result = await this.#state.update((state) => {
      const waitUntilMs = Math.max(holders.inUseUntilMs(materialOf(state).roots), clock.now());
      const next = rotated(state, step, { ...this.#context(), waitUntilMs });
      if (!next.ok || evenIfUnseen || waitsUntilMs(state) <= clock.now()) return next;
      return err(`${waiting(state)}; force to go on before that`);
    });
    await this.#settled;
    return result.ok ? ok(result.value.phase) : result;
  }

  stepWasSeen(): void {
    const { clock, log } = this.#options;
    const seen = this.#state.update((state) =>
      ok(state.phase === 'stable' || !this.isWaiting ? state : { ...state, waitUntilMs: clock.now() }),
    );
    seen.then(
      ({ ok }) => ok && log.info(this.describe(), 'everybody has seen this step of the rotation'),
      (error: unknown) => log.warn({ error }, 'it cannot be kept that everybody has seen this step'),
    );
  }

  revoke(serial: string): Promise<Result<undefined>> {
    return this.#revocations.revoke(serial);
  }

  describe(): object {
    const state = this.#state.current;
    const { phase } = state;
    return {
      kind: 'self-signed',
      phase,
      nextStep: NEXT_STEP[phase],
      ...(this.isWaiting ? { waiting: waiting(state) } : {}),
      ...(this.#state.error === '' ? {} : { lastError: this.#state.error }),
      ...this.#revocations.describe(),
    };
  }

  close(): void {
    this.#cancelCheck();
    this.#state.close();
    this.#revocations.close();
  }

  async #open(): Promise<void> {
    const {
      state,
      revocations,
      clock,
      log,
      isInCharge = () => true,
      maxRevoked,
      putsBack = () => true,
    } = this.#options;
    this.#state = await SharedState.open<CaState>({
      document: state,
      what: 'the CA’s state',
      remedy: 'Restore it, or remove it to start with a new root',
      parse: parseState,
      format: (value) => `${JSON.stringify({ version: 1, ...value }, undefined, 2)}\n`,
      initial: ({ 'ca-cert.pem': certificate, 'ca-key.pem': privateKey }) =>
        certificate === undefined || privateKey === undefined
          ? newCa(this.#context())
          : importedCa({ certificate, privateKey }, this.#context()),
      changed: (value, before) => this.#become(value, before),
      putsBack,
      clock,
      log,
    });
    this.#material = materialOf(this.#state.current);
    const signers = () => {
      const { root, intermediate } = this.#state.current;
      return { root, intermediate, trusted: this.#material.roots as readonly Certificate[] };
    };
    this.#revocations = await Revocations.open({
      document: revocations,
      clock,
      log,
      signers,
      isInCharge,
      putsBack,
      ...(maxRevoked === undefined ? {} : { maxRevoked }),
      changed: () => this.#tell('lists'),
    }).catch((error: unknown) => {
      this.#state.close();
      throw error;
    });
    this.#check();
  }

  #become(state: CaState, before: CaState): void {
    this.#material = materialOf(state);
    if (this.#revocations === undefined) return;
    this.#options.log.info({ phase: state.phase, roots: this.#material.roots.length }, 'the CA is another');
    this.#settled = this.#revocations.refresh(before.intermediate);
    this.#tell('material');
  }

  #tell(change: SourceChange): void {
    for (const listener of this.#listeners) listener(change);
  }

  /** Replaces the intermediate at half of its life; says so when the root has a fifth of its own left. */
  #check(): void {
    const { clock, log, isInCharge = () => true } = this.#options;
    const [root] = this.#material.roots;
    if (this.#isIntermediateDue(this.#state.current) && isInCharge()) {
      this.#state
        .update((state) => ok(this.#isIntermediateDue(state) ? withNewIntermediate(state, this.#context()) : state))
        .catch((error: unknown) =>
          log.error({ error }, 'the intermediate could not be replaced; the former one signs on'),
        );
    }
    if (root !== undefined) {
      const left = root.notAfter.getTime() - clock.now();
      if (left < (root.notAfter.getTime() - root.notBefore.getTime()) / 5) {
        log.warn({ notAfter: root.notAfter }, 'the root ends before long: rotate it');
      }
    }
    this.#cancelCheck = clock.schedule(CHECK_INTERVAL_MS, () => this.#check());
  }

  #isIntermediateDue(state: CaState): boolean {
    const { notBefore, notAfter } = materialOf(state).issuer.certificate;
    return this.#options.clock.now() >= (notBefore.getTime() + notAfter.getTime()) / 2;
  }

  #context() {
    return { nowMs: this.#options.clock.now(), trustDomain: this.#options.trustDomain };
  }
}

function parseState(text: string): CaState {
  const { version, ...state } = JSON.parse(text) as { version: number } & CaState;
  if (version !== 1 || !(state.phase in NEXT_STEP)) throw new Error('it is of an unknown version or phase');
  materialOf(state);
  return state;
}

/** What a state means to whoever knows the files of a CA only. */
export function caFilesOf(text: string): Readonly<Partial<Record<CaFile, string>>> {
  const state = parseState(text);
  const { certificate, privateKey } = state.intermediate;
  return {
    'ca-cert.pem': certificate,
    'ca-key.pem': privateKey,
    'cert-chain.pem': certificate,
    'root-cert.pem': materialOf(state)
      .roots.map(({ pem }) => pem)
      .join(''),
  };
}

function waitsUntilMs(state: CaState): number {
  return state.phase === 'stable' ? Number.NEGATIVE_INFINITY : state.waitUntilMs;
}

function waiting(state: CaState): string {
  return `some may hold a certificate from before this step until ${new Date(waitsUntilMs(state)).toISOString()}`;
}

const CHECK_INTERVAL_MS = 3600_000;
