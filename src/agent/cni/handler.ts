import type { Clock } from '../../lib/clock.js';
import type { Logger } from '../../telemetry/log.js';
import type { Counter, Histogram, MetricsRegistry } from '../../telemetry/metrics.js';
import type { Sandbox } from '../enroll/sandboxes.js';
import { hostPath } from './host-path.js';
import type { CniRequest } from './request.js';

/** What the plugin is answered (`native/cni/src/answer.rs`). */
export interface CniAnswer {
  readonly status: number;
  readonly body: {
    readonly result?: 'enrolled' | 'not-captured' | 'ok';
    readonly because: string;
    readonly remedy?: string;
    /** Ask again in a moment, or ask the agent that comes after this one. */
    readonly retry?: boolean;
  };
}

export interface HandlerParts {
  readonly sandboxes: { put(sandbox: Sandbox): Promise<void>; remove(uid: string): void };
  readonly enrolment: {
    /** Resolves when the pod may start; rejects with the pod's last error when the signal aborts before. */
    admission(
      namespace: string,
      name: string,
      uid: string,
      signal: AbortSignal,
    ): Promise<{ readonly captured: boolean; readonly because?: string }>;
    readonly settled: boolean;
  };
  /** Under which this process sees the node's files. */
  readonly hostRoot: string;
  readonly clock: Clock;
  readonly log: Logger;
  readonly metrics: MetricsRegistry;
  readonly maxWaiting?: number;
}

/** Answers the plugin: who waits for a pod's sandbox is told when the pod is enrolled, or is not to be. */
export class CniHandler {
  readonly #requests: Counter;
  readonly #seconds: Histogram;
  readonly #waiting = new Set<AbortController>();
  /** By the uid of the pod, which container is its newest sandbox: the end of a former one ends nothing. */
  readonly #sandboxes = new Map<string, string>();
  #closed = false;

  constructor(readonly parts: HandlerParts) {
    const { metrics } = parts;
    this.#requests = metrics.counter('meltemi_cni_requests_total', 'Requests of the CNI plugin.', ['verb', 'result']);
    this.#seconds = metrics.histogram(
      'meltemi_cni_add_duration_seconds',
      'How long a pod that starts waited for its enrolment.',
      [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30],
    );
    metrics.gauge('meltemi_cni_waiting', 'Pods that wait for their enrolment.', [], () => this.#waiting.size);
  }

  async answer(verb: string, request: CniRequest, gone: AbortSignal): Promise<CniAnswer> {
    const [result, answer] = await this.#do(verb, request, gone);
    this.#requests.inc({ verb: KNOWN_VERBS.has(verb) ? verb : 'unknown', result });
    return answer;
  }

  /** Counts a request that never got to be one. */
  refused(because: string): CniAnswer {
    this.#requests.inc({ verb: 'unknown', result: 'bad-request' });
    return { status: 400, body: { because, remedy: 'plugin and agent may be of different versions' } };
  }

  status(): CniAnswer {
    const ready = this.parts.enrolment.settled && !this.#closed;
    this.#requests.inc({ verb: 'status', result: ready ? 'ok' : 'starting' });
    if (ready) return { status: 200, body: { result: 'ok', because: 'the agent is at work' } };
    return { status: 503, body: { because: 'the agent of this node is starting or stopping', remedy: 'wait' } };
  }

  /** After `close`: asks the enrolment again. */
  reopen(): void {
    this.#closed = false;
  }

  /** From now on everybody is told to ask the next agent, also those who wait. */
  close(): void {
    this.#closed = true;
    for (const waiting of this.#waiting) waiting.abort();
  }

  async #do(verb: string, request: CniRequest, gone: AbortSignal): Promise<[result: string, CniAnswer]> {
    if (this.#closed) return STOPPING;
    if (verb === 'add') return await this.#add(request, gone);
    if (verb === 'check') return await this.#admit(request, gone);
    if (verb === 'del') return this.#delete(request);
    return ['bad-request', { status: 404, body: { because: `there is no verb ${verb}` } }];
  }

  async #add(request: CniRequest, gone: AbortSignal): Promise<[string, CniAnswer]> {
    const { sandboxes, hostRoot, clock } = this.parts;
    if (request.netns === '') return ['bad-request', this.#bad('the request names no network namespace')];
    if (this.#waiting.size >= (this.parts.maxWaiting ?? MAX_WAITING)) {
      const because = `${this.#waiting.size} pods of this node wait for their enrolment already`;
      return ['busy', { status: 503, body: { because, retry: true } }];
    }
    const started = clock.now();
    const { uid, namespace, name, containerId, ips } = request;
    this.#remember(uid, containerId);
    const netns = hostPath(hostRoot, request.netns);
    const put = sandboxes.put({ uid, namespace, name, netns, ips });
    const answer = await this.#admit(request, gone, put);
    this.#seconds.observe((clock.now() - started) / 1000);
    return answer;
  }

  /** Waits until the pod may start, for as long as the plugin does. */
  async #admit(request: CniRequest, gone: AbortSignal, put?: Promise<void>): Promise<[string, CniAnswer]> {
    const { enrolment, clock, log } = this.parts;
    const { namespace, name, uid, waitMs } = request;
    const waiting = new AbortController();
    const abort = () => waiting.abort();
    this.#waiting.add(waiting);
    gone.addEventListener('abort', abort, { once: true });
    const cancel = clock.schedule(waitMs, abort);
    try {
      await put;
      const { captured, because } = await enrolment.admission(namespace, name, uid, waiting.signal);
      const result = captured ? 'enrolled' : 'not-captured';
      return [result, { status: 200, body: { result, because: because ?? '' } }];
    } catch (error) {
      if (this.#closed) return STOPPING;
      if (gone.aborted) return ['abandoned', { status: 499, body: { because: 'the plugin went away' } }];
      const because = error instanceof Error ? error.message : String(error);
      log.warn({ pod: `${namespace}/${name}`, because }, 'a pod that is being started is not enrolled yet');
      return ['failed', { status: 500, body: { because, remedy: REMEDY } }];
    } finally {
      cancel();
      gone.removeEventListener('abort', abort);
      this.#waiting.delete(waiting);
    }
  }

  #delete({ uid, containerId }: CniRequest): [string, CniAnswer] {
    if (uid !== '' && this.#sandboxes.get(uid) === containerId) {
      this.#sandboxes.delete(uid);
      this.parts.sandboxes.remove(uid);
    }
    return ['ok', { status: 200, body: { result: 'ok', because: '' } }];
  }

  #bad(because: string): CniAnswer {
    return { status: 400, body: { because, remedy: 'plugin and agent may be of different versions' } };
  }

  #remember(uid: string, containerId: string): void {
    if (uid === '') return;
    this.#sandboxes.delete(uid);
    this.#sandboxes.set(uid, containerId);
    const [oldest] = this.#sandboxes.keys();
    if (this.#sandboxes.size > MAX_REMEMBERED && oldest !== undefined) this.#sandboxes.delete(oldest);
  }
}

const STOPPING: [string, CniAnswer] = [
  'stopping',
  { status: 503, body: { because: 'this agent is being replaced', retry: true } },
];
const REMEDY =
  'the kubelet tries again; the log of the agent on this node says more, and so does its /config_dump (pods)';
const KNOWN_VERBS: ReadonlySet<string> = new Set(['add', 'del', 'check']);
/** A node has some hundred pods at most. */
const MAX_WAITING = 512;
const MAX_REMEMBERED = 4096;
