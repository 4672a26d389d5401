import { mkdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { writeFileAtomically } from '../../lib/atomic-file.js';
import type { Clock } from '../../lib/clock.js';
import { err, ok, type Result } from '../../lib/result.js';
import type { Logger } from '../../telemetry/log.js';
import { Revocations } from './revocations.js';
import {
  type CaState,
  materialOf,
  NEXT_STEP,
  newCa,
  type RotationPhase,
  rotated,
  withNewIntermediate,
} from './rotation.js';
import type { MaterialSource, SigningMaterial } from './signing-material.js';

export interface SelfSignedOptions {
  /** Holds `ca.json` (0600: keys and phase). Made when missing. */
  readonly directory: string;
  readonly trustDomain: string;
  readonly clock: Clock;
  readonly log: Logger;
  /** When the last certificate that is out there ends. */
  readonly inUseUntilMs: () => number;
  /** Called after the revocation lists have changed. */
  readonly listsChanged: () => void;
}

/**
 * The CA that a mesh makes for itself. Its state is one file, replaced as a whole before it takes effect; what it has
 * revoked is another beside it.
 */
export class SelfSigned implements MaterialSource {
  readonly #options: SelfSignedOptions;
  readonly #path: string;
  readonly #listeners = new Set<() => void>();
  readonly #revocations: Revocations;
  #state: CaState;
  #material: SigningMaterial;
  #cancelCheck: () => void = () => {};

  /** Throws when there is a state file that cannot be used: a new root in its place would break every workload. */
  constructor(options: SelfSignedOptions) {
    this.#options = options;
    this.#path = join(options.directory, STATE_FILE);
    mkdirSync(options.directory, { recursive: true });
    const stored = readState(this.#path);
    this.#state = stored ?? newCa(this.#context());
    this.#material = materialOf(this.#state);
    if (stored === undefined) {
      this.#save(this.#state);
      options.log.info({ path: this.#path }, 'made a new root');
    }
    this.#revocations = new Revocations({
      directory: options.directory,
      clock: options.clock,
      log: options.log,
      signers: () => ({ ...this.#state, trusted: this.#material.roots }),
      changed: options.listsChanged,
    });
    this.#check();
  }

  get current(): SigningMaterial {
    return this.#material;
  }

  get revocationLists(): string {
    return this.#revocations.lists;
  }

  /** Whether the next step waits for holders of certificates from before the last one. */
  get isWaiting(): boolean {
    return this.#state.phase !== 'stable' && this.#options.clock.now() < this.#state.waitUntilMs;
  }

  subscribe(listener: () => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  rotateIntermediate(): void {
    this.#become(withNewIntermediate(this.#state, this.#context()), 'a new intermediate signs');
  }

  /**
   * One step of the rotation of the root. Error: why not now. `sign` and `drop` wait until every holder of a certificate
   * has fetched another since the step before, unless `evenIfUnseen`.
   */
  rotateRoot(step: RotationPhase, evenIfUnseen = false): Result<CaState['phase']> {
    const waitUntilMs = Math.max(this.#options.inUseUntilMs(), this.#options.clock.now());
    const next = rotated(this.#state, step, { ...this.#context(), waitUntilMs });
    if (!next.ok) return next;
    if (this.isWaiting && !evenIfUnseen) return err(`${this.#waiting()}; force to go on before that`);
    this.#become(next.value, `root rotation: ${step}`);
    return ok(next.value.phase);
  }

  /** Every holder has fetched a certificate since the last step: nothing holds back the next one. */
  stepWasSeen(): void {
    if (!this.isWaiting || this.#state.phase === 'stable') return;
    this.#state = { ...this.#state, waitUntilMs: this.#options.clock.now() };
    this.#save(this.#state);
    this.#options.log.info({ nextStep: NEXT_STEP[this.#state.phase] }, 'everybody has seen this step of the rotation');
  }

  /** No peer trusts the certificate with this serial from now on. Error: why that is not possible. */
  revoke(serial: string): Result<undefined> {
    return this.#revocations.revoke(serial);
  }

  describe(): object {
    const { phase } = this.#state;
    const waiting = this.isWaiting ? { waiting: this.#waiting() } : {};
    return { kind: 'self-signed', phase, nextStep: NEXT_STEP[phase], ...waiting, ...this.#revocations.describe() };
  }

  close(): void {
    this.#cancelCheck();
    this.#revocations.close();
  }

  #waiting(): string {
    const until = this.#state.phase === 'stable' ? 0 : this.#state.waitUntilMs;
    return `some may hold a certificate from before this step until ${new Date(until).toISOString()}`;
  }

  #become(state: CaState, why: string): void {
    this.#save(state);
    this.#state = state;
    this.#material = materialOf(state);
    this.#options.log.info({ phase: state.phase, roots: this.#material.roots.length }, why);
    this.#revocations.refresh();
    for (const listener of this.#listeners) listener();
  }

  /** Replaces the intermediate at half of its life; says so when the root has a fifth of its own left. */
  #check(): void {
    const { clock, log } = this.#options;
    const [root] = this.#material.roots;
    const { certificate } = this.#material.issuer;
    const half = (certificate.notBefore.getTime() + certificate.notAfter.getTime()) / 2;
    if (clock.now() >= half) {
      try {
        this.rotateIntermediate();
      } catch (error) {
        log.error({ error }, 'the intermediate could not be replaced; the former one signs on');
      }
    }
    if (root !== undefined) {
      const left = root.notAfter.getTime() - clock.now();
      if (left < (root.notAfter.getTime() - root.notBefore.getTime()) / 5) {
        log.warn({ notAfter: root.notAfter }, 'the root ends before long: rotate it');
      }
    }
    this.#cancelCheck = clock.schedule(CHECK_INTERVAL_MS, () => this.#check());
  }

  #save(state: CaState): void {
    writeFileAtomically(this.#path, `${JSON.stringify({ version: 1, ...state }, undefined, 2)}\n`, 0o600);
  }

  #context() {
    return { nowMs: this.#options.clock.now(), trustDomain: this.#options.trustDomain };
  }
}

function readState(path: string): CaState | undefined {
  let text: string;
  try {
    text = readFileSync(path, 'utf8');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    throw new Error(`the CA's state ${path} cannot be read: ${(error as Error).message}`);
  }
  try {
    const { version, ...state } = JSON.parse(text) as { version: number } & CaState;
    if (version !== 1 || !(state.phase in NEXT_STEP)) throw new Error('it is of an unknown version or phase');
    materialOf(state);
    return state;
  } catch (error) {
    const why = error instanceof Error ? error.message : error;
    throw new Error(`the CA's state ${path} cannot be used: ${why}. Restore it, or remove it to start with a new root`);
  }
}

const STATE_FILE = 'ca.json';
const CHECK_INTERVAL_MS = 3600_000;
