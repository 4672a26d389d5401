import { type FSWatcher, watch } from 'node:fs';
import { join } from 'node:path';

/** Watches single directories and says which paths to look at. What it misses the periodic scan finds. */
export class Watches {
  readonly #watchers = new Map<string, { readonly watcher: FSWatcher; readonly identity: string }>();

  /** `onBroken` hears of a directory that cannot be watched (any longer), and why. */
  constructor(
    readonly onPath: (path: string) => void,
    readonly onBroken: (directory: string, why: string) => void,
  ) {}

  /** True when this directory was not watched before: what is in it may have changed since it was looked at. */
  add(directory: string, identity: string): boolean {
    const known = this.#watchers.get(directory);
    if (known?.identity === identity) return false;
    known?.watcher.close();
    this.#watchers.delete(directory);
    try {
      const watcher = watch(directory, (_, name) => {
        // Two dots: what the visible names of a mounted ConfigMap point to. One dot: somebody's temporary file, which
        // is told of again under the name that it gets.
        if (name === null || name.startsWith('..')) this.onPath(directory);
        else if (!name.startsWith('.')) this.onPath(join(directory, name));
      });
      watcher.on('error', (error) => this.#drop(directory, error.message));
      this.#watchers.set(directory, { watcher, identity });
      return true;
    } catch (error) {
      this.onBroken(directory, error instanceof Error ? error.message : String(error));
      return false;
    }
  }

  /** Ends every watch at and below `path` except those in `keep`. */
  prune(path: string, keep: ReadonlySet<string>): void {
    for (const [directory, { watcher }] of this.#watchers) {
      if (keep.has(directory) || (directory !== path && !directory.startsWith(`${path}/`))) continue;
      watcher.close();
      this.#watchers.delete(directory);
    }
  }

  close(): void {
    for (const { watcher } of this.#watchers.values()) watcher.close();
    this.#watchers.clear();
  }

  #drop(directory: string, why: string): void {
    this.#watchers.get(directory)?.watcher.close();
    this.#watchers.delete(directory);
    this.onBroken(directory, why);
  }
}
