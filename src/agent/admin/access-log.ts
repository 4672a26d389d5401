import { createWriteStream, type WriteStream } from 'node:fs';
import type { Writable } from 'node:stream';

/**
 * Appends rendered access-log lines to a file or standard output, in the batches they come in. What a slow disk does
 * not take is dropped and counted, never kept without bound.
 */
export class AccessLog {
  readonly #out: Writable | undefined;
  readonly #file: WriteStream | undefined;
  #dropped = 0;
  #error = '';

  /** `target`: `stdout`, `off`, or a path. */
  constructor(
    target: string,
    readonly failed: (error: string) => void,
    readonly maxWaitingBytes = 8 * 1024 * 1024,
  ) {
    if (target === 'off') return;
    this.#file = target === 'stdout' ? undefined : createWriteStream(target, { flags: 'a' });
    this.#out = this.#file ?? process.stdout;
    this.#file?.on('error', (error) => {
      if (error.message !== this.#error) failed(error.message);
      this.#error = error.message;
    });
  }

  /** Lines that were not written. */
  get dropped(): number {
    return this.#dropped;
  }

  /** Whole lines. Keeps the bytes until they are written. */
  write(lines: Uint8Array): void {
    if (this.#out === undefined) return;
    if (this.#error !== '' || this.#out.writableLength > this.maxWaitingBytes) this.#dropped += countLines(lines);
    else this.#out.write(lines);
  }

  /** Resolves when everything is written. */
  close(): Promise<void> {
    return new Promise((resolve) => {
      if (this.#file === undefined || this.#error !== '') resolve();
      else this.#file.end(resolve);
    });
  }
}

function countLines(bytes: Uint8Array): number {
  let lines = 0;
  for (const byte of bytes) if (byte === NEWLINE) lines++;
  return lines;
}

const NEWLINE = 10;
