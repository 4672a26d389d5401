import { ApiError, type KubeApi } from '../../kube/api.js';
import { RESOURCES } from '../../kube/resources.js';
import { BackOff } from '../../lib/back-off.js';
import type { Clock } from '../../lib/clock.js';
import type { Logger } from '../../telemetry/log.js';
import { REDIRECTION } from './pod-object.js';

/** A pod as the writer needs it. */
export interface AnnotatedPod {
  readonly uid: string;
  readonly namespace: string;
  readonly name: string;
}

/**
 * Writes the annotation that tells whether a pod is captured: only when it says something else, `enabled` at once,
 * `pending` only when it stays so for a moment (each pod is, for a moment). One write at a time for each pod; failures
 * are tried again.
 */
export class RedirectionWriter {
  readonly #wishes = new Map<string, Wish>();

  constructor(
    readonly api: Pick<KubeApi, 'patch'>,
    readonly clock: Clock,
    readonly log: Logger,
  ) {}

  /** What should be there; undefined for nothing. `delayMs`: and still is, by then. */
  want(
    pod: AnnotatedPod,
    value: 'enabled' | 'pending' | undefined,
    delayMs = value === 'pending' ? PENDING_MS : 0,
  ): void {
    const wish = this.#wish(pod);
    wish.wanted = value;
    wish.hasWish = true;
    wish.backOff.reset();
    this.#schedule(wish, delayMs);
  }

  /** What the API server has; empty for nothing. */
  seen(pod: AnnotatedPod, value: string): void {
    const wish = this.#wish(pod);
    if (wish.shown === value) return;
    wish.shown = value;
    // It may be older than our last write, or somebody else's.
    if (wish.hasWish && !wish.writing) this.#schedule(wish, SEEN_MS);
  }

  /** The pod object is gone. */
  forget(uid: string): void {
    this.#wishes.get(uid)?.cancel();
    this.#wishes.delete(uid);
  }

  close(): void {
    for (const uid of [...this.#wishes.keys()]) this.forget(uid);
  }

  #wish(pod: AnnotatedPod): Wish {
    const known = this.#wishes.get(pod.uid);
    if (known !== undefined) return known;
    const wish: Wish = {
      pod,
      wanted: undefined,
      hasWish: false,
      shown: '',
      writing: false,
      backOff: new BackOff(BASE_MS, MAX_MS),
      cancel: () => undefined,
    };
    this.#wishes.set(pod.uid, wish);
    return wish;
  }

  #schedule(wish: Wish, delayMs: number): void {
    wish.cancel();
    if (wish.shown === (wish.wanted ?? '') || wish.writing) return;
    if (delayMs === 0) void this.#write(wish);
    else wish.cancel = this.clock.schedule(delayMs, () => void this.#write(wish));
  }

  async #write(wish: Wish): Promise<void> {
    const { pod, wanted } = wish;
    if (wish.writing || wish.shown === (wanted ?? '')) return;
    wish.writing = true;
    let retryMs = 0;
    try {
      // With its uid: a successor of the same name is not meant.
      const metadata = { uid: pod.uid, annotations: { [REDIRECTION]: wanted ?? null } };
      await this.api.patch(RESOURCES.Pod, pod, { metadata });
      wish.shown = wanted ?? '';
      wish.backOff.reset();
    } catch (error) {
      const gone = error instanceof ApiError && (error.status === 404 || error.status === 409);
      if (gone) this.forget(pod.uid);
      retryMs = wish.backOff.next();
      const name = `${pod.namespace}/${pod.name}`;
      if (!gone) this.log.warn({ pod: name, error }, 'the annotation of a pod cannot be written yet');
    } finally {
      wish.writing = false;
    }
    if (this.#wishes.get(pod.uid) === wish) this.#schedule(wish, retryMs);
  }
}

interface Wish {
  readonly pod: AnnotatedPod;
  wanted: 'enabled' | 'pending' | undefined;
  hasWish: boolean;
  shown: string;
  writing: boolean;
  readonly backOff: BackOff;
  cancel: () => void;
}

const PENDING_MS = 2000;
const SEEN_MS = 2000;
const BASE_MS = 200;
const MAX_MS = 30_000;
