import { ApiError, type ApiObject, type KubeApi, type ObjectName } from '../../kube/api.js';
import { RESOURCES } from '../../kube/resources.js';
import type { Clock } from '../../lib/clock.js';
import type { Logger } from '../../telemetry/log.js';
import type { Counter, MetricsRegistry } from '../../telemetry/metrics.js';
import type { Leader, LeaderTask } from './leader.js';
import { decide, type LeaseRecord, leaseSpec, microTime, type Observed, readLease } from './lease.js';
import { Terms } from './terms.js';

export interface ElectionOptions {
  readonly api: Pick<KubeApi, 'get' | 'create' | 'replace'>;
  readonly lease: Required<ObjectName>;
  /** Who we are: different in every process, also of one pod. */
  readonly self: string;
  /** Runs evenly, whatever happens to the time of day. */
  readonly clock: Clock;
  /** The time of day, for people who read the lease. */
  readonly today?: () => Date;
  readonly log: Logger;
  readonly metrics: MetricsRegistry;
}

/**
 * Leads for as long as a Lease of the cluster says so, and stops of its own accord when it could not renew it in time:
 * before anybody else may take it. Of a leader that is killed another takes over within 13 s, of one that is closed
 * within 2 s.
 */
export class LeaseElection implements Leader {
  readonly #options: ElectionOptions;
  readonly #terms: Terms;
  readonly #errors: Counter;
  #known: ApiObject | undefined;
  #observed: Observed | undefined;
  #validUntilMs = Number.NEGATIVE_INFINITY;
  #cancelStep: () => void = () => {};
  #cancelEnd: () => void = () => {};
  #step: Promise<void> = Promise.resolve();
  #closed = false;
  #lastError = '';

  constructor(options: ElectionOptions) {
    this.#options = options;
    this.#terms = new Terms(options);
    this.#errors = options.metrics.counter('meltemi_lease_errors_total', 'Requests about the lease that failed.');
    this.#next(0);
  }

  get isLeader(): boolean {
    return this.#terms.isRunning && this.#options.clock.now() < this.#validUntilMs;
  }

  /** Who leads, as far as known; empty when nobody does. */
  get holder(): string {
    return this.#observed?.record.holder ?? '';
  }

  run(name: string, task: LeaderTask): () => void {
    return this.#terms.run(name, task);
  }

  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    this.#cancelStep();
    await this.#step;
    const led = this.isLeader;
    this.#end('closed');
    await this.#terms.settled();
    if (led) await this.#release();
  }

  #next(delayMs: number): void {
    if (this.#closed) return;
    this.#cancelStep();
    this.#cancelStep = this.#options.clock.schedule(delayMs, () => {
      this.#step = this.#take().then((delay) => this.#next(delay));
    });
  }

  /** One look and what follows from it. Never rejects. Returns when to look again. */
  async #take(): Promise<number> {
    const { clock, self, log } = this.#options;
    try {
      // Whoever leads knows the lease: it was the last to write it, and learns of a change by a conflict.
      if (!this.isLeader) await this.#look();
      const decision = decide(this.#observed, self, clock.now());
      if (decision.action === 'wait') {
        this.#end(decision.because);
        return Math.min(decision.forMs, RETRY_MS);
      }
      const sentMs = clock.now();
      await this.#write(this.#record(self, decision.action === 'acquire'));
      this.#lead(sentMs, decision.because);
      this.#lastError = '';
      return RETRY_MS;
    } catch (error) {
      if (error instanceof ApiError && (error.status === 409 || error.status === 404)) {
        // Somebody was faster, or the lease is gone: look again, and if it is another's, end.
        await this.#look().catch(() => undefined);
        if (this.#observed !== undefined && this.#observed.record.holder !== self) this.#end('another took the lease');
        return CONFLICT_RETRY_MS;
      }
      this.#errors.inc();
      const message = error instanceof Error ? error.message : String(error);
      if (message !== this.#lastError)
        log.warn({ error: message, leads: this.isLeader }, 'the lease cannot be had now');
      this.#lastError = message;
      return RETRY_MS;
    }
  }

  async #look(): Promise<void> {
    const { api, lease } = this.#options;
    this.#saw(await this.#inTime(api.get(RESOURCES.Lease, lease)));
  }

  #saw(object: ApiObject | undefined): void {
    // If somebody removes the lease, its last holder may lead still: what was observed counts until it has run out.
    const isNew = object !== undefined && object.metadata.resourceVersion !== this.#known?.metadata.resourceVersion;
    if (isNew) this.#observed = { record: readLease(object), sinceMs: this.#options.clock.now() };
    this.#known = object;
  }

  #record(holder: string, isNew: boolean): LeaseRecord {
    const { today = () => new Date() } = this.#options;
    const former = this.#observed?.record;
    const now = microTime(today());
    return {
      holder,
      durationMs: DURATION_MS,
      transitions: (former?.transitions ?? 0) + (isNew && former !== undefined ? 1 : 0),
      acquired: isNew ? now : (former?.acquired ?? now),
      renewed: now,
    };
  }

  async #write(record: LeaseRecord): Promise<void> {
    const { api, lease } = this.#options;
    const spec = leaseSpec(record);
    const written =
      this.#known === undefined
        ? api.create(RESOURCES.Lease, {
            apiVersion: 'coordination.k8s.io/v1',
            kind: 'Lease',
            metadata: { ...lease, labels: { 'app.kubernetes.io/managed-by': 'meltemi' } },
            spec,
          })
        : api.replace(RESOURCES.Lease, { ...this.#known, spec });
    this.#saw(await this.#inTime(written));
  }

  #lead(sentMs: number, because: string): void {
    const { clock, log, lease, self } = this.#options;
    this.#validUntilMs = sentMs + DEADLINE_MS;
    const leftMs = this.#validUntilMs - clock.now();
    if (leftMs <= 0 || this.#closed) return;
    this.#cancelEnd();
    this.#cancelEnd = clock.schedule(leftMs, () => this.#end('the lease could not be renewed in time'));
    if (this.#terms.isRunning) return;
    log.info({ lease: lease.name, self, because }, 'leads');
    this.#terms.begin();
  }

  #end(because: string): void {
    this.#cancelEnd();
    this.#validUntilMs = Number.NEGATIVE_INFINITY;
    if (!this.#terms.isRunning) return;
    this.#options.log.info({ lease: this.#options.lease.name, because }, 'leads no longer');
    this.#terms.end(because);
  }

  /** So that nobody has to wait for the lease to run out. If it fails, they wait. */
  async #release(): Promise<void> {
    try {
      await this.#write({ ...this.#record('', false), durationMs: RELEASED_DURATION_MS });
    } catch (error) {
      this.#options.log.warn({ error }, 'the lease could not be given up; it will run out');
    }
  }

  /** A request that hangs counts as failed: what it may still write is ours, and harmless. */
  #inTime<T>(request: Promise<T>): Promise<T> {
    const { promise, resolve, reject } = Promise.withResolvers<T>();
    const cancel = this.#options.clock.schedule(REQUEST_TIMEOUT_MS, () =>
      reject(new ApiError(0, '', `no answer about the lease within ${REQUEST_TIMEOUT_MS} ms`)),
    );
    request.then(resolve, reject).finally(cancel);
    return promise;
  }
}

/** A lease that was not renewed for so long is anybody's. */
const DURATION_MS = 10_000;
/** So long after the last renewal that went well a leader stops: others wait longer, so clocks may differ in rate by 40 %. */
const DEADLINE_MS = 7_000;
const RETRY_MS = 2_000;
const CONFLICT_RETRY_MS = 200;
const REQUEST_TIMEOUT_MS = 2_500;
const RELEASED_DURATION_MS = 1_000;
