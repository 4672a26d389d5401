import type { KubernetesObject } from '../../../model/kubernetes/object.js';
import type { ObjectChange } from '../inputs.js';
import type { Manifest } from './manifest.js';
import { type Duplicate, Shelf } from './shelf.js';
import { isAtOrBelow } from './tree.js';

/** What has been found out about one version of a file. */
export interface FileVersion {
  /** Of the file system; another one means another look. */
  readonly signature: string;
  /** Of the content; empty when it could not be had. */
  readonly hash: string;
  /** Undefined when it is no good. */
  readonly manifest: Manifest | undefined;
  readonly problems: readonly string[];
  /** What stands for those of its policies that cannot be read. */
  readonly closed: readonly KubernetesObject[];
}

export interface BadFile {
  readonly path: string;
  readonly problems: readonly string[];
  /** Number of objects of its last good version that stay in force. */
  readonly kept: number;
  /** Number of its policies that, without one, deny in full. */
  readonly closed: number;
}

export interface LedgerLimits {
  readonly maxFiles: number;
  readonly maxObjects: number;
}

/** The files of a directory: what each says, and of those that are no good what they said last. */
export class Ledger {
  readonly #files = new Map<string, FileState>();
  /** Good files by content. */
  readonly #byHash = new Map<string, FileState>();
  readonly #shelf = new Shelf();
  /** Files of which some version is in force. */
  #inForce = 0;

  /** `rejected` hears of each version that is no good, once. */
  constructor(
    readonly limits: LedgerLimits,
    readonly rejected: (file: BadFile) => void,
  ) {}

  signatureOf(path: string): string | undefined {
    return this.#files.get(path)?.signature;
  }

  /** What content with this hash said, if a file has it: it need not be parsed again, wherever it stands. */
  manifestOf(hash: string): Manifest | undefined {
    return this.#byHash.get(hash)?.good;
  }

  *pathsAtOrBelow(path: string): Iterable<string> {
    for (const known of this.#files.keys()) if (isAtOrBelow(known, path)) yield known;
  }

  accept(path: string, version: FileVersion): void {
    const former = this.#files.get(path);
    if (former?.signature === version.signature) return;
    this.#unlist(former);
    const { manifest, hash } = version;
    const problems = manifest === undefined ? version.problems : this.#overLimits(manifest, former);
    const good = problems.length === 0 && manifest !== undefined ? manifest : (former?.good ?? NOTHING);
    // What does not fit today may fit when something else has gone: look again at the next scan.
    const signature = problems.length > 0 && manifest !== undefined ? '' : version.signature;
    const closed = good === NOTHING ? version.closed : [];
    const file: FileState = { signature, hash, good, problems, closed };
    this.#files.set(path, file);
    if (good !== NOTHING && !isInForce(former)) this.#inForce++;
    if (problems.length === 0) {
      this.#byHash.set(hash, file);
      this.#shelf.put(path, good.objects);
      return;
    }
    if (good === NOTHING) this.#shelf.put(path, closed);
    if (former?.hash !== hash || former.problems.length === 0) {
      this.rejected(badFile(path, file));
    }
  }

  forget(path: string): void {
    const former = this.#files.get(path);
    this.#unlist(former);
    if (isInForce(former)) this.#inForce--;
    this.#files.delete(path);
    this.#shelf.put(path, []);
  }

  /** What has changed since the last call, one change an object. */
  takeChanges(): readonly ObjectChange[] {
    return this.#shelf.takeChanges();
  }

  counts(): {
    readonly files: number;
    readonly objects: number;
    readonly badFiles: number;
    readonly closedPolicies: number;
  } {
    let [badFiles, closedPolicies] = [0, 0];
    for (const { problems, closed } of this.#files.values()) {
      if (problems.length > 0) badFiles++;
      closedPolicies += closed.length;
    }
    return { files: this.#files.size, objects: this.#shelf.size, badFiles, closedPolicies };
  }

  badFiles(): readonly BadFile[] {
    return this.#sorted().flatMap(([path, file]) => (file.problems.length > 0 ? [badFile(path, file)] : []));
  }

  duplicates(): readonly Duplicate[] {
    return this.#shelf.duplicates();
  }

  /** `path: line 1: …` of what was read and has no effect. */
  notes(): readonly string[] {
    return this.#sorted().flatMap(([path, { good }]) => good.notes.map((note) => `${path}: ${note}`));
  }

  #sorted(): readonly (readonly [string, FileState])[] {
    return [...this.#files].sort(([a], [b]) => (a < b ? -1 : 1));
  }

  #unlist(former: FileState | undefined): void {
    if (former !== undefined && this.#byHash.get(former.hash) === former) this.#byHash.delete(former.hash);
  }

  #overLimits(manifest: Manifest, former: FileState | undefined): readonly string[] {
    const { maxFiles, maxObjects } = this.limits;
    if (!isInForce(former) && this.#inForce >= maxFiles) {
      return [`is one file too many: the directory may hold ${maxFiles}`];
    }
    const more = manifest.objects.length - (former?.good.objects.length ?? 0);
    if (more > 0 && this.#shelf.size + more > maxObjects) {
      return [`has ${more} objects more than before, too many: the directory may hold ${maxObjects}`];
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
  /** In force in place of what it never said well. */
  readonly closed: readonly KubernetesObject[];
}

function isInForce(file: FileState | undefined): boolean {
  return file !== undefined && file.good !== NOTHING;
}

function badFile(path: string, file: FileState): BadFile {
  return { path, problems: file.problems, kept: file.good.objects.length, closed: file.closed.length };
}

const NOTHING: Manifest = { objects: [], notes: [] };
