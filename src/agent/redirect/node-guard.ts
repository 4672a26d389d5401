import type { Clock } from '../../lib/clock.js';
import { type Run, run as runCommand } from '../../lib/command.js';
import { err, ok, type Result } from '../../lib/result.js';
import type { Logger } from '../../telemetry/log.js';
import { bridgeRuleset, elementChanges, type NodeFacts, type NodeSet, nodeRuleset } from './node-ruleset.js';

export interface NodeGuardOptions {
  /** Path of the node's own network namespace. */
  readonly netns: string;
  /** Two agents of different revisions keep rules of their own. Empty for the default one. */
  readonly revision: string;
  readonly hbonePort: number;
  readonly clock: Clock;
  readonly log: Logger;
  readonly run?: Run;
}

/** A captured pod as the node's rules know it. */
export interface GuardedPod {
  readonly ips: readonly string[];
  readonly nameservers: readonly string[];
  /** It enters the mesh or leaves it: what it says to the mesh in plaintext meanwhile is not refused. */
  readonly passing?: boolean;
}

/**
 * Keeps the rules in the node's own network namespace (see `nodeRuleset`). What concerns a pod is in the kernel when
 * the call resolves; addresses of the mesh follow within a moment. When the agent ends, its rules stay.
 */
export class NodeGuard {
  readonly #table: string;
  readonly #run: Run;
  readonly #pods = new Map<string, GuardedPod>();
  readonly #mesh = new Set<string>();
  /** What the sets in the kernel hold, as far as this process has filled them; undefined before its first write. */
  #known: Partial<Facts> | undefined;
  /** Whether the addresses of the mesh, and the pods, are all there are; until then sets only grow. */
  #complete = { mesh: false, pods: false };
  #rules = '';
  #bridges = true;
  #writing: Promise<unknown> = Promise.resolve();
  /** A write that has not begun: it will show what was said meanwhile, too. */
  #queued: Promise<Result<void>> | undefined;
  #cancel: (() => void) | undefined;
  #counts = { held: 0, spoofed: 0 };
  #drifts = 0;
  #problem = '';
  #closed = false;

  constructor(readonly options: NodeGuardOptions) {
    this.#table = tableOf(options.revision);
    this.#run = options.run ?? runCommand;
  }

  /** Packets refused so far, as the kernel counted them at the last audit. */
  get counts(): { readonly held: number; readonly spoofed: number } {
    return this.#counts;
  }

  /** Times the rules were found changed by somebody else. */
  get drifts(): number {
    return this.#drifts;
  }

  /** Why the rules are not what they should be; empty when they are. */
  get problem(): string {
    return this.#problem;
  }

  /** Whether plaintext of a pod to the mesh is refused. */
  holds(uid: string): boolean {
    const pod = this.#pods.get(uid);
    return pod !== undefined && pod.passing !== true;
  }

  /** Guards a pod. Error: one sentence. */
  async put(uid: string, pod: GuardedPod): Promise<Result<void>> {
    this.#pods.set(uid, pod);
    return await this.#write();
  }

  async remove(uid: string): Promise<Result<void>> {
    if (!this.#pods.delete(uid)) return ok(undefined);
    return await this.#write();
  }

  /** All pods that should be guarded have been put: others that a former agent left are forgotten. */
  podsComplete(): void {
    if (this.#complete.pods) return;
    this.#complete.pods = true;
    this.#writeLater();
  }

  /**
   * Addresses that take tunnels came and went. `complete`: the mesh is known in full. `urgent`: one that went is still
   * somebody's, who is spoken to in plaintext from now on.
   */
  meshChanged(added: Iterable<string>, removed: Iterable<string>, complete: boolean, urgent = false): void {
    let different = complete !== this.#complete.mesh;
    this.#complete.mesh = complete;
    for (const ip of removed) different = this.#mesh.delete(ip) || different;
    for (const ip of added) {
      different ||= !this.#mesh.has(ip);
      this.#mesh.add(ip);
    }
    if (different) this.#writeLater(urgent ? 0 : SETTLE_MS);
  }

  /** Reads the counters and mends the rules when somebody else has changed them. */
  async audit(): Promise<void> {
    if (this.#closed || this.#rules === '') return;
    await this.#exclusive(async () => {
      const drifted = (await this.#list()) !== this.#rules;
      if (drifted) {
        this.#drifts++;
        this.options.log.warn({ table: this.#table }, 'the rules of the node have drifted; they are set again');
        const set = this.#noted(await this.#replace());
        if (!set.ok) this.options.log.error({ error: set.error }, 'the rules of the node cannot be set again');
      }
      this.#counts = await this.#readCounters();
    });
  }

  /** A successor keeps the rules from now on. */
  standBy(): void {
    this.close();
    this.#cancel = undefined;
  }

  /** The successor is gone: what it left is replaced as pods are put again. */
  resume(): void {
    this.#closed = false;
    this.#pods.clear();
    this.#complete = { ...this.#complete, pods: false };
    this.#known = undefined;
  }

  /** Stops looking; the rules stay. */
  close(): void {
    this.#closed = true;
    this.#cancel?.();
  }

  #writeLater(delayMs = SETTLE_MS): void {
    if (this.#closed || (this.#cancel !== undefined && delayMs > 0)) return;
    this.#cancel?.();
    this.#cancel = this.options.clock.schedule(delayMs, async () => {
      this.#cancel = undefined;
      const written = await this.#write();
      if (!written.ok) {
        this.options.log.error({ error: written.error }, 'the rules of the node cannot be set; trying again');
        this.#writeLater(RETRY_MS);
      }
    });
  }

  #write(): Promise<Result<void>> {
    this.#queued ??= this.#exclusive(async () => {
      this.#queued = undefined;
      const known = this.#known;
      // A set that is now known in full is to be filled anew.
      if (known === undefined || SETS.some((set) => this.#isExact(set) && known[set] === undefined)) {
        return this.#noted(await this.#replace());
      }
      const changed = await this.#changeElements(known);
      // A table that is gone, or another's: begin anew.
      return this.#noted(changed.ok ? changed : await this.#replace());
    });
    return this.#queued;
  }

  #noted(written: Result<void>): Result<void> {
    this.#problem = written.ok ? '' : written.error;
    return written;
  }

  async #replace(): Promise<Result<void>> {
    const facts = this.#facts();
    const exact = this.#exact(facts);
    const set = await this.#set(nodeRuleset(this.#table, this.options.hbonePort, exact), facts, INET_SETS);
    if (!set.ok) return err(`the rules of the node cannot be set: ${set.error}`);
    if (this.#bridges) {
      const rules = bridgeRuleset(this.#table, this.options.hbonePort, exact);
      const bridged = await this.#set(rules, facts, ['local']);
      if (!bridged.ok) {
        this.#bridges = false;
        const { error } = bridged;
        this.options.log.warn(
          { error },
          'this kernel filters no bridges: plaintext between two pods of a bridge passes',
        );
      }
    }
    this.#rules = await this.#list();
    this.#known = exact;
    return ok(undefined);
  }

  /** Until a set is known in full, what a former agent left in it stays beside what is added. */
  async #set(rules: string, facts: Facts, sets: readonly NodeSet[]): Promise<Result<unknown>> {
    const set = await this.#nft(['-f', '-'], rules);
    const more = sets
      .filter((name) => !this.#isExact(name))
      .flatMap((name) => elementChanges(this.#table, name, [...facts[name]], []));
    return set.ok && more.length > 0 ? await this.#nft(['-f', '-'], `${more.join('\n')}\n`) : set;
  }

  async #changeElements(known: Partial<Facts>): Promise<Result<void>> {
    const facts = this.#facts();
    const lines = SETS.filter((set) => this.#bridges || set !== 'local').flatMap((set) => {
      const before = known[set] ?? new Set();
      const added = [...facts[set]].filter((ip) => !before.has(ip));
      const removed = [...before].filter((ip) => !facts[set].has(ip));
      return elementChanges(this.#table, set, added, removed);
    });
    if (lines.length > 0) {
      const changed = await this.#nft(['-f', '-'], `${lines.join('\n')}\n`);
      if (!changed.ok) return err(`the sets of the node cannot be changed: ${changed.error}`);
    }
    this.#known = this.#exact(facts);
    return ok(undefined);
  }

  #exact(facts: Facts): Partial<Facts> {
    return Object.fromEntries(SETS.filter((set) => this.#isExact(set)).map((set) => [set, facts[set]]));
  }

  #isExact(set: NodeSet): boolean {
    const { mesh, pods } = this.#complete;
    return set === 'mesh' ? mesh : set === 'local' ? mesh && pods : pods;
  }

  #facts(): Facts {
    const captured = new Set([...this.#pods.values()].flatMap(({ ips }) => ips));
    const nameservers = new Set([...this.#pods.values()].flatMap((pod) => pod.nameservers));
    const held = new Set([...this.#pods.values()].flatMap(({ ips, passing }) => (passing === true ? [] : ips)));
    const local = new Set([...held].filter((ip) => this.#mesh.has(ip)));
    return { captured, held, nameservers, local, mesh: new Set(this.#mesh) };
  }

  async #list(): Promise<string> {
    const families = this.#bridges ? (['inet', 'bridge'] as const) : (['inet'] as const);
    const listed: string[] = [];
    for (const family of families) {
      const result = await this.#nft(['-t', '-s', 'list', 'table', family, this.#table]);
      listed.push(result.ok ? result.value : '');
    }
    return listed.join('');
  }

  async #readCounters(): Promise<{ held: number; spoofed: number }> {
    const sum = { held: 0, spoofed: 0 };
    for (const family of this.#bridges ? ['inet', 'bridge'] : ['inet']) {
      const result = await this.#nft(['list', 'counters', 'table', family, this.#table]);
      if (!result.ok) return this.#counts;
      for (const [, name, packets] of result.value.matchAll(/counter (held|spoofed) \{\s*packets (\d+)/g)) {
        sum[name as keyof typeof sum] += Number(packets);
      }
    }
    return sum;
  }

  #exclusive<T>(work: () => Promise<T>): Promise<T> {
    const turn = this.#writing.then(work);
    this.#writing = turn.catch(() => undefined);
    return turn;
  }

  #nft(args: readonly string[], input = ''): Promise<Result<string>> {
    return nftIn(this.#run, this.options.netns, args, input);
  }
}

/** Removes the rules of all revisions from a node. Idempotent. Error: one sentence. */
export async function removeNodeGuard(netns: string, run: Run = runCommand): Promise<Result<void>> {
  const tables = await nftIn(run, netns, ['list', 'tables']);
  if (!tables.ok) return err(`the rules of the node cannot be listed: ${tables.error}`);
  const ours = [...tables.value.matchAll(/^table (inet|bridge) (\S+)$/gm)].filter(
    ([, , name]) => name === TABLE || name?.startsWith(`${TABLE}-`),
  );
  if (ours.length === 0) return ok(undefined);
  const text = ours.map(([, family, name]) => `delete table ${family} ${name}\n`).join('');
  const removed = await nftIn(run, netns, ['-f', '-'], text);
  return removed.ok ? ok(undefined) : err(`the rules of the node cannot be removed: ${removed.error}`);
}

function nftIn(run: Run, netns: string, args: readonly string[], input = ''): Promise<Result<string>> {
  return run('nsenter', [`--net=${netns}`, 'nft', ...args], { input });
}

function tableOf(revision: string): string {
  return revision === '' ? TABLE : `${TABLE}-${revision}`;
}

type Facts = { readonly [Name in keyof NodeFacts]: ReadonlySet<string> };

const TABLE = 'meltemi-node';
const INET_SETS: readonly NodeSet[] = ['captured', 'held', 'mesh', 'nameservers'];
const SETS: readonly NodeSet[] = [...INET_SETS, 'local'];
/** Changes of the mesh come in bursts. */
const SETTLE_MS = 100;
const RETRY_MS = 1000;
