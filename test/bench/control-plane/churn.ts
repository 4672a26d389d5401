/** Pods that come, go, and are ready or not, at a given rate. */
import { setTimeout as sleep } from 'node:timers/promises';
import type { KubeApi } from '../../../src/kube/api.js';
import type { MadeChange } from './orders.js';
import {
  addressOf,
  createPod,
  deletePod,
  nowMs,
  type PodName,
  podNameOf,
  podOf,
  resourceOf,
  type Shape,
  setReady,
  type Times,
} from './seed.js';

export interface ChurnPlan {
  readonly perSecond: number;
  readonly spacing: 'even' | 'poisson';
  readonly seconds: number;
}

/** Makes changes and says which; the cluster keeps its size within some hundred pods. */
export class Churn {
  readonly #api: KubeApi;
  readonly #shape: Shape;
  /** Next pods to touch. */
  #created = 0;
  #next = 0;
  readonly #unready: Touched[] = [];
  readonly #extra: Touched[] = [];

  constructor(api: KubeApi, shape: Shape) {
    this.#api = api;
    this.#shape = shape;
  }

  /** Resolves when every change has been answered. */
  async run({ perSecond, spacing, seconds }: ChurnPlan): Promise<readonly MadeChange[]> {
    const made: Promise<MadeChange>[] = [];
    const startMs = nowMs();
    let dueMs = startMs;
    for (let i = 0; dueMs < startMs + seconds * 1000; i++) {
      const waitMs = dueMs - nowMs();
      if (waitMs > 1) await sleep(waitMs);
      made.push(this.#change(i));
      dueMs += spacing === 'even' ? 1000 / perSecond : (-Math.log(1 - Math.random()) * 1000) / perSecond;
    }
    return Promise.all(made);
  }

  /** Leaves the cluster as it was found. */
  async undo(): Promise<void> {
    const times: Times = { fromMs: 0, answeredMs: 0 };
    for (const pod of this.#extra.splice(0)) await deletePod(this.#api, pod, times);
    for (const pod of this.#unready.splice(0)) await setReady(this.#api, pod, true, times);
  }

  /** Create, unready, ready, delete, in turn; where nothing is old enough for one of them, another. */
  async #change(i: number): Promise<MadeChange> {
    const times: Times = { fromMs: 0, answeredMs: 0 };
    const turn = i % 4;
    const ready = turn === 2 ? takeOld(this.#unready) : undefined;
    const gone = turn === 3 ? takeOld(this.#extra) : undefined;
    let pod: PodName;
    if (ready !== undefined) {
      pod = ready;
      await setReady(this.#api, pod, true, times);
    } else if (gone !== undefined) {
      pod = gone;
      await deletePod(this.#api, pod, times);
    } else if (turn === 0 || turn === 3) {
      const number = this.#shape.pods + this.#created++;
      pod = podNameOf(this.#shape, number, 'extra');
      await createPod(this.#api, podOf(this.#shape, number, 'extra'), addressOf(number), times);
      this.#extra.push({ ...pod, atMs: nowMs() });
    } else {
      pod = podNameOf(this.#shape, this.#next++ % this.#shape.pods);
      await setReady(this.#api, pod, false, times);
      this.#unready.push({ ...pod, atMs: nowMs() });
    }
    return { name: resourceOf(pod), ...times, gone: gone !== undefined };
  }
}

interface Touched extends PodName {
  readonly atMs: number;
}

/** A pod is left alone for a while after a change, so that each change can be told from the next. */
function takeOld(touched: Touched[]): PodName | undefined {
  const [oldest] = touched;
  if (oldest === undefined || nowMs() - oldest.atMs < REST_MS) return undefined;
  touched.shift();
  return { namespace: oldest.namespace, name: oldest.name };
}

const REST_MS = 2000;
