import { readFile } from 'node:fs/promises';
import type { Clock } from './clock.js';

/**
 * Reads a small file now and then and tells when its content is another: works for files that are replaced by rename
 * and for symbolic links that are turned over (Kubernetes volumes), where notifications do not.
 */
export class WatchedFile {
  #content: Buffer | undefined;
  #error = '';
  #cancel: () => void = () => undefined;
  #closed = false;

  constructor(
    readonly path: string,
    readonly clock: Clock,
    /** Called for the first content and each different one. */
    readonly changed: (content: Buffer) => void,
    /** Called once per different error; the last content stays in force. */
    readonly failed: (error: string) => void,
    readonly intervalMs = 1000,
  ) {}

  /** Reads once, and goes on by itself. */
  async start(): Promise<void> {
    await this.#look();
    if (!this.#closed) this.#cancel = this.clock.schedule(this.intervalMs, () => void this.start());
  }

  close(): void {
    this.#closed = true;
    this.#cancel();
  }

  async #look(): Promise<void> {
    try {
      const content = await readFile(this.path);
      this.#error = '';
      if (this.#closed || this.#content?.equals(content)) return;
      this.#content = content;
      this.changed(content);
    } catch (error) {
      const message = error instanceof Error ? error.message : String(error);
      if (message !== this.#error && !this.#closed) this.failed(message);
      this.#error = message;
    }
  }
}
