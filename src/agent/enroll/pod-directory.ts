import { existsSync, type FSWatcher, mkdirSync, renameSync, rmSync, watch, writeFileSync } from 'node:fs';
import { readdir, readFile, stat } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import type { Clock } from '../../lib/clock.js';
import type { Logger } from '../../telemetry/log.js';
import { type PodRecord, parsePodRecord } from './pod-record.js';
import type { PodSource } from './pod-source.js';

/**
 * Pods from a directory with one JSON file each (`<uid>.json`, replaced by rename), and answers as files of the same
 * name in the directory `redirection` beside it. A bad file is reported and its last good record kept.
 */
export class PodDirectory implements PodSource {
  readonly #answers: string;
  readonly #files = new Map<string, { readonly stamp: string; readonly pod: PodRecord | undefined }>();
  #watcher: FSWatcher | undefined;
  #cancel: () => void = () => undefined;
  #scanning: Promise<void> | undefined;
  #again = false;
  #closed = false;
  #first = true;

  constructor(
    readonly directory: string,
    readonly clock: Clock,
    readonly log: Logger,
  ) {
    this.#answers = join(dirname(directory), 'redirection');
  }

  async start(changed: (pods: readonly PodRecord[]) => void): Promise<void> {
    mkdirSync(this.directory, { recursive: true });
    mkdirSync(this.#answers, { recursive: true });
    this.#watcher = watch(this.directory, { persistent: false }, () => void this.#scan(changed));
    this.#watcher.on('error', (error) =>
      this.log.warn({ error }, 'the pod directory cannot be watched; looking now and then'),
    );
    await this.#scan(changed);
    this.#rescanLater(changed);
  }

  report(pod: PodRecord, redirection: string | undefined): void {
    const path = join(this.#answers, pod.uid);
    try {
      if (redirection === undefined) {
        rmSync(path, { force: true });
        return;
      }
      writeFileSync(`${path}.tmp`, redirection);
      renameSync(`${path}.tmp`, path);
    } catch (error) {
      this.log.error({ path, error }, 'the state of a redirection cannot be written');
    }
  }

  wasRedirected(pod: PodRecord): boolean {
    return existsSync(join(this.#answers, pod.uid));
  }

  /** Whoever wrote the record keeps the namespace. */
  released(): void {}

  close(): void {
    this.#closed = true;
    this.#watcher?.close();
    this.#cancel();
  }

  /** Notifications can be lost: look anyway. */
  #rescanLater(changed: (pods: readonly PodRecord[]) => void): void {
    this.#cancel = this.clock.schedule(RESCAN_MS, () => {
      void this.#scan(changed);
      this.#rescanLater(changed);
    });
  }

  /** One scan at a time; a change during a scan is followed by another. */
  #scan(changed: (pods: readonly PodRecord[]) => void): Promise<void> {
    this.#again = true;
    this.#scanning ??= (async () => {
      while (this.#again && !this.#closed) {
        this.#again = false;
        const different = await this.#read();
        if (!this.#closed && (different || this.#first)) {
          this.#first = false;
          changed([...this.#files.values()].flatMap(({ pod }) => (pod === undefined ? [] : [pod])));
        }
      }
    })()
      .catch((error) => this.log.error({ directory: this.directory, error }, 'the pod directory cannot be read'))
      .finally(() => {
        this.#scanning = undefined;
      });
    return this.#scanning;
  }

  async #read(): Promise<boolean> {
    const names = (await readdir(this.directory))
      .filter((name) => name.endsWith('.json') && !name.startsWith('.'))
      .sort();
    let different = false;
    for (const name of [...this.#files.keys()].filter((known) => !names.includes(known))) {
      this.#files.delete(name);
      different = true;
    }
    for (const name of names) different = (await this.#readFile(name)) || different;
    return different;
  }

  async #readFile(name: string): Promise<boolean> {
    const path = join(this.directory, name);
    const known = this.#files.get(name);
    try {
      const { ino, mtimeMs, size } = await stat(path);
      const stamp = `${ino} ${mtimeMs} ${size}`;
      if (known?.stamp === stamp) return false;
      const parsed = parsePodRecord(JSON.parse(await readFile(path, 'utf8')));
      if (!parsed.ok) throw new Error(parsed.error);
      this.#files.set(name, { stamp, pod: parsed.value });
      return true;
    } catch (error) {
      // Gone since the listing: the next scan sees it.
      if ((error as NodeJS.ErrnoException).code === 'ENOENT') return false;
      this.log.error({ path, error: error instanceof Error ? error.message : error }, 'a pod file is refused');
      const { ino, mtimeMs, size } = await stat(path).catch(() => ({ ino: 0, mtimeMs: 0, size: 0 }));
      this.#files.set(name, { stamp: `${ino} ${mtimeMs} ${size}`, pod: known?.pod });
      return false;
    }
  }
}

const RESCAN_MS = 2000;
