import { BackOff } from '../lib/back-off.js';
import { type Clock, systemClock } from '../lib/clock.js';
import { ApiError, type ApiObject, type KubeApi, type Resource, type Selection } from './api.js';
import { messageOf } from './connection.js';
import { isDefined } from './definition.js';
import type { InstalledKinds } from './installed-kinds.js';

/** Hears what there is of a kind: first everything, then each change, in order. Nothing is told twice. */
export interface ReflectHandler<T> {
  /** Everything there is, in place of all that was told before: at the start, and after history was lost. */
  synced(all: readonly T[]): void;
  /** One object; `deleted` comes with its last state. */
  changed(change: ReflectedChange<T>): void;
}

export interface ReflectedChange<T> {
  readonly type: 'added' | 'modified' | 'deleted';
  readonly object: T;
}

export interface ReflectOptions<T> {
  /** Makes of an object what is handed on, at once, so that nothing else of it stays in memory. */
  readonly read: (object: ApiObject) => T;
  readonly handler: ReflectHandler<T>;
  readonly selection?: Selection;
  /** Says when a kind that is missing has been installed; without it, it is asked for every minute. */
  readonly kinds?: InstalledKinds;
  readonly clock?: Clock;
  /** Hears of everything that makes it start over: for logs and counters. */
  readonly trouble?: (trouble: ReflectTrouble) => void;
}

export interface ReflectTrouble {
  readonly what: 'list failed' | 'watch failed' | 'history lost';
  readonly message: string;
}

export interface ReflectStatus {
  readonly state: 'listing' | 'watching' | 'missing';
  /** Whether `synced` has been called. */
  readonly synced: boolean;
  readonly resourceVersion: string;
  readonly lists: number;
  readonly watches: number;
  /** Of the present trouble; empty when there is none. */
  readonly error: string;
}

export interface Reflection {
  /** Resolves after the first `synced`, which also comes (with nothing) when the kind is not installed. */
  readonly synced: Promise<void>;
  status(): ReflectStatus;
  close(): void;
}

/**
 * Lists a kind, object by object, and watches it from there on. A watch that ends is resumed where it was; when the server
 * no longer has that history, everything is listed again and handed on as one replacement. Failures are waited out, with
 * jitter; what was told before stays true meanwhile.
 */
export function reflect<T>(api: KubeApi, resource: Resource, options: ReflectOptions<T>): Reflection {
  const reflection = new Reflector(api, resource, options);
  void reflection.run();
  return reflection;
}

class Reflector<T> implements Reflection {
  readonly #synced = Promise.withResolvers<void>();
  readonly #stop = new AbortController();
  readonly #backOff = new BackOff(BASE_MS, MAX_MS);
  readonly #clock: Clock;
  #toldMissing = false;
  /** How old the next list may be; empty: the newest. */
  #notBefore = '0';
  #definition: string | undefined;
  readonly #status: { -readonly [K in keyof ReflectStatus]: ReflectStatus[K] } = {
    state: 'listing',
    synced: false,
    resourceVersion: '',
    lists: 0,
    watches: 0,
    error: '',
  };

  constructor(
    readonly api: KubeApi,
    readonly resource: Resource,
    readonly options: ReflectOptions<T>,
  ) {
    this.#clock = options.clock ?? systemClock;
  }

  get synced(): Promise<void> {
    return this.#synced.promise;
  }

  status(): ReflectStatus {
    return { ...this.#status };
  }

  close(): void {
    this.#stop.abort();
  }

  async run(): Promise<void> {
    while (!this.#stop.signal.aborted) {
      const listed = await this.#list();
      if (!listed) continue;
      while (!this.#stop.signal.aborted && (await this.#watch()));
    }
  }

  /** False: to be tried again. */
  async #list(): Promise<boolean> {
    const { selection, handler } = this.options;
    this.#update({ state: 'listing' });
    // Before it is asked for: what is defined meanwhile is then seen as news.
    this.#definition = this.options.kinds?.revisionOf(this.resource);
    try {
      const { objects, resourceVersion } = await this.#all(selection ?? {});
      if (this.#stop.signal.aborted) return false;
      handler.synced(objects);
      this.#update({ resourceVersion, synced: true, error: '', lists: this.#status.lists + 1 });
      this.#toldMissing = false;
      this.#synced.resolve();
      this.#backOff.reset();
      return true;
    } catch (error) {
      if (this.#stop.signal.aborted) return false;
      if (isMissingKind(error) && (await this.#isNotInstalled())) {
        await this.#waitForKind();
        return false;
      }
      this.#complain('list failed', error);
      await this.#pause(error);
      return false;
    }
  }

  /**
   * The first time from the server's memory, which costs it a fraction of asking storage and may be some moments behind;
   * the watch catches up. Later nobody may be told what is older than what they know: then it is the newest.
   */
  async #all(selection: Selection) {
    const objects: T[] = [];
    const notBefore = this.#notBefore;
    this.#notBefore = '';
    const read = (object: ApiObject) => void objects.push(this.options.read(object));
    const resourceVersion = await this.api.listAll(this.resource, selection, notBefore, read, this.#stop.signal);
    return { objects, resourceVersion };
  }

  /** Until the watch ends. False: its history is lost, and everything is to be listed again. */
  async #watch(): Promise<boolean> {
    const { selection, handler, read } = this.options;
    const startMs = this.#clock.now();
    let events = 0;
    try {
      const { resourceVersion } = this.#status;
      const stream = this.api.watch(this.resource, selection ?? {}, resourceVersion, this.#stop.signal);
      this.#update({ state: 'watching', watches: this.#status.watches + 1 });
      for await (const event of stream) {
        if (this.#stop.signal.aborted) return false;
        if (events++ === 0) {
          this.#backOff.reset();
          this.#update({ error: '' });
        }
        if (event.type === 'bookmark') {
          this.#update({ resourceVersion: event.resourceVersion });
          continue;
        }
        // Before it is handed on: it is not to be told again, whatever becomes of it.
        this.#update({ resourceVersion: event.object.metadata.resourceVersion ?? this.#status.resourceVersion });
        handler.changed({ type: event.type, object: read(event.object) });
      }
      this.#update({ error: '' });
      // A server that ends each watch at once is not to be asked without end.
      if (events === 0 && this.#clock.now() - startMs < SHORT_MS) await this.#pause(undefined);
      return true;
    } catch (error) {
      if (this.#stop.signal.aborted) return false;
      if (isLostHistory(error)) {
        this.#complain('history lost', error);
        if (events === 0 && this.#clock.now() - startMs < SHORT_MS) await this.#pause(undefined);
        return false;
      }
      if (isMissingKind(error)) return false;
      this.#complain('watch failed', error);
      await this.#pause(error);
      return true;
    }
  }

  /** An API server that has just started may not know its custom kinds yet: the definition itself decides. */
  async #isNotInstalled(): Promise<boolean> {
    try {
      return !(await isDefined(this.api, this.resource));
    } catch (error) {
      // Not allowed to see definitions: the 404 must do. Anything else: nothing is known.
      return error instanceof ApiError && error.status === 403;
    }
  }

  async #waitForKind(): Promise<void> {
    const { handler, kinds } = this.options;
    if (!this.#toldMissing) handler.synced([]);
    this.#toldMissing = true;
    this.#update({ state: 'missing', resourceVersion: '', synced: true, error: '' });
    this.#synced.resolve();
    if (kinds !== undefined && kinds.revisionOf(this.resource) !== this.#definition) return;
    await this.#until((done) => {
      const cancel = this.#clock.schedule(MISSING_MS * (0.75 + Math.random() / 2), done);
      const leave = kinds?.onChange(this.resource, done);
      return () => {
        cancel();
        leave?.();
      };
    });
    // Between its definition and its being served lie some moments.
    this.#backOff.reset();
  }

  #pause(error: unknown): Promise<void> {
    const asked = error instanceof ApiError ? (error.retryAfterMs ?? 0) : 0;
    const ms = Math.max(asked, this.#backOff.next());
    return this.#until((done) => this.#clock.schedule(ms, done));
  }

  /** Waits for what `start` begins, or for the end. `start` returns how to take it back. */
  #until(start: (done: () => void) => () => void): Promise<void> {
    const { signal } = this.#stop;
    return new Promise((resolve) => {
      const end = () => {
        signal.removeEventListener('abort', end);
        takeBack();
        resolve();
      };
      const takeBack = start(end);
      signal.addEventListener('abort', end);
      if (signal.aborted) end();
    });
  }

  #complain(what: ReflectTrouble['what'], error: unknown): void {
    const message = messageOf(error);
    this.#update({ error: message });
    this.options.trouble?.({ what, message });
  }

  #update(change: Partial<ReflectStatus>): void {
    Object.assign(this.#status, change);
  }
}

function isMissingKind(error: unknown): boolean {
  return error instanceof ApiError && error.status === 404;
}

function isLostHistory(error: unknown): boolean {
  return error instanceof ApiError && (error.status === 410 || error.reason === 'Expired');
}

const BASE_MS = 100;
const MAX_MS = 30_000;
const MISSING_MS = 60_000;
const SHORT_MS = 1000;
