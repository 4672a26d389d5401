import { createHash } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { setImmediate } from 'node:timers/promises';
import type { Clock } from '../../../lib/clock.js';
import type { ObjectChange } from '../inputs.js';
import { type Manifest, parseManifestInSlices } from './manifest.js';
import { type Duplicate, Shelf } from './shelf.js';
import { type FoundFile, type FoundTree, lookAt, signatureOf } from './tree.js';
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

export interface BadFile {
  readonly path: string;
  readonly problems: readonly string[];
  /** Number of objects of its last good version that stay in force. */
  readonly kept: number;
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
  readonly #files = new Map<string, FileState>();
  /** Good files by content. */
  readonly #byHash = new Map<string, FileState>();
  readonly #shelf = new Shelf();
  readonly #watches: Watches;
  readonly #dirty = new Set<string>();
  readonly #troubles = new Map<string, string>();
  #scanning: Promise<void> | undefined;
  #cancelRescan: () => void = () => {};
  /** Ends whatever waits for time to pass. */
  readonly #waits = new Set<() => void>();
  #quiet: (() => void) | undefined;
  /** Files of which some version is in force. */
  #inForce = 0;
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
    const files = [...this.#files].sort(([a], [b]) => (a < b ? -1 : 1));
    return {
      directory: this.directory,
      files: files.length,
      objects: this.#shelf.size,
      scans: this.#scans,
      badFiles: files.filter(([, file]) => file.problems.length > 0).map(([path, file]) => badFile(path, file)),
      duplicates: this.#shelf.duplicates(),
      notes: files.flatMap(([path, file]) => file.good.notes.map((note) => `${path}: ${note}`)),
      troubles: [...this.#troubles].map(([path, problem]) => ({ path, problem })),
    };
  }

  /** The numbers of `status`, cheaper. */
  counts(): { readonly files: number; readonly objects: number; readonly badFiles: number } {
    let badFiles = 0;
    for (const { problems } of this.#files.values()) if (problems.length > 0) badFiles++;
    return { files: this.#files.size, objects: this.#shelf.size, badFiles };
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
    this.#scanning = this.#scanDirty().finally(() => {
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
    const scan: Scan = { found: new Map(), outcomes: new Map() };
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
      const outcome = scan.outcomes.get(path);
      if (file === undefined) this.#forget(path);
      else if (outcome?.signature === file.signature) this.#accept(path, outcome);
    }
    const changes = this.#shelf.takeChanges();
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
    for (const paths of [this.#files.keys(), [...found.keys()]]) {
      for (const known of paths) {
        if (isAtOrBelow(known, path) && !unreadable.some((bad) => isAtOrBelow(known, bad))) found.set(known, undefined);
      }
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
  async #read({ found, outcomes }: Scan): Promise<boolean> {
    const changed = [...found].flatMap(([path, file]) =>
      file === undefined || (outcomes.get(path) ?? this.#files.get(path))?.signature === file.signature ? [] : [file],
    );
    for (let from = 0; from < changed.length; from += READ_BATCH) {
      const batch = changed.slice(from, from + READ_BATCH);
      const contents = await Promise.all(batch.map((file) => this.#load(file)));
      for (const [i, file] of batch.entries()) {
        const loaded = contents[i];
        if (loaded === 'moving') this.#dirty.add(file.path);
        else if (loaded !== undefined) outcomes.set(file.path, await this.#parse(file, loaded));
      }
    }
    return changed.length > 0;
  }

  async #load(file: FoundFile): Promise<Uint8Array | 'moving' | Unreadable> {
    const { maxFileBytes } = this.#options;
    if (file.bytes > maxFileBytes) return { problem: `has ${file.bytes} bytes, more than ${maxFileBytes}` };
    try {
      const bytes = await readFile(file.path);
      return (await signatureOf(file.path)) === file.signature ? bytes : 'moving';
    } catch (error) {
      const code = (error as NodeJS.ErrnoException).code;
      return code === 'ENOENT' ? 'moving' : { problem: `cannot be read (${code ?? String(error)})` };
    }
  }

  /** Content that has been parsed before, wherever it stood, is not parsed again. */
  async #parse({ signature }: FoundFile, loaded: Uint8Array | Unreadable): Promise<Outcome> {
    if ('problem' in loaded) return { signature, hash: '', manifest: undefined, problems: [loaded.problem] };
    const hash = createHash('sha256').update(loaded).digest('base64');
    const known = this.#byHash.get(hash);
    if (known !== undefined) return { signature, hash, manifest: known.good, problems: [] };
    const parsed = await parseManifestInSlices(loaded);
    if (parsed.ok) return { signature, hash, manifest: parsed.value, problems: [] };
    return { signature, hash, manifest: undefined, problems: parsed.error };
  }

  #forget(path: string): void {
    const former = this.#files.get(path);
    if (former === undefined) return;
    if (this.#byHash.get(former.hash) === former) this.#byHash.delete(former.hash);
    if (former.good !== NOTHING) this.#inForce--;
    this.#files.delete(path);
    this.#shelf.put(path, []);
  }

  #accept(path: string, outcome: Outcome): void {
    const former = this.#files.get(path);
    if (former?.signature === outcome.signature) return;
    if (former !== undefined && this.#byHash.get(former.hash) === former) this.#byHash.delete(former.hash);
    const problems = outcome.manifest === undefined ? outcome.problems : this.#overLimits(outcome.manifest, former);
    const good = problems.length === 0 && outcome.manifest !== undefined ? outcome.manifest : (former?.good ?? NOTHING);
    // What does not fit today may fit when something else has gone: look again at the next scan.
    const signature = problems.length > 0 && outcome.manifest !== undefined ? '' : outcome.signature;
    const file: FileState = { signature, hash: outcome.hash, good, problems };
    this.#files.set(path, file);
    if (good !== NOTHING && (former === undefined || former.good === NOTHING)) this.#inForce++;
    if (problems.length === 0) this.#byHash.set(file.hash, file);
    if (problems.length === 0) this.#shelf.put(path, good.objects);
    else if (former?.hash !== file.hash || former.problems.length === 0) this.events.rejected(badFile(path, file));
  }

  #overLimits(manifest: Manifest, former: FileState | undefined): readonly string[] {
    const { maxFiles, maxObjects } = this.#options;
    if ((former === undefined || former.good === NOTHING) && this.#inForce >= maxFiles) {
      return [`is one file too many: ${this.directory} may hold ${maxFiles}`];
    }
    const more = manifest.objects.length - (former?.good.objects.length ?? 0);
    if (more > 0 && this.#shelf.size + more > maxObjects) {
      return [`has ${more} objects more than before, too many: ${this.directory} may hold ${maxObjects}`];
    }
    return [];
  }
}

interface FileState {
  readonly signature: string;
  readonly hash: string;
  /** The last version that was good. */
  readonly good: Manifest;
  /** Of the current version; empty when that is the good one. */
  readonly problems: readonly string[];
}

interface Outcome {
  readonly signature: string;
  readonly hash: string;
  readonly manifest: Manifest | undefined;
  readonly problems: readonly string[];
}

interface Unreadable {
  readonly problem: string;
}

/** What one scan has found so far; a file that is undefined is gone. */
interface Scan {
  readonly found: Map<string, FoundFile | undefined>;
  readonly outcomes: Map<string, Outcome>;
}

function isAtOrBelow(path: string, directory: string): boolean {
  return path.startsWith(directory) && (path.length === directory.length || path[directory.length] === '/');
}

function badFile(path: string, file: FileState): BadFile {
  return { path, problems: file.problems, kept: file.good.objects.length };
}

const NOTHING: Manifest = { objects: [], notes: [] };
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
