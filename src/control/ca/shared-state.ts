import { BackOff } from '../../lib/back-off.js';
import type { Clock } from '../../lib/clock.js';
import { err, type Result } from '../../lib/result.js';
import type { Logger } from '../../telemetry/log.js';
import type { SharedDocument, Version } from './shared-document.js';

export interface SharedStateOptions<T> {
  readonly document: SharedDocument;
  /** What it is, as a sentence begins: `the CA’s state`. */
  readonly what: string;
  /** What to do when it is damaged. */
  readonly remedy: string;
  /** Throws on what is no good. */
  readonly parse: (text: string) => T;
  readonly format: (value: T) => string;
  /** Where there is none yet; `others` is what else stands at that place. */
  readonly initial: (others: Readonly<Record<string, string>>) => T;
  /** Called after the value is another, whoever changed it. */
  readonly changed: (value: T, before: T) => void;
  /** Whether what somebody removed is to be put back. */
  readonly putsBack?: () => boolean;
  readonly clock: Clock;
  readonly log: Logger;
}

/**
 * A value that several processes read and change, kept in a document: a change is made to the newest value or not at
 * all. What somebody puts there that is no good is reported, and the last good value stays in use.
 */
export class SharedState<T> {
  readonly #options: SharedStateOptions<T>;
  readonly #backOff = new BackOff(RETRY_BASE_MS, RETRY_MAX_MS);
  #value: T;
  #version: Version | undefined;
  #queue: Promise<unknown> = Promise.resolve();
  #unsubscribe: () => void = () => {};
  #cancelRetry: () => void = () => {};
  #closed = false;
  #error = '';

  private constructor(options: SharedStateOptions<T>, value: T, version: Version) {
    this.#options = options;
    this.#value = value;
    this.#version = version;
    this.#unsubscribe = options.document.subscribe(() => this.#refresh());
  }

  /** Makes the value where there is none. Rejects when what is there cannot be used: it is never replaced. */
  static async open<T>(options: SharedStateOptions<T>): Promise<SharedState<T>> {
    const { document, format, initial, log, what } = options;
    for (;;) {
      const found = await document.read().catch((error: unknown) => {
        throw new Error(`${what} ${document.where} cannot be read: ${messageOf(error)}`);
      });
      if (found?.text !== undefined) return new SharedState(options, parsed(options, found.text), found);
      const value = initial(found?.others ?? {});
      const version = await document.replace(format(value), found);
      // Somebody else made one meanwhile: theirs is as good.
      if (version === undefined) continue;
      log.info({ where: document.where }, `${what} is made`);
      return new SharedState(options, value, version);
    }
  }

  get current(): T {
    return this.#value;
  }

  /** Of what is there now and is no good; empty when all is well. */
  get error(): string {
    return this.#error;
  }

  /**
   * Makes a change to the newest value: `change` is asked again when another process was faster, and writes nothing when
   * it returns what it was given. Error: its own. Rejects when the change cannot be kept.
   */
  update(change: (value: T) => Result<T>): Promise<Result<T>> {
    return this.#inTurn(async () => {
      for (let attempt = 0; attempt < MAX_ATTEMPTS; attempt++) {
        const next = change(this.#value);
        if (!next.ok || next.value === this.#value) return next;
        const version = await this.#options.document.replace(this.#options.format(next.value), this.#version);
        if (version !== undefined) {
          this.#become(next.value, version);
          return next;
        }
        await this.#read();
        if (this.#error !== '') return err(this.#error);
      }
      throw new Error(`${this.#options.what} is changed by others again and again`);
    });
  }

  close(): void {
    this.#closed = true;
    this.#unsubscribe();
    this.#cancelRetry();
  }

  #refresh(): void {
    this.#cancelRetry();
    void this.#inTurn(async () => {
      if (this.#closed) return;
      try {
        await this.#read();
        this.#backOff.reset();
      } catch (error) {
        const { clock, log, what } = this.#options;
        log.warn({ error }, `${what} cannot be read now; trying again`);
        this.#cancelRetry = clock.schedule(this.#backOff.next(), () => this.#refresh());
      }
    });
  }

  async #read(): Promise<void> {
    const { document, format, log, what, putsBack = () => true } = this.#options;
    const found = await document.read();
    if (found?.text === undefined) {
      this.#version = found;
      if (!putsBack()) return;
      this.#version = (await document.replace(format(this.#value), found)) ?? (await document.read());
      log.warn({ where: document.where }, `${what} was gone; it is put back`);
      if (this.#version?.text === undefined) return;
      this.#take(this.#version.text, this.#version);
      return;
    }
    if (found.text !== this.#version?.text) {
      this.#take(found.text, found);
      return;
    }
    this.#version = found;
    this.#error = '';
  }

  #take(text: string, version: Version): void {
    const { log } = this.#options;
    try {
      const value = parsed(this.#options, text);
      this.#error = '';
      this.#become(value, version);
    } catch (error) {
      // Without the version, so that nothing of ours is ever written over it.
      this.#error = messageOf(error);
      log.error({ error: this.#error }, 'the last good one stays in use');
    }
  }

  #become(value: T, version: Version): void {
    const before = this.#value;
    this.#version = version;
    this.#value = value;
    this.#options.changed(value, before);
  }

  #inTurn<R>(work: () => Promise<R>): Promise<R> {
    const result = this.#queue.then(work);
    this.#queue = result.catch(() => undefined);
    return result;
  }
}

function parsed<T>({ parse, what, document, remedy }: SharedStateOptions<T>, text: string): T {
  try {
    return parse(text);
  } catch (error) {
    throw new Error(`${what} ${document.where} cannot be used: ${messageOf(error)}. ${remedy}`);
  }
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

const MAX_ATTEMPTS = 20;
const RETRY_BASE_MS = 200;
const RETRY_MAX_MS = 10_000;
