import { ApiError, type ApiObject, type KubeApi } from '../../kube/api.js';
import { RESOURCES } from '../../kube/resources.js';
import { BackOff } from '../../lib/back-off.js';
import type { Clock } from '../../lib/clock.js';
import { err, ok, type Result } from '../../lib/result.js';
import { isRecord } from '../../model/kubernetes/fields.js';
import { type KubernetesObject, type ParseError, parseObject } from '../../model/kubernetes/object.js';
import type { Logger } from '../../telemetry/log.js';
import type { Counter, MetricsRegistry } from '../../telemetry/metrics.js';
import type { Inputs } from '../inputs/inputs.js';
import { pause } from '../leader/terms.js';
import type { Mesh } from '../mesh/mesh.js';
import { type Condition, conditionsOf, KINDS_WITH_CONDITIONS, type KindWithConditions } from './conditions.js';
import { CONDITION } from './reasons.js';

export interface StatusWriterOptions {
  readonly api: Pick<KubeApi, 'get' | 'apply'>;
  readonly inputs: Inputs;
  readonly mesh: Pick<Mesh, 'warnings' | 'facts'>;
  readonly clock: Clock;
  readonly log: Logger;
  readonly metrics: MetricsRegistry;
}

/**
 * Writes conditions to the status of objects. A change of an object, or of what is to be warned of it, puts it into a
 * queue; when its turn comes it is read afresh, judged as it is then, and written only if something differs. So a
 * condition always belongs to the generation it names, and two control planes never write against each other without
 * end. Conditions of others stay.
 */
export class StatusWriter {
  readonly #options: StatusWriterOptions;
  readonly #queue = new Map<string, Item>();
  readonly #rejected = new Set<string>();
  readonly #writes: Counter;
  #wake = Promise.withResolvers<void>();

  constructor(options: StatusWriterOptions) {
    this.#options = options;
    const { metrics } = options;
    this.#writes = metrics.counter('meltemi_status_writes_total', 'Statuses that were looked at.', ['outcome']);
    metrics.gauge('meltemi_status_queue', 'Objects whose status is to be looked at.', [], () => this.#queue.size);
  }

  /** An object of the cluster is no good: `Kind namespace/name`. */
  rejected(object: string): void {
    if (itemOf(object) === undefined) return;
    this.#rejected.add(object);
    this.#put(object);
  }

  /** Works until the signal aborts: first through everything there is, then through what changes. */
  async run(signal: AbortSignal): Promise<void> {
    const { clock, inputs, mesh } = this.#options;
    using watched = new DisposableStack();
    for (const kind of KINDS_WITH_CONDITIONS) {
      for (const [key] of inputs[kind].entries()) this.#put(`${kind} ${key}`);
      watched.defer(
        inputs[kind].subscribe((changes) => {
          for (const { key, after } of changes) if (after !== undefined) this.#put(`${kind} ${key}`);
        }),
      );
    }
    watched.defer(
      mesh.warnings.subscribe((changes) => {
        for (const { key } of changes) this.#put(key);
      }),
    );
    for (const object of this.#rejected) this.#put(object);
    const stopped = new Promise<void>((resolve) => signal.addEventListener('abort', () => resolve(), { once: true }));
    while (!signal.aborted) {
      const next = this.#next();
      if (next === undefined) {
        await Promise.race([this.#wake.promise, stopped]);
        // What changes together is looked at together.
        await pause(clock, SETTLE_MS, signal);
        continue;
      }
      const waitMs = next.item.notBeforeMs - clock.now();
      if (waitMs > 0) await pause(clock, Math.min(waitMs, MAX_WAIT_MS), signal);
      else {
        await this.#look(next.object, next.item);
        await pause(clock, INTERVAL_MS, signal);
      }
    }
    this.#queue.clear();
  }

  #put(object: string): void {
    const item = itemOf(object);
    if (item === undefined || this.#queue.has(object)) return;
    if (this.#queue.size >= MAX_QUEUED) {
      this.#writes.inc({ outcome: 'dropped' });
      return;
    }
    this.#queue.set(object, item);
    this.#wake.resolve();
  }

  /** The first that is due, or else the one that is due first. */
  #next(): { readonly object: string; readonly item: Item } | undefined {
    let soonest: { readonly object: string; readonly item: Item } | undefined;
    for (const [object, item] of this.#queue) {
      if (soonest === undefined || item.notBeforeMs < soonest.item.notBeforeMs) soonest = { object, item };
      if (soonest.item.notBeforeMs === 0) break;
    }
    if (soonest === undefined) this.#wake = Promise.withResolvers();
    return soonest;
  }

  async #look(object: string, item: Item): Promise<void> {
    this.#queue.delete(object);
    try {
      this.#writes.inc({ outcome: await this.#write(object, item) });
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      const isConflict = error.status === 409;
      this.#writes.inc({ outcome: isConflict ? 'conflict' : 'failed' });
      if (!isConflict) this.#options.log.warn({ object, error: error.message }, 'a status could not be written');
      // What the server does not understand it will not understand later either.
      if (REFUSALS.has(error.status) || this.#queue.has(object)) return;
      this.#queue.set(object, { ...item, notBeforeMs: this.#options.clock.now() + item.backOff.next() });
    }
  }

  async #write(object: string, { kind, namespace, name }: Item): Promise<'written' | 'unchanged' | 'gone'> {
    const { api, mesh, clock, inputs } = this.#options;
    const resource = RESOURCES[kind];
    const current = await api.get(resource, { namespace, name });
    if (current === undefined) {
      this.#rejected.delete(object);
      return 'gone';
    }
    const parsed = parse(current);
    if (parsed.ok) this.#rejected.delete(object);
    const before = conditionsIn(current);
    const generation = Number(current.metadata.generation ?? 0);
    const after = merged(
      before,
      conditionsOf(kind, parsed, mesh.facts, inputs[kind].get(`${namespace}/${name}`)),
      generation,
      clock.now(),
    );
    if (after === undefined) return 'unchanged';
    const { resourceVersion } = current.metadata;
    await api.apply(
      resource,
      {
        metadata: { namespace, name, ...(resourceVersion === undefined ? {} : { resourceVersion }) },
        status: { conditions: after },
      },
      { subresource: 'status', fieldManager: FIELD_MANAGER, force: true },
    );
    return 'written';
  }
}

interface Item {
  readonly kind: KindWithConditions;
  readonly namespace: string;
  readonly name: string;
  readonly notBeforeMs: number;
  readonly backOff: BackOff;
}

/** Of a kind that has conditions; undefined for any other. */
function itemOf(object: string): Item | undefined {
  const [, kindName, namespace = '', name = ''] = /^(\w+) ([^/]+)\/(.+)$/.exec(object) ?? [];
  const kind = KINDS_WITH_CONDITIONS.find((each) => each === kindName);
  if (kind === undefined) return undefined;
  return { kind, namespace, name, notBeforeMs: 0, backOff: new BackOff(RETRY_BASE_MS, RETRY_MAX_MS) };
}

function parse(object: ApiObject): Result<KubernetesObject, ParseError> {
  const parsed = parseObject(object);
  if (!parsed.ok) return parsed;
  return 'object' in parsed.value ? ok(parsed.value.object) : err({ object: '', problems: [parsed.value.ignored] });
}

type Written = Readonly<Record<string, unknown>>;

function conditionsIn({ status }: ApiObject): readonly Written[] {
  return isRecord(status) && Array.isArray(status.conditions) ? status.conditions.filter(isRecord) : [];
}

/**
 * All conditions of an object as they shall be; undefined when they are so already. The list is one value to the API
 * server, so those of others are written with ours, as they are.
 */
export function merged(
  before: readonly Written[],
  ours: readonly Condition[],
  generation: number,
  nowMs: number,
): readonly Written[] | undefined {
  const others = before.filter(({ type }) => !OURS.has(String(type)));
  const own = before.filter(({ type }) => OURS.has(String(type)));
  const wanted = ours.map((condition) => {
    const known = own.find(({ type }) => type === condition.type);
    const isSame =
      known !== undefined &&
      known.status === condition.status &&
      known.reason === condition.reason &&
      known.message === condition.message &&
      Number(known.observedGeneration ?? 0) === generation;
    if (isSame) return known;
    const since = known?.status === condition.status ? known.lastTransitionTime : undefined;
    return {
      ...condition,
      observedGeneration: generation,
      lastTransitionTime: since ?? new Date(nowMs).toISOString().replace(/\.\d+Z$/, 'Z'),
    };
  });
  const isUnchanged = wanted.length === own.length && wanted.every((condition) => own.includes(condition));
  return isUnchanged ? undefined : [...others, ...wanted];
}

const OURS: ReadonlySet<string> = new Set(Object.values(CONDITION));
const REFUSALS: ReadonlySet<number> = new Set([400, 404, 422]);
const FIELD_MANAGER = 'meltemi-status';
/** 50 a second at most. */
const INTERVAL_MS = 20;
const SETTLE_MS = 100;
const MAX_WAIT_MS = 1_000;
const MAX_QUEUED = 100_000;
const RETRY_BASE_MS = 500;
const RETRY_MAX_MS = 60_000;
