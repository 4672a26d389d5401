import type { Clock } from '../../lib/clock.js';
import type { Logger } from '../../telemetry/log.js';
import { podUid } from '../store/facts.js';
import type { PodRecord } from './pod-record.js';
import type { PodSource } from './pod-source.js';
import { type PodState, PodTask } from './pod-task.js';

/** What is done for a captured pod. Idempotent; errors are sentences. */
export interface EnrolmentStep {
  readonly name: string;
  enrol(pod: EnrolledPod): Promise<string | undefined>;
  /** In reverse order. What is not there is no error. */
  unenrol(pod: EnrolledPod, why: string): Promise<string | undefined>;
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
  readonly clock: Clock;
  readonly log: Logger;
  readonly random?: () => number;
  readonly auditIntervalMs?: number;
}

/**
 * Keeps the captured pods of this node enrolled: what should be comes from the source as a whole list, and each pod
 * walks there by itself, again and again. A pod that fails does not hold up another.
 */
export class Enrolment {
  readonly #tasks = new Map<string, PodTask>();
  #listed = false;
  #cancelAudit: () => void = () => undefined;

  constructor(readonly parts: EnrolmentParts) {}

  async start(): Promise<void> {
    this.#auditLater();
    await this.parts.source.start((records) => this.#list(records));
  }

  /** Stops looking; what is enrolled stays so. */
  close(): void {
    this.#cancelAudit();
    this.parts.source.close();
    for (const task of this.#tasks.values()) task.stop();
  }

  /** True once the first list has come and each of its pods has been tried once. */
  get settled(): boolean {
    return this.#listed && [...this.#tasks.values()].every((task) => task.tried);
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

  #list(records: readonly PodRecord[]): void {
    const current = new Map<string, PodRecord>();
    for (const record of records) {
      const uid = podUid(this.parts.cluster, record.namespace, record.name);
      const rival = current.get(uid);
      // Two pods of one name: one is on its way out.
      if (rival === undefined || liveliness(record) >= liveliness(rival)) current.set(uid, record);
    }
    for (const [uid, task] of this.#tasks) if (!current.has(uid)) task.aim(undefined);
    for (const [uid, record] of current) this.#task(uid, record).aim(record);
    this.#listed = true;
  }

  #task(uid: string, record: PodRecord): PodTask {
    const known = this.#tasks.get(uid);
    if (known !== undefined) return known;
    const task = new PodTask(uid, record, this.parts, () => {
      if (this.#tasks.get(uid) === task) this.#tasks.delete(uid);
    });
    this.#tasks.set(uid, task);
    return task;
  }

  #auditLater(): void {
    const { clock, auditIntervalMs } = this.parts;
    this.#cancelAudit = clock.schedule(auditIntervalMs ?? AUDIT_INTERVAL_MS, async () => {
      for (const task of [...this.#tasks.values()]) await task.audit();
      this.#auditLater();
    });
  }
}

function liveliness(record: PodRecord): number {
  return record.phase === 'Running' ? 2 : record.phase === 'Pending' ? 1 : 0;
}

const AUDIT_INTERVAL_MS = 30_000;
