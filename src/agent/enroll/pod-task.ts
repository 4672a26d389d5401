import { BackOff } from '../../lib/back-off.js';
import type { EnrolmentParts } from './enrolment.js';
import { captureOf, type PodRecord } from './pod-record.js';

export interface PodState {
  readonly uid: string;
  readonly name: string;
  readonly namespace: string;
  readonly captured: boolean;
  readonly because: string;
  readonly state: 'enabled' | 'pending' | 'none';
  readonly error: string;
}

/**
 * One pod's way from what is to what should be. One step at a time; a step that fails is tried again after a pause, and
 * a new aim is taken up between two steps.
 */
export class PodTask {
  /** What should be; undefined once the pod is gone. */
  #aim: PodRecord | undefined;
  /** Under which record steps have been taken that must be undone; `#complete` when all of them succeeded. */
  #touched: PodRecord | undefined;
  #complete = false;
  #netnsId = '';
  #tried = false;
  #running = false;
  #stopped = false;
  #run: Promise<void> = Promise.resolve();
  #error = '';
  #cancelRetry: () => void = () => undefined;
  readonly #backOff: BackOff;

  constructor(
    readonly uid: string,
    /** The last record seen. */
    public record: PodRecord,
    readonly parts: EnrolmentParts,
    /** Called when it has come as far as it could for now. */
    readonly rested: () => void,
    /** Called when there is nothing left to do for a pod that is gone. */
    readonly ended: () => void,
  ) {
    this.#backOff = new BackOff(RETRY_BASE_MS, RETRY_MAX_MS, parts.random);
    // Left redirected by a former process: its traces are undone, or enrolled over. Those of another revision are not.
    if (parts.source.wasRedirected(record) && !isAnothers(record)) this.#touched = record;
  }

  get tried(): boolean {
    return this.#tried;
  }

  get isPending(): boolean {
    return this.#wanted !== undefined && !this.#complete;
  }

  get state(): PodState {
    const { captured, because } = captureOf(this.record);
    return {
      uid: this.uid,
      name: this.record.name,
      namespace: this.record.namespace,
      captured,
      because,
      state: this.#complete ? 'enabled' : this.isPending ? 'pending' : 'none',
      error: this.#error,
    };
  }

  /** Sets the aim and walks there; undefined means that the pod is gone. */
  aim(record: PodRecord | undefined): void {
    if (record !== undefined) this.record = record;
    this.#aim = record;
    this.#cancelRetry();
    this.#walk();
  }

  /** Looks for drift; what has drifted is enrolled again. False: it is being worked on, and nobody looked. */
  async audit(): Promise<boolean> {
    const touched = this.#touched;
    if (this.#running) return false;
    if (this.#stopped) return true;
    if (touched === undefined || !this.#complete) return true;
    const drifts: string[] = [];
    for (const { audit } of this.parts.steps) {
      if (audit !== undefined) drifts.push(...(await audit({ uid: this.uid, record: touched })));
    }
    if (this.parts.netnsId(touched.netns) !== this.#netnsId) drifts.push('the network namespace is another');
    if (this.#running || this.#touched !== touched) return false;
    if (drifts.length === 0) return true;
    this.parts.log.warn({ pod: this.#name, drifts }, 'a pod has drifted; it is enrolled again');
    this.parts.drifted?.();
    this.#complete = false;
    this.#walk();
    await this.#run;
    return true;
  }

  /** Takes no step more; one under way is finished. */
  stop(): void {
    this.#stopped = true;
    this.#cancelRetry();
  }

  /** After `stop`: with the next aim all steps are taken again. */
  again(): void {
    this.#stopped = false;
    this.#complete = false;
  }

  /** Whether what was enrolled, if anything was, is this pod. */
  isFor(record: PodRecord): boolean {
    return this.#touched === undefined || (this.#touched.uid === record.uid && this.#touched.netns === record.netns);
  }

  /** After `stop`: undoes what is this process's own. What is the node's belongs to a successor. */
  async letGo(why: string): Promise<void> {
    await this.#run;
    const touched = this.#touched;
    if (touched === undefined || !this.#stopped) return;
    this.#touched = undefined;
    this.#complete = false;
    this.parts.watch?.remove(this.uid);
    const own = this.parts.steps.filter(({ ofNode }) => ofNode !== true);
    for (const step of own.toReversed()) await attempt(() => step.unenrol({ uid: this.uid, record: touched }, why));
    this.parts.source.released(touched);
    this.parts.log.info({ pod: this.#name, why }, 'a pod that a successor has is let go');
    this.ended();
  }

  get #name(): string {
    return `${this.record.namespace}/${this.record.name}`;
  }

  get #wanted(): PodRecord | undefined {
    return this.#aim !== undefined && captureOf(this.#aim).captured ? this.#aim : undefined;
  }

  #walk(): void {
    if (!this.#running && !this.#stopped) this.#run = this.#toAim();
  }

  async #toAim(): Promise<void> {
    this.#running = true;
    try {
      let error: string | undefined;
      while (error === undefined && !this.#stopped && !this.#isThere()) error = await this.#step();
      this.#settle(error);
    } finally {
      this.#running = false;
      this.#tried = true;
    }
    if (this.#aim === undefined && this.#touched === undefined) {
      this.parts.source.released(this.record);
      this.ended();
    }
    this.rested();
  }

  #isThere(): boolean {
    const wanted = this.#wanted;
    if (wanted === undefined) return this.#touched === undefined;
    return this.#complete && sameRecord(this.#touched, wanted);
  }

  /** One step towards the aim. Returns why it failed. */
  async #step(): Promise<string | undefined> {
    const wanted = this.#wanted;
    const touched = this.#touched;
    if (touched !== undefined && (wanted === undefined || this.#isAnother(touched, wanted))) {
      return this.#unenrol(touched, this.#whyUnenrol(wanted));
    }
    if (wanted === undefined) return undefined;
    if (wanted.netns === '') return 'it has no network namespace yet';
    return this.#enrol(wanted);
  }

  #whyUnenrol(wanted: PodRecord | undefined): string {
    if (this.#aim === undefined) return DELETED;
    if (wanted !== undefined) return REPLACED;
    return isAnothers(this.#aim) ? HANDED_ON : LEFT;
  }

  async #enrol(record: PodRecord): Promise<string | undefined> {
    const { steps, source, log, netnsId, watch } = this.parts;
    this.#netnsId = netnsId(record.netns);
    if (this.#netnsId === '') return `its network namespace ${record.netns} does not exist`;
    this.#touched = record;
    this.#complete = false;
    for (const step of steps) {
      const error = await attempt(() => step.enrol({ uid: this.uid, record }));
      if (error !== undefined) return `${step.name}: ${error}`;
    }
    this.#complete = true;
    watch?.add(this.uid, record.netns);
    source.report(record, 'enabled');
    log.info({ pod: this.#name, netns: record.netns, ips: record.ips }, 'pod enrolled');
    return undefined;
  }

  async #unenrol(record: PodRecord, why: string): Promise<string | undefined> {
    const { steps, source, log, watch, untunnelled } = this.parts;
    const pod = { uid: this.uid, record };
    if (why === LEFT && this.#complete && source.leaving !== undefined) {
      source.leaving(record);
      await untunnelled?.(this.uid);
    }
    this.#complete = false;
    watch?.remove(this.uid);
    for (const step of steps.toReversed()) {
      if (why === HANDED_ON && step.staysInPod === true) continue;
      const error = await attempt(() => step.unenrol(pod, why));
      if (error !== undefined) return `${step.name}: ${error}`;
    }
    this.#touched = undefined;
    if (why !== HANDED_ON) source.report(record, undefined);
    source.released(record);
    log.info({ pod: this.#name, why }, 'pod un-enrolled');
    return undefined;
  }

  /** Whether what was enrolled cannot be turned into what is wanted by enrolling again. */
  #isAnother(touched: PodRecord, wanted: PodRecord): boolean {
    return (
      touched.uid !== wanted.uid ||
      touched.netns !== wanted.netns ||
      touched.serviceAccount !== wanted.serviceAccount ||
      touched.ips.join() !== wanted.ips.join() ||
      (this.#netnsId !== '' && this.parts.netnsId(wanted.netns) !== this.#netnsId)
    );
  }

  #settle(error: string | undefined): void {
    this.#error = error ?? '';
    if (error === undefined) {
      this.#backOff.reset();
      return;
    }
    const { source, log, clock } = this.parts;
    if (this.#wanted !== undefined) source.report(this.#wanted, `pending: ${error}`);
    const retryInMs = this.#backOff.next();
    // Each pod is in this state for a moment before it starts.
    const isNormal = this.#wanted?.phase === 'Pending' && this.#wanted.netns === '';
    log[isNormal ? 'debug' : 'warn'](
      { pod: this.#name, error, retryInMs: Math.round(retryInMs) },
      'a pod is not where it should be yet',
    );
    this.#cancelRetry = clock.schedule(retryInMs, () => this.#walk());
  }
}

/** Captured, but by the agent of another revision. */
function isAnothers(record: PodRecord): boolean {
  return captureOf(record).because === 'other-revision';
}

/** A step that throws has a bug; the pod's other steps and the other pods go on. */
export async function attempt(step: () => Promise<string | undefined>): Promise<string | undefined> {
  try {
    return await step();
  } catch (error) {
    return error instanceof Error ? error.message : String(error);
  }
}

function sameRecord(a: PodRecord | undefined, b: PodRecord): boolean {
  return a === b || JSON.stringify(a) === JSON.stringify(b);
}

/** Why a pod is un-enrolled. */
export const DELETED = 'pod deleted';
export const LEFT = 'pod left the mesh';
export const REPLACED = 'pod replaced';
const HANDED_ON = 'pod moved to another revision';
const RETRY_BASE_MS = 100;
const RETRY_MAX_MS = 5000;
