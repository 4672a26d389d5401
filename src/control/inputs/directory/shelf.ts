import { idOf, type KubernetesObject } from '../../../model/kubernetes/object.js';
import type { ObjectChange } from '../inputs.js';

/** One object in several files. */
export interface Duplicate {
  readonly id: string;
  readonly winner: string;
  readonly others: readonly string[];
}

/**
 * Which objects the files hold together. Of an object in several files the one in the first path (by code point) counts,
 * whatever the order in which the files came; when that file goes, the next takes over.
 */
export class Shelf {
  readonly #byFile = new Map<string, readonly KubernetesObject[]>();
  readonly #claims = new Map<string, Map<string, KubernetesObject>>();
  readonly #duplicated = new Set<string>();
  readonly #dirty = new Map<string, KubernetesObject | undefined>();

  /** Number of different objects. */
  get size(): number {
    return this.#claims.size;
  }

  /** Replaces what a file holds. */
  put(path: string, objects: readonly KubernetesObject[]): void {
    const before = this.#byFile.get(path) ?? [];
    if (objects.length === 0) this.#byFile.delete(path);
    else this.#byFile.set(path, objects);
    const ids = new Set(objects.map(idOf));
    for (const object of before) if (!ids.has(idOf(object))) this.#claim(idOf(object), path, undefined);
    for (const object of objects) this.#claim(idOf(object), path, object);
  }

  /** What has changed since the last call, one change an object. */
  takeChanges(): readonly ObjectChange[] {
    const changes: ObjectChange[] = [];
    for (const [id, before] of this.#dirty) {
      const after = this.#winner(id)?.[1];
      if (after !== undefined && after !== before) changes.push({ object: after, gone: false });
      else if (after === undefined && before !== undefined) changes.push({ object: before, gone: true });
    }
    this.#dirty.clear();
    return changes;
  }

  duplicates(): readonly Duplicate[] {
    return [...this.#duplicated].sort().map((id) => {
      const [winner = '', ...others] = [...(this.#claims.get(id)?.keys() ?? [])].sort();
      return { id, winner, others };
    });
  }

  #claim(id: string, path: string, object: KubernetesObject | undefined): void {
    if (!this.#dirty.has(id)) this.#dirty.set(id, this.#winner(id)?.[1]);
    const claims = this.#claims.get(id) ?? new Map<string, KubernetesObject>();
    if (object === undefined) claims.delete(path);
    else claims.set(path, object);
    if (claims.size === 0) this.#claims.delete(id);
    else this.#claims.set(id, claims);
    if (claims.size > 1) this.#duplicated.add(id);
    else this.#duplicated.delete(id);
  }

  #winner(id: string): readonly [string, KubernetesObject] | undefined {
    const claims = this.#claims.get(id);
    if (claims === undefined) return undefined;
    let first: readonly [string, KubernetesObject] | undefined;
    for (const claim of claims) if (first === undefined || claim[0] < first[0]) first = claim;
    return first;
  }
}
