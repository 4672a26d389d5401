import type { KubeApi } from '../../../kube/api.js';
import { type InstalledKinds, watchInstalledKinds } from '../../../kube/installed-kinds.js';
import { type Reflection, type ReflectStatus, type ReflectTrouble, reflect } from '../../../kube/reflect.js';
import type { Clock } from '../../../lib/clock.js';
import type { InputSource, ObjectChange } from '../inputs.js';
import { Batch } from './batch.js';
import { type BadObject, KindLedger } from './kind-ledger.js';
import { WATCHED, type WatchedKind } from './kinds.js';
import { readObject } from './read-object.js';

export interface KubernetesOptions {
  /** For how long changes are gathered after one was applied, ms. */
  readonly windowMs: number;
}

export interface KubernetesEvents {
  /** One batch; the first one is everything there is. */
  apply(changes: readonly ObjectChange[]): void;
  /** A version of an object that is no good. */
  rejected(bad: BadObject): void;
  /** A kind could not be listed or watched; it will be tried again. */
  trouble(kind: string, trouble: ReflectTrouble): void;
}

export interface KubernetesStatus {
  readonly kinds: Readonly<Record<string, ReflectStatus & { readonly objects: number }>>;
  readonly badObjects: readonly BadObject[];
}

/**
 * The API server as a source of truth. Each kind is listed and watched on its own; the first transaction waits for all
 * of them. A kind that is not installed counts as empty until it is. An object that is no good keeps its last good
 * version in force; a policy that never was good is closed. While the server is away, what it said stays in force.
 */
export class KubernetesSource implements InputSource {
  #kinds: (InstalledKinds & Reflection) | undefined;
  #watched: readonly Watched[] = [];
  readonly #batch: Batch;

  constructor(
    readonly api: KubeApi,
    readonly events: KubernetesEvents,
    readonly clock: Clock,
    options: Partial<KubernetesOptions> = {},
  ) {
    const { windowMs } = { ...DEFAULTS, ...options };
    this.#batch = new Batch((changes) => events.apply(changes), windowMs, clock);
  }

  /** Waits for the server to be there, and for leave to read every kind. */
  async start(): Promise<void> {
    const kinds = watchInstalledKinds(this.api, {
      clock: this.clock,
      trouble: (trouble) => this.events.trouble('CustomResourceDefinition', trouble),
    });
    this.#kinds = kinds;
    this.#watched = Object.entries(WATCHED).map(([kind, watched]) => this.#watch(kind, watched, kinds));
    await Promise.all(this.#watched.map(({ reflection }) => reflection.synced));
    this.#batch.release();
  }

  counts() {
    let [objects, badObjects, closedPolicies] = [0, 0, 0];
    for (const { ledger } of this.#watched) {
      objects += ledger.size;
      badObjects += ledger.badCount;
      closedPolicies += ledger.closedCount;
    }
    return { objects, badObjects, closedPolicies };
  }

  status(): KubernetesStatus {
    return {
      kinds: Object.fromEntries(
        this.#watched.map(({ ledger, reflection }) => [ledger.kind, { ...reflection.status(), objects: ledger.size }]),
      ),
      badObjects: this.#watched.flatMap(({ ledger }) => ledger.bad()).slice(0, MAX_SHOWN),
    };
  }

  close(): void {
    this.#kinds?.close();
    for (const { reflection } of this.#watched) reflection.close();
    this.#batch.close();
  }

  #watch(kind: string, { resource, selection }: WatchedKind, kinds: InstalledKinds): Watched {
    const ledger = new KindLedger(kind, (bad) => this.events.rejected(bad));
    const reflection = reflect(this.api, resource, {
      read: readObject,
      selection,
      kinds,
      clock: this.clock,
      trouble: (trouble) => this.events.trouble(kind, trouble),
      handler: {
        synced: (all) => this.#batch.add(ledger.replace(all)),
        changed: ({ type, object }) => {
          const change = type === 'deleted' ? ledger.remove(object.key) : ledger.put(object);
          if (change !== undefined) this.#batch.add([change]);
        },
      },
    });
    return { ledger, reflection };
  }
}

interface Watched {
  readonly ledger: KindLedger;
  readonly reflection: Reflection;
}

const DEFAULTS: KubernetesOptions = { windowMs: 20 };
const MAX_SHOWN = 200;
