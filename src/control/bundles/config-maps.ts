import type { Collection } from '../../collections/collection.js';
import { ApiError, type ApiObject, type KubeApi } from '../../kube/api.js';
import { reflect } from '../../kube/reflect.js';
import { RESOURCES } from '../../kube/resources.js';
import type { Clock } from '../../lib/clock.js';
import type { Logger } from '../../telemetry/log.js';
import type { Counter } from '../../telemetry/metrics.js';
import { WorkQueue } from '../leader/work-queue.js';

export interface ConfigMapsOptions {
  readonly api: KubeApi;
  /** Of every one of these ConfigMaps. */
  readonly name: string;
  readonly key: string;
  readonly text: () => string;
  /** Where there is to be one: all of these namespaces, or one by name. */
  readonly namespaces: Collection<unknown> | string;
  readonly clock: Clock;
  readonly log: Logger;
  readonly writes: Counter;
  readonly failures: Counter;
}

/** A text that pods mount from their own namespace: put there, and put right when somebody changes or removes it. */
export class ConfigMaps {
  readonly #options: ConfigMapsOptions;
  readonly #present = new Map<string, string | undefined>();
  readonly #queue: WorkQueue;
  readonly #stops: (() => void)[] = [];
  #isSynced = false;

  constructor(options: ConfigMapsOptions) {
    const { clock, log, name, failures } = options;
    this.#options = options;
    this.#queue = new WorkQueue({
      work: (namespace) => this.#write(namespace),
      failed: (namespace, error) => {
        failures.inc();
        log.warn({ namespace, configMap: name, error }, 'a ConfigMap cannot be written; trying again');
      },
      clock,
    });
  }

  /** How many are not as they should be. */
  get pending(): number {
    return this.#queue.pending;
  }

  start(): void {
    const { api, name, key, namespaces, clock, log } = this.#options;
    const reflection = reflect(api, RESOURCES.ConfigMap, {
      selection: {
        fieldSelector: `metadata.name=${name}`,
        ...(typeof namespaces === 'string' ? { namespace: namespaces } : {}),
      },
      read: (object) => ({ namespace: object.metadata.namespace ?? '', text: textOf(object, key) }),
      handler: {
        synced: (all) => {
          this.#present.clear();
          for (const { namespace, text } of all) this.#present.set(namespace, text);
          this.#isSynced = true;
          this.check();
        },
        changed: ({ type, object: { namespace, text } }) => {
          if (type === 'deleted') this.#present.delete(namespace);
          else this.#present.set(namespace, text);
          this.#checkOne(namespace);
        },
      },
      clock,
      trouble: ({ what, message }) => log.warn({ configMaps: name, error: message }, what),
    });
    this.#stops.push(() => reflection.close());
    if (typeof namespaces === 'string') return;
    this.#stops.push(
      namespaces.subscribe((changes) => {
        for (const { key, after } of changes) {
          if (after === undefined) this.#queue.forget(key);
          else this.#checkOne(key);
        }
      }),
    );
  }

  /** Looks at all of them: after the text has changed. */
  check(): void {
    const { namespaces } = this.#options;
    if (typeof namespaces === 'string') this.#checkOne(namespaces, true);
    else for (const [namespace] of namespaces.entries()) this.#checkOne(namespace, true);
  }

  close(): void {
    for (const stop of this.#stops.splice(0)) stop();
    this.#queue.close();
  }

  #checkOne(namespace: string, isNews = false): void {
    if (!this.#isSynced || !this.#isWanted(namespace)) return;
    if (this.#present.get(namespace) !== this.#options.text()) this.#queue.add(namespace, isNews);
  }

  #isWanted(namespace: string): boolean {
    const { namespaces } = this.#options;
    return typeof namespaces === 'string' ? namespaces === namespace : namespaces.has(namespace);
  }

  async #write(namespace: string): Promise<void> {
    const { api, name, key, text, writes } = this.#options;
    const wanted = text();
    if (!this.#isWanted(namespace) || this.#present.get(namespace) === wanted) return;
    try {
      // What is there is learnt from the watch alone: somebody may have changed it again before this is answered.
      await api.apply(
        RESOURCES.ConfigMap,
        {
          apiVersion: 'v1',
          kind: 'ConfigMap',
          metadata: {
            name,
            namespace,
            labels: { 'istio.io/config': 'true', 'app.kubernetes.io/managed-by': 'meltemi' },
          },
          data: { [key]: wanted },
        },
        { force: true },
      );
      writes.inc();
    } catch (error) {
      // A namespace on its way out needs nothing, and takes nothing.
      const isGoing =
        error instanceof ApiError &&
        (error.status === 404 || (error.status === 403 && /being terminated/.test(error.message)));
      if (!isGoing) throw error;
    }
  }
}

function textOf({ data }: ApiObject, key: string): string | undefined {
  const text = (data as Readonly<Record<string, unknown>> | undefined)?.[key];
  return typeof text === 'string' ? text : undefined;
}
