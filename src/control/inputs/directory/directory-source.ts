import { setImmediate } from 'node:timers/promises';
import type { Clock } from '../../../lib/clock.js';
import type { ObjectChange } from '../inputs.js';
import { type BadFile, type FileVersion, Ledger } from './ledger.js';
import { readVersion } from './read-version.js';
import type { Duplicate } from './shelf.js';
import { type FoundFile, type FoundTree, isAtOrBelow, lookAt } from './tree.js';
import { Watches } from './watches.js';

/** How patient and how large; all have defaults. */
export interface DirectoryOptions {
  /** Quiet time after a change before it is looked at, ms. */
  readonly settleMs: number;
  /** A change is looked at after this time even if there is no quiet, ms. */
  readonly maxSettleMs: number;
  /** Everything is looked at again this often, for what no event told of, ms. */
  readonly rescanMs: number;
  readonly maxFileBytes: number;
  readonly maxFiles: number;
  readonly maxObjects: number;
  readonly maxDepth: number;
}

export interface DirectoryEvents {
  /** One settled scan with an effect. */
  apply(changes: readonly ObjectChange[]): void;
  /** A file version that is no good, once for each version, with all that is wrong. */
  rejected(file: BadFile): void;
  /** Something is wrong with the directory itself or with watching it. */
  trouble(path: string, problem: string): void;
}

export interface DirectoryStatus {
  readonly directory: string;
  readonly files: number;
  readonly objects: number;
  readonly scans: number;
  readonly badFiles: readonly BadFile[];
  readonly duplicates: readonly Duplicate[];
  /** `path: line 1: …` of what was read and has no effect. */
  readonly notes: readonly string[];
  readonly troubles: readonly { readonly path: string; readonly problem: string }[];
}

/**
 * A folder of manifests as a source of truth. Each settled scan is one transaction; a file that is no good keeps what
 * its last good version said; a file that is gone takes its objects with it. A root that is gone is trouble, not an
 * order to forget everything.
 */
export class DirectorySource {
  readonly #options: DirectoryOptions;
  readonly #ledger: Ledger;
  readonly #watches: Watches;
  readonly #dirty = new Set<string>();
  readonly #troubles = new Map<string, string>();
  #scanning: Promise<void> | undefined;
  #cancelRescan: () => void = () => {};
  /** Ends whatever waits for time to pass. */
  readonly #waits = new Set<() => void>();
  #quiet: (() => void) | undefined;
  #firstDirtyMs: number | undefined;
  #rootFound = false;
  #scans = 0;
  #closed = false;

  constructor(
    readonly directory: string,
    readonly events: DirectoryEvents,
    readonly clock: Clock,
    options: Partial<DirectoryOptions> = {},
  ) {
    this.#options = { ...DEFAULTS, ...options };
    this.#ledger = new Ledger(this.#options, (file) => events.rejected(file));
    this.#watches = new Watches(
      (path) => this.#notice(path),
      (path, why) =>
        events.trouble(path, `is not watched (${why}); changes are found every ${this.#options.rescanMs} ms`),
    );
  }

  /** Resolves when everything has been read once, which waits for the directory to be there; then follows changes. */
  async start(): Promise<void> {
    await this.scan();
    while (!this.#rootFound && !this.#closed) {
      await this.#wait(RETRY_MS);
      await this.scan();
    }
    this.#scheduleRescan();
  }

  /** Looks at everything now. Resolves when the outcome has been applied. */
  async scan(): Promise<void> {
    this.#dirty.add(this.directory);
    await this.#run();
  }

  status(): DirectoryStatus {
    const { files, objects } = this.#ledger.counts();
    return {
      directory: this.directory,
      files,
      objects,
      scans: this.#scans,
      badFiles: this.#ledger.badFiles(),
      duplicates: this.#ledger.duplicates(),
      notes: this.#ledger.notes(),
      troubles: [...this.#troubles].map(([path, problem]) => ({ path, problem })),
    };
  }

  /** The numbers of `status`, cheaper. */
  counts(): ReturnType<Ledger['counts']> {
    return this.#ledger.counts();
  }

  async close(): Promise<void> {
    this.#closed = true;
    this.#watches.close();
    this.#quiet?.();
    this.#cancelRescan();
    for (const end of this.#waits) end();
    await this.#scanning;
  }

  #notice(path: string): void {
    if (this.#closed) return;
    this.#dirty.add(path);
    this.#firstDirtyMs ??= this.clock.now();
    const latestMs = this.#firstDirtyMs + this.#options.maxSettleMs - this.clock.now();
    this.#quiet?.();
    this.#quiet = this.clock.schedule(Math.max(0, Math.min(this.#options.settleMs, latestMs)), () => void this.#run());
  }

  #scheduleRescan(): void {
    if (this.#closed) return;
    this.#cancelRescan = this.clock.schedule(
      this.#options.rescanMs,
      () => void this.scan().then(() => this.#scheduleRescan()),
    );
  }

  /** One scan at a time; what comes up meanwhile is looked at right after. */
  async #run(): Promise<void> {
    while (this.#scanning !== undefined) await this.#scanning;
    if (this.#dirty.size === 0 || this.#closed) return;
    this.#scanning = this.#scanDirty()
      .catch((error: unknown) => this.#trouble(this.directory, `could not be scanned: ${error}`))
      .finally(() => {
        this.#scanning = undefined;
      });
    await this.#scanning;
  }

  /**
   * Looks until what it found stands still: while others write, what they have written so far is not all of it. Patience
   * ends after `maxSettleMs`; what still moves then keeps its last version until the next scan.
   */
  async #scanDirty(): Promise<void> {
    this.#firstDirtyMs = undefined;
    const untilMs = this.clock.now() + this.#options.maxSettleMs;
    const scan: Scan = { found: new Map(), versions: new Map() };
    for (let round = 0; ; round++) {
      await this.#lookAtDirty(scan);
      const isMoving = await this.#read(scan);
      // Events of what has just been written come in with the next turn.
      await setImmediate();
      if (this.#closed) return;
      if (this.#dirty.size === 0) break;
      if (round >= MAX_ROUNDS || this.clock.now() > untilMs) {
        for (const path of this.#dirty) this.#notice(path);
        break;
      }
      if (round > 0 && isMoving) await this.#wait(this.#options.settleMs);
    }
    this.#scans++;
    for (const [path, file] of scan.found) {
      const version = scan.versions.get(path);
      if (file === undefined) this.#ledger.forget(path);
      else if (version?.signature === file.signature) this.#ledger.accept(path, version);
    }
    const changes = this.#ledger.takeChanges();
    if (changes.length > 0) this.events.apply(changes);
  }

  /** A directory that is watched from now on is looked at again, so that nothing falls between look and watch. */
  async #lookAtDirty({ found }: Scan): Promise<void> {
    for (let again = 0; this.#dirty.size > 0 && again < MAX_ROUNDS; again++) {
      const paths = [...this.#dirty];
      this.#dirty.clear();
      for (const path of paths) await this.#look(path, found);
    }
  }

  async #wait(ms: number): Promise<void> {
    const waited = Promise.withResolvers<void>();
    const cancel = this.clock.schedule(ms, waited.resolve);
    this.#waits.add(waited.resolve);
    await waited.promise;
    this.#waits.delete(waited.resolve);
    cancel();
  }

  /** Notes every file at and below `path`, and as undefined those that are gone. */
  async #look(path: string, found: Map<string, FoundFile | undefined>): Promise<void> {
    const depth = path.slice(this.directory.length).split('/').length - 1;
    const tree = await lookAt(path, Math.max(0, this.#options.maxDepth - depth));
    if (path === this.directory) this.#rootFound = tree !== undefined;
    if (tree === undefined && path === this.directory) {
      this.#trouble(path, 'is not there; what it said stays in force');
      return;
    }
    this.#noteTroubles(path, tree);
    // What was known at or below the path and is not found any more is gone, unless it only cannot be looked at.
    const unreadable = tree?.problems.map((each) => each.path) ?? [];
    for (const paths of [
      this.#ledger.pathsAtOrBelow(path),
      [...found.keys()].filter((each) => isAtOrBelow(each, path)),
    ]) {
      for (const known of paths) if (!unreadable.some((bad) => isAtOrBelow(known, bad))) found.set(known, undefined);
    }
    for (const file of tree?.files ?? []) found.set(file.path, file);
    const directories = tree?.directories ?? [];
    this.#watches.prune(path, new Set(directories.map((each) => each.path)));
    for (const { path: each, identity } of directories) if (this.#watches.add(each, identity)) this.#dirty.add(each);
  }

  #noteTroubles(path: string, tree: FoundTree | undefined): void {
    for (const known of [...this.#troubles.keys()]) {
      if (isAtOrBelow(known, path) && !tree?.problems.some((each) => each.path === known)) this.#troubles.delete(known);
    }
    for (const { path: at, problem } of tree?.problems ?? []) this.#trouble(at, problem);
  }

  #trouble(path: string, problem: string): void {
    if (this.#troubles.get(path) === problem) return;
    this.#troubles.set(path, problem);
    this.events.trouble(path, problem);
  }

  /** Reads and parses what is new since the last version and the last round. True if there was anything. */
  async #read({ found, versions }: Scan): Promise<boolean> {
    const changed = [...found].flatMap(([path, file]) =>
      file === undefined || (versions.get(path)?.signature ?? this.#ledger.signatureOf(path)) === file.signature
        ? []
        : [file],
    );
    const known = (hash: string) => this.#ledger.manifestOf(hash);
    for (let from = 0; from < changed.length; from += READ_BATCH) {
      const batch = changed.slice(from, from + READ_BATCH);
      const read = await Promise.all(batch.map((file) => readVersion(file, this.#options.maxFileBytes, known)));
      for (const [i, file] of batch.entries()) {
        const version = read[i];
        if (version === 'moving') this.#dirty.add(file.path);
        else if (version !== undefined) versions.set(file.path, version);
      }
    }
    return changed.length > 0;
  }
}

/** What one scan has found so far; a file that is undefined is gone. */
interface Scan {
  readonly found: Map<string, FoundFile | undefined>;
  readonly versions: Map<string, FileVersion>;
}

const DEFAULTS: DirectoryOptions = {
  settleMs: 10,
  maxSettleMs: 50,
  rescanMs: 10_000,
  maxFileBytes: 64 * 1024 * 1024,
  maxFiles: 50_000,
  maxObjects: 250_000,
  maxDepth: 16,
};
/** How often a directory that is not there yet is looked for. */
const RETRY_MS = 1_000;
const MAX_ROUNDS = 8;
const READ_BATCH = 64;
