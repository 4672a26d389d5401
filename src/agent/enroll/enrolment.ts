import type { Clock } from '../../lib/clock.js';
import type { Logger } from '../../telemetry/log.js';
import { podUid } from '../store/facts.js';
import { type CaptureReason, captureOf, type PodRecord } from './pod-record.js';
import type { PodSource } from './pod-source.js';
import { attempt, DELETED, LEFT, type PodState, PodTask, REPLACED } from './pod-task.js';

/** What is done for a captured pod. Idempotent; errors are sentences. */
export interface EnrolmentStep {
  readonly name: string;
  /** Left as it is when the pod moves to the agent of another revision: it must not be uncaptured in between. */
  readonly staysInPod?: boolean;
  enrol(pod: EnrolledPod): Promise<string | undefined>;
  /** In reverse order. What is not there is no error. */
  unenrol(pod: EnrolledPod, why: string): Promise<string | undefined>;
  /** May be taken while a predecessor still serves: it costs time, and nobody else notices it. */
  readonly ahead?: true;
  /** What it makes belongs to the node: it is left to a successor as it is. */
  readonly ofNode?: true;
  /** What has drifted from what `enrol` made, one sentence each. */
  audit?(pod: EnrolledPod): Promise<readonly string[]>;
}

/** A pod under the name it has in the mesh. */
export interface EnrolledPod {
  /** `cluster//Pod/namespace/name`. */
  readonly uid: string;
  readonly record: PodRecord;
}

export interface EnrolmentParts {
  readonly source: PodSource;
  /** In the order of enrolment. */
  readonly steps: readonly EnrolmentStep[];
  readonly cluster: string;
  /** Tells network namespaces apart; empty for none. */
  readonly netnsId: (path: string) => string;
  /** Hears at once when somebody meddles with an enrolled pod's namespace; keys are uids. Without it the audit must do. */
  readonly watch?: { add(uid: string, netns: string): unknown; remove(uid: string): void };
  /** Resolves when a pod that was told to leave the mesh is dialled without tunnels. */
  readonly untunnelled?: (uid: string) => Promise<void>;
  /** A pod was found to have drifted. */
  readonly drifted?: () => void;
  /** All pods have been looked at, again. */
  readonly audited?: () => Promise<void>;
  readonly clock: Clock;
  readonly log: Logger;
  readonly random?: () => number;
  readonly auditIntervalMs?: number;
}

/** Whether a pod may start: it is captured now, or it is not to be. */
export type Admission = { readonly captured: true } | { readonly captured: false; readonly because: CaptureReason };

/**
 * Keeps the captured pods of this node enrolled: what should be comes from the source as a whole list, and each pod
 * walks there by itself, again and again. A pod that fails does not hold up another.
 */
export class Enrolment {
  readonly #tasks = new Map<string, PodTask>();
  readonly #waiting = new Set<() => void>();
  readonly #suspicions = new Map<string, { again: boolean }>();
  #isListed = false;
  #mode: 'idle' | 'preparing' | 'working' | 'standing by' = 'idle';
  /** What the source said last. */
  #current: ReadonlyMap<string, PodRecord> | undefined;
  readonly #prepared = new Map<string, PodRecord>();
  #cancelAudit: () => void = () => undefined;

  constructor(readonly parts: EnrolmentParts) {}

  /** Takes the steps that may be taken ahead, for all captured pods as they come and go, and no other. */
  async prepare(): Promise<void> {
    await this.#begin('preparing');
  }

  async start(): Promise<void> {
    this.#auditLater();
    await this.#begin('working');
  }

  /** A successor enrols from now on. Of pods that go, what this process holds is let go; the node's share is left. */
  standBy(): void {
    this.#mode = 'standing by';
    this.#cancelAudit();
    for (const task of this.#tasks.values()) task.stop();
    void this.#listed();
  }

  /** The successor is gone: all steps are taken again. */
  resume(): void {
    this.#mode = 'working';
    for (const task of this.#tasks.values()) task.again();
    this.#auditLater();
    void this.#listed();
  }

  /** Stops looking; what is enrolled stays so. */
  close(): void {
    this.#cancelAudit();
    this.parts.source.close();
    for (const task of this.#tasks.values()) task.stop();
  }

  /** True once the first list has come and each of its pods has been tried once. */
  get settled(): boolean {
    return this.#mode !== 'preparing' && this.#isListed && [...this.#tasks.values()].every((task) => task.tried);
  }

  /** True once the first list has come and been prepared for. */
  get prepared(): boolean {
    return this.#isListed;
  }

  /**
   * Waits until a pod is enrolled, or known to be left alone; an empty `uid` is any pod of that name. Rejects with an
   * Error that says what is missing when the signal comes first.
   */
  admission(namespace: string, name: string, uid: string, signal: AbortSignal): Promise<Admission> {
    return new Promise((resolve, reject) => {
      const look = () => {
        const admission = this.#admission(namespace, name, uid);
        if (admission === undefined && !signal.aborted) return;
        this.#waiting.delete(look);
        signal.removeEventListener('abort', look);
        if (admission !== undefined) resolve(admission);
        else reject(new Error(`pod ${namespace}/${name} is not captured yet: ${this.#missing(namespace, name)}`));
      };
      this.#waiting.add(look);
      signal.addEventListener('abort', look);
      look();
    });
  }

  /** Somebody has changed something in the namespace of an enrolled pod: looks at once, but not all the time. */
  suspect(uid: string): void {
    const suspicion = this.#suspicions.get(uid);
    if (suspicion !== undefined) {
      suspicion.again = true;
      return;
    }
    const fresh = { again: false };
    this.#suspicions.set(uid, fresh);
    void (async () => {
      const looked = await this.#tasks.get(uid)?.audit();
      this.parts.clock.schedule(SUSPICION_PAUSE_MS, () => {
        this.#suspicions.delete(uid);
        if (fresh.again || looked === false) this.suspect(uid);
      });
    })();
  }

  /** Running pods that should be captured and are not: their traffic is not held by their own rules. */
  get uncaptured(): number {
    return [...this.#tasks.values()].filter((task) => task.isPending && task.record.phase === 'Running').length;
  }

  /** Captured pods that are not enrolled. */
  get pending(): number {
    return this.states().filter(({ state }) => state === 'pending').length;
  }

  states(): PodState[] {
    return [...this.#tasks.values()].map((task) => task.state);
  }

  /** The record of a pod by `namespace/name`, captured or not. */
  record(name: string): PodRecord | undefined {
    for (const { record } of this.#tasks.values()) if (`${record.namespace}/${record.name}` === name) return record;
    return undefined;
  }

  async #begin(mode: 'preparing' | 'working'): Promise<void> {
    const isStarted = this.#mode !== 'idle';
    this.#mode = mode;
    if (!isStarted) await this.parts.source.start((records) => this.#list(records));
    else await this.#listed();
  }

  #list(records: readonly PodRecord[]): void {
    const current = new Map<string, PodRecord>();
    for (const record of records) {
      const uid = podUid(this.parts.cluster, record.namespace, record.name);
      const rival = current.get(uid);
      // Two pods of one name: one is on its way out.
      if (rival === undefined || liveliness(record) >= liveliness(rival)) current.set(uid, record);
    }
    this.#current = current;
    void this.#listed();
  }

  async #listed(): Promise<void> {
    const current = this.#current;
    if (current === undefined) return;
    if (this.#mode === 'preparing') await this.#prepareFor(current);
    else if (this.#mode === 'standing by') this.#letGo(current);
    else {
      await this.#forgetPrepared((uid) => !current.has(uid));
      for (const [uid, task] of this.#tasks) if (!current.has(uid)) task.aim(undefined);
      for (const [uid, record] of current) this.#task(uid, record).aim(record);
    }
    this.#isListed = true;
    this.#look();
  }

  async #prepareFor(current: ReadonlyMap<string, PodRecord>): Promise<void> {
    await this.#forgetPrepared((uid, record) => {
      const now = current.get(uid);
      return now === undefined || !captureOf(now).captured || now.serviceAccount !== record.serviceAccount;
    });
    const steps = this.parts.steps.filter(({ ahead }) => ahead === true);
    for (const [uid, record] of current) {
      if (!captureOf(record).captured) continue;
      this.#prepared.set(uid, record);
      for (const step of steps) await attempt(() => step.enrol({ uid, record }));
    }
  }

  async #forgetPrepared(isOver: (uid: string, record: PodRecord) => boolean): Promise<void> {
    const steps = this.parts.steps.filter(({ ahead }) => ahead === true).toReversed();
    for (const [uid, record] of [...this.#prepared]) {
      if (!isOver(uid, record)) continue;
      this.#prepared.delete(uid);
      for (const step of steps) await attempt(() => step.unenrol({ uid, record }, DELETED));
    }
    if (this.#mode === 'working') this.#prepared.clear();
  }

  #letGo(current: ReadonlyMap<string, PodRecord>): void {
    for (const [uid, task] of this.#tasks) {
      const record = current.get(uid);
      if (record === undefined) void task.letGo(DELETED);
      else if (!captureOf(record).captured) void task.letGo(LEFT);
      else if (!task.isFor(record)) void task.letGo(REPLACED);
    }
  }

  #look(): void {
    for (const look of [...this.#waiting]) look();
  }

  #admission(namespace: string, name: string, uid: string): Admission | undefined {
    const task = this.#tasks.get(podUid(this.parts.cluster, namespace, name));
    if (task === undefined || (uid !== '' && task.record.uid !== uid)) return undefined;
    const { captured, because } = captureOf(task.record);
    if (!captured) return { captured, because };
    return task.isPending || !task.tried ? undefined : { captured };
  }

  #missing(namespace: string, name: string): string {
    const task = this.#tasks.get(podUid(this.parts.cluster, namespace, name));
    return task === undefined ? 'the agent has not heard of it' : task.state.error || 'it is being enrolled';
  }

  #task(uid: string, record: PodRecord): PodTask {
    const known = this.#tasks.get(uid);
    if (known !== undefined) return known;
    const task = new PodTask(
      uid,
      record,
      this.parts,
      () => this.#look(),
      () => {
        if (this.#tasks.get(uid) === task) this.#tasks.delete(uid);
      },
    );
    this.#tasks.set(uid, task);
    return task;
  }

  #auditLater(): void {
    const { clock, auditIntervalMs } = this.parts;
    this.#cancelAudit = clock.schedule(auditIntervalMs ?? AUDIT_INTERVAL_MS, async () => {
      for (const task of [...this.#tasks.values()]) await task.audit();
      await this.parts.audited?.();
      this.#auditLater();
    });
  }
}

function liveliness(record: PodRecord): number {
  return record.phase === 'Running' ? 2 : record.phase === 'Pending' ? 1 : 0;
}

const SUSPICION_PAUSE_MS = 500;
const AUDIT_INTERVAL_MS = 10_000;
