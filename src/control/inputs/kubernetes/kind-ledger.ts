import type { KubernetesObject } from '../../../model/kubernetes/object.js';
import type { ObjectChange } from '../inputs.js';
import type { ReadObject } from './read-object.js';

/** An object that is no good now. */
export interface BadObject {
  /** `AuthorizationPolicy shop/allow-web`. */
  readonly object: string;
  readonly problems: readonly string[];
  /** Whether its last good version is in force. */
  readonly kept: boolean;
  /** Whether, without one, something stands in its place: a policy that denies. */
  readonly closed: boolean;
}

/** The objects of one kind: each as it was when it was last good, or what stands for one that never was. */
export class KindLedger {
  readonly #good = new Map<string, KubernetesObject>();
  readonly #bad = new Map<string, readonly string[]>();
  readonly #closed = new Map<string, KubernetesObject>();

  constructor(
    readonly kind: string,
    /** Hears of each version that is no good. */
    readonly rejected: (bad: BadObject) => void,
  ) {}

  get size(): number {
    return this.#good.size;
  }

  get badCount(): number {
    return this.#bad.size;
  }

  get closedCount(): number {
    return this.#closed.size;
  }

  /** What the object's new version changes. */
  put(read: ReadObject): ObjectChange | undefined {
    const { key, object, problems, closed } = read;
    if (object !== undefined) {
      this.#bad.delete(key);
      this.#closed.delete(key);
      this.#good.set(key, object);
      return { object, gone: false };
    }
    const known = this.#bad.get(key);
    this.#bad.set(key, problems);
    const before = this.#closed.get(key);
    const after = this.#good.has(key) ? undefined : closed;
    if (after === undefined) this.#closed.delete(key);
    else this.#closed.set(key, after);
    if (known?.join() !== problems.join()) this.rejected(this.#describe(key, problems));
    if (after !== undefined) return { object: after, gone: false };
    return before === undefined ? undefined : { object: before, gone: true };
  }

  remove(key: string): ObjectChange | undefined {
    this.#bad.delete(key);
    const object = this.#good.get(key) ?? this.#closed.get(key);
    this.#good.delete(key);
    this.#closed.delete(key);
    return object === undefined ? undefined : { object, gone: true };
  }

  /** Makes `all` everything there is. What has stayed as it was comes as a change too; nobody is told of it twice. */
  replace(all: readonly ReadObject[]): readonly ObjectChange[] {
    const keys = new Set(all.map(({ key }) => key));
    const left = [...this.#good.keys(), ...this.#bad.keys()].filter((key) => !keys.has(key));
    return [...left.map((key) => this.remove(key)), ...all.map((read) => this.put(read))].filter(
      (change) => change !== undefined,
    );
  }

  bad(): readonly BadObject[] {
    return [...this.#bad].map(([key, problems]) => this.#describe(key, problems));
  }

  #describe(key: string, problems: readonly string[]): BadObject {
    return { object: `${this.kind} ${key}`, problems, kept: this.#good.has(key), closed: this.#closed.has(key) };
  }
}
