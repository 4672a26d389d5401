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
}

/** The objects of one kind: each as it was when it was last good. */
export class KindLedger {
  readonly #good = new Map<string, KubernetesObject>();
  readonly #bad = new Map<string, readonly string[]>();

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

  /** What the object's new version changes. */
  put(read: ReadObject): ObjectChange | undefined {
    const { key, object, problems } = read;
    if (object !== undefined) {
      this.#bad.delete(key);
      this.#good.set(key, object);
      return { object, gone: false };
    }
    const known = this.#bad.get(key);
    this.#bad.set(key, problems);
    if (known?.join() !== problems.join()) this.rejected(this.#describe(key, problems));
    return undefined;
  }

  remove(key: string): ObjectChange | undefined {
    this.#bad.delete(key);
    const object = this.#good.get(key);
    this.#good.delete(key);
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
    return { object: `${this.kind} ${key}`, problems, kept: this.#good.has(key) };
  }
}
