import { mkdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { writeFileAtomically } from '../../lib/atomic-file.js';
import type { Clock } from '../../lib/clock.js';
import { err, ok, type Result } from '../../lib/result.js';
import type { Logger } from '../../telemetry/log.js';
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
  /** When the last certificate under the present root ends, asked when another root begins to sign. */
  readonly inUseUntilMs: () => number;
}

/** The CA that a mesh makes for itself. All its state is one file, replaced as a whole before it takes effect. */
export class SelfSigned implements MaterialSource {
  readonly #options: SelfSignedOptions;
  readonly #path: string;
  readonly #listeners = new Set<() => void>();
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
    this.#check();
  }

  get current(): SigningMaterial {
    return this.#material;
  }

  subscribe(listener: () => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  rotateIntermediate(): void {
    this.#become(withNewIntermediate(this.#state, this.#context()), 'a new intermediate signs');
  }

  /**
   * One step of the rotation of the root. Error: why not now. `drop` waits for the last certificate under the old root
   * unless `evenIfInUse`.
   */
  rotateRoot(step: RotationPhase, evenIfInUse = false): Result<CaState['phase']> {
    if (step === 'drop' && this.#state.phase === 'signing' && !evenIfInUse) {
      const leftMs = this.#state.formerInUseUntilMs - this.#options.clock.now();
      if (leftMs > 0) {
        const until = new Date(this.#state.formerInUseUntilMs).toISOString();
        return err(`certificates under the old root may be in use until ${until}; force to drop it before`);
      }
    }
    const next = rotated(this.#state, step, { ...this.#context(), formerInUseUntilMs: this.#options.inUseUntilMs() });
    if (!next.ok) return next;
    this.#become(next.value, `root rotation: ${step}`);
    return ok(next.value.phase);
  }

  /** No certificate under the old root is in use any more: nothing holds back the last step. */
  formerIsUnused(): void {
    const state = this.#state;
    if (state.phase !== 'signing' || state.formerInUseUntilMs <= this.#options.clock.now()) return;
    this.#state = { ...state, formerInUseUntilMs: this.#options.clock.now() };
    this.#save(this.#state);
    this.#options.log.info('every certificate under the old root has been replaced: it can be dropped');
  }

  describe(): object {
    const state = this.#state;
    return {
      kind: 'self-signed',
      phase: state.phase,
      nextStep: NEXT_STEP[state.phase],
      ...(state.phase === 'signing' ? { formerRootInUseUntil: new Date(state.formerInUseUntilMs).toISOString() } : {}),
    };
  }

  close(): void {
    this.#cancelCheck();
  }

  #become(state: CaState, why: string): void {
    this.#save(state);
    this.#state = state;
    this.#material = materialOf(state);
    this.#options.log.info({ phase: state.phase, roots: this.#material.roots.length }, why);
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
