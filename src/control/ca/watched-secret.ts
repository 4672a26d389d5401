import { ApiError, type ApiObject, type KubeApi } from '../../kube/api.js';
import { type Reflection, reflect } from '../../kube/reflect.js';
import { RESOURCES } from '../../kube/resources.js';
import type { Clock } from '../../lib/clock.js';
import type { Logger } from '../../telemetry/log.js';
import type { SharedDocument, Version } from './shared-document.js';

export interface WatchedSecretOptions {
  readonly api: KubeApi;
  readonly namespace: string;
  readonly name: string;
  readonly clock: Clock;
  readonly log: Logger;
}

/** A Secret that is followed. Its content never shows in a message. */
export class WatchedSecret {
  readonly #reflection: Reflection;
  readonly #listeners = new Set<() => void>();
  #data: Readonly<Record<string, string>> | undefined;

  constructor(readonly options: WatchedSecretOptions) {
    const { api, namespace, name, clock, log } = options;
    const take = (data: WatchedSecret['data']): void => {
      this.#data = data;
      for (const listener of this.#listeners) listener();
    };
    this.#reflection = reflect(api, RESOURCES.Secret, {
      selection: { namespace, fieldSelector: `metadata.name=${name}` },
      read: dataOf,
      handler: {
        synced: ([data]) => take(data),
        changed: ({ type, object }) => take(type === 'deleted' ? undefined : object),
      },
      clock,
      trouble: ({ what, message }) => log.warn({ secret: this.where, error: message }, what),
    });
  }

  get where(): string {
    return `Secret ${this.options.namespace}/${this.options.name}`;
  }

  /** What is in it, as text by key; undefined when there is none. */
  get data(): Readonly<Record<string, string>> | undefined {
    return this.#data;
  }

  /** Resolves when it is known whether there is one. */
  get synced(): Promise<void> {
    return this.#reflection.synced;
  }

  /** Called when it may be another, and after it is gone. Returns how to stop. */
  subscribe(listener: () => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  close(): void {
    this.#reflection.close();
  }

  /** The text under one of its keys; `derived` fills other keys from it. Whatever else is in the Secret stays. */
  document(
    key: string,
    type = 'Opaque',
    derived: (text: string) => Readonly<Record<string, string>> = () => ({}),
  ): SharedDocument {
    const { api, namespace, name } = this.options;
    return {
      where: this.where,
      async read() {
        const found = await api.get(RESOURCES.Secret, { namespace, name });
        return found === undefined ? undefined : versionOf(found, key);
      },
      async replace(text, former) {
        const present = former?.token as ApiObject | undefined;
        const data = encoded({ ...derived(text), [key]: text });
        try {
          const written =
            present === undefined
              ? await api.create(RESOURCES.Secret, {
                  apiVersion: 'v1',
                  kind: 'Secret',
                  metadata: { namespace, name, labels: { 'app.kubernetes.io/managed-by': 'meltemi' } },
                  type,
                  data,
                })
              : await api.replace(RESOURCES.Secret, { ...present, data: { ...(present.data as object), ...data } });
          return versionOf(written, key);
        } catch (error) {
          // Another version, made by another, or gone.
          if (error instanceof ApiError && (error.status === 409 || error.status === 404)) return undefined;
          throw error;
        }
      },
      subscribe: (listener) => this.subscribe(listener),
    };
  }
}

function versionOf(secret: ApiObject, key: string): Version {
  const { [key]: text, ...others } = dataOf(secret);
  return { text, others, token: secret };
}

function dataOf({ data }: ApiObject): Readonly<Record<string, string>> {
  return Object.fromEntries(
    Object.entries((data ?? {}) as Readonly<Record<string, unknown>>).map(([key, value]) => [
      key,
      Buffer.from(String(value), 'base64').toString('utf8'),
    ]),
  );
}

function encoded(texts: Readonly<Record<string, string>>): Readonly<Record<string, string>> {
  return Object.fromEntries(Object.entries(texts).map(([key, text]) => [key, Buffer.from(text).toString('base64')]));
}
