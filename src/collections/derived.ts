import { type Context, KEEP, type Keep } from './collection.js';
import { Dependencies } from './dependencies.js';
import type { IndexNode } from './index-node.js';
import { type Host, Node } from './node.js';

/** A node of which single items go stale and are computed again when the transaction settles. */
abstract class ComputedNode<T> extends Node<T> {
  readonly #stale = new Set<string>();

  wake(item: string): void {
    this.#stale.add(item);
  }

  override settle(): void {
    if (this.#stale.size === 0) return;
    for (const item of this.#stale) this.recompute(item);
    this.#stale.clear();
  }

  protected abstract recompute(item: string): void;
}

/** One value, or none, for each value of the input, under the same key or one that follows from it. */
export class DerivedNode<I, O> extends ComputedNode<O> {
  readonly #dependencies = new Dependencies(this, this.name);

  constructor(
    name: string,
    host: Host,
    equals: (a: O, b: O) => boolean,
    readonly input: Node<I>,
    readonly compute: (context: Context, value: I, key: string) => O | undefined | Keep,
    readonly rekey: (key: string) => string,
  ) {
    super(name, host, equals);
    input.follow((key) => this.wake(key));
    for (const [key] of input.entries()) this.wake(key);
  }

  protected override recompute(key: string): void {
    const value = this.input.get(key);
    if (value === undefined) {
      this.#dependencies.forget(key);
      this.put(this.rekey(key), undefined);
      return;
    }
    const output = this.#dependencies.record(key, (context) => this.#run(context, value, key));
    if (output !== KEEP) this.put(this.rekey(key), output);
  }

  #run(context: Context, value: I, key: string): O | undefined | Keep {
    try {
      return this.compute(context, value, key);
    } catch (error) {
      this.host.bug(this, key, error);
      return KEEP;
    }
  }
}

/**
 * Any number of values for each value of the input, under keys of their own. When two inputs claim one key, the input
 * with the lower key has it, and the other steps in when that one lets go.
 */
export class DerivedManyNode<I, O> extends ComputedNode<O> {
  readonly #dependencies = new Dependencies(this, this.name);
  readonly #outputsOf = new Map<string, Outputs<O>>();
  /** The inputs that claim a key, where it is more than one. */
  readonly #claims = new Map<string, Set<string>>();
  readonly #owner = new Map<string, string>();

  constructor(
    name: string,
    host: Host,
    equals: (a: O, b: O) => boolean,
    readonly input: Node<I>,
    readonly keyOf: (value: O) => string,
    readonly compute: (context: Context, value: I, key: string) => readonly O[] | Keep,
  ) {
    super(name, host, equals);
    input.follow((key) => this.wake(key));
    for (const [key] of input.entries()) this.wake(key);
  }

  protected override recompute(item: string): void {
    const value = this.input.get(item);
    if (value === undefined) {
      this.#dependencies.forget(item);
      this.#replace(item, []);
      return;
    }
    const outputs = this.#dependencies.record(item, (context) => this.#run(context, value, item));
    if (outputs === KEEP) return;
    const seen = new Set<string>();
    const keyed: { readonly key: string; readonly value: O }[] = [];
    for (const value of outputs) {
      const key = this.keyOf(value);
      if (!seen.has(key)) keyed.push({ key, value });
      seen.add(key);
    }
    this.#replace(item, keyed);
  }

  #run(context: Context, value: I, item: string): readonly O[] | Keep {
    try {
      return this.compute(context, value, item);
    } catch (error) {
      this.host.bug(this, item, error);
      return KEEP;
    }
  }

  #replace(item: string, outputs: Outputs<O>): void {
    const former = this.#outputsOf.get(item) ?? [];
    if (outputs.length === 0) this.#outputsOf.delete(item);
    else this.#outputsOf.set(item, outputs);
    for (const { key, value } of outputs) this.#claim(key, item, value);
    const stays = outputs.length > 1 ? new Set(outputs.map(({ key }) => key)) : undefined;
    for (const { key } of former) if (stays?.has(key) !== true && outputs[0]?.key !== key) this.#release(key, item);
  }

  #claim(key: string, item: string, output: O): void {
    const owner = this.#owner.get(key);
    if (owner !== undefined && owner !== item) {
      const claims = this.#claims.get(key) ?? new Set([owner]);
      this.#claims.set(key, claims.add(item));
      if (owner < item) return;
    }
    this.#owner.set(key, item);
    this.put(key, output);
  }

  #release(key: string, item: string): void {
    const claims = this.#claims.get(key);
    claims?.delete(item);
    if (claims?.size === 1) this.#claims.delete(key);
    if (this.#owner.get(key) !== item) return;
    const heir = claims === undefined ? undefined : [...claims].sort()[0];
    if (heir === undefined) {
      this.#owner.delete(key);
      this.put(key, undefined);
    } else {
      this.#owner.set(key, heir);
      this.put(key, this.#outputsOf.get(heir)?.find((output) => output.key === key)?.value);
    }
  }
}

/** Few for most items. */
type Outputs<O> = readonly { readonly key: string; readonly value: O }[];

/** All values of several collections; where two have the same key, the earlier collection's. */
export class JoinNode<T> extends ComputedNode<T> {
  constructor(
    name: string,
    host: Host,
    equals: (a: T, b: T) => boolean,
    readonly inputs: readonly Node<T>[],
  ) {
    super(name, host, equals);
    for (const input of inputs) {
      input.follow((key) => this.wake(key));
      for (const [key] of input.entries()) this.wake(key);
    }
  }

  protected override recompute(key: string): void {
    for (const input of this.inputs) {
      const value = input.get(key);
      if (value !== undefined) {
        this.put(key, value);
        return;
      }
    }
    this.put(key, undefined);
  }
}

/** An index seen as a collection: each index key with its values. */
export class GroupsNode<T> extends ComputedNode<readonly T[]> {
  constructor(
    name: string,
    host: Host,
    readonly index: IndexNode<T>,
  ) {
    super(name, host, sameMembers);
    index.follow((indexKey) => this.wake(indexKey));
    for (const indexKey of index.indexKeys()) this.wake(indexKey);
  }

  protected override recompute(indexKey: string): void {
    const members = this.index.lookup(indexKey);
    this.put(indexKey, members.length === 0 ? undefined : members);
  }
}

/** The members have been compared when they were put; identity will do. */
function sameMembers(a: readonly unknown[], b: readonly unknown[]): boolean {
  return a.length === b.length && a.every((value, i) => value === b[i]);
}

/** What comes from outside; changes only inside a transaction. */
export class SourceNode<T> extends Node<T> {
  constructor(
    name: string,
    host: Host,
    equals: (a: T, b: T) => boolean,
    readonly mayChange: () => void,
  ) {
    super(name, host, equals);
  }

  set(key: string, value: T): void {
    this.mayChange();
    this.put(key, value);
  }

  delete(key: string): void {
    this.mayChange();
    this.put(key, undefined);
  }

  override settle(): void {}
}
