/** The TCP client of the tests, inside a pod: typed calls for pods/prober.py. */
import { join } from 'node:path';
import { type Answer, type Place, Worker } from './worker.js';

export interface Target {
  /** Address or name. */
  readonly host: string;
  readonly port: number;
  readonly family?: 4 | 6;
  /** Seconds for each step. Default 10. */
  readonly timeout?: number;
}

export interface Greeting extends Answer {
  /** Name of the server that answered. */
  readonly server?: string;
  /** The client's address as the server sees it. */
  readonly peer?: string;
  readonly serverLocal?: string;
  readonly local?: string;
  readonly remote?: string;
  readonly ms?: number;
}

export interface Tally extends Answer {
  readonly ok: number;
  /** How many failed in which way. */
  readonly failed: Readonly<Record<string, number>>;
  readonly maxMs: number;
  readonly servers: Readonly<Record<string, number>>;
  readonly lastError: string;
}

export interface Streams extends Answer {
  readonly streams: number;
  readonly bytes: number;
  /** Blocks that came back changed. */
  readonly wrong: number;
  /** Streams that ended before they were stopped. */
  readonly cut: number;
  readonly hows: Readonly<Record<string, number>>;
  readonly maxGapMs: number;
}

export interface Transfer extends Answer {
  readonly bytes: number;
  readonly same: boolean;
  readonly seconds: number;
}

export interface Resolutions extends Answer {
  readonly ok: number;
  readonly failed: number;
  readonly maxMs: number;
  readonly answers: readonly string[];
}

export class Prober extends Worker {
  constructor(name: string, place: Place) {
    super(name, place, ['python3', '-u', pythonFile('prober.py')]);
  }

  probe(target: Target): Promise<Greeting> {
    return this.call('probe', target);
  }

  /**
   * Like `probe`, from a local port that no connection of this prober had before. Else the kernel may give one port to
   * connections to several places, now or a minute ago, and redirection, for which they all go to one place, makes
   * another port of it: then no record could be told by the port that the client knows.
   */
  probeFromNewPort(target: Target): Promise<Greeting> {
    return this.call('probe', { ...target, sourcePort: FIRST_OWN_PORT + this.#ownPorts++ });
  }

  churn(target: Target & { count: number; workers?: number }): Promise<Tally> {
    return this.call('churn', target);
  }

  upload(target: Target & { bytes: number }): Promise<Transfer> {
    return this.call('upload', target);
  }

  download(target: Target & { bytes: number }): Promise<Transfer> {
    return this.call('download', target);
  }

  resolve(host: string, family?: 4 | 6): Promise<Answer & { addresses?: readonly string[] }> {
    return this.call('resolve', { host, ...(family && { family }) });
  }

  /** Sends bytes as they are and tells what came back and how it ended. */
  hostile(target: Target & { hex: string; finish?: boolean; tls?: object }): Promise<Answer & { received?: string }> {
    return this.call('hostile', target);
  }

  /** Opens a connection that stays, for the steps of a conversation. */
  async open(target: Target): Promise<Conversation> {
    const conn = `c${++this.#conversations}`;
    const greeting = await this.call<Greeting>('open', { ...target, conn });
    return new Conversation(this, conn, greeting);
  }

  /** New short connections until the loop is stopped. */
  connecting(target: Target & { workers?: number; pause?: number }): Promise<Loop<Tally>> {
    return this.#loop('connecting', target);
  }

  /** Checksummed echo streams until the loop is stopped. */
  streams(target: Target & { workers?: number; pause?: number }): Promise<Loop<Streams>> {
    return this.#loop('streams', target);
  }

  /** DNS queries to `server` until the loop is stopped. */
  resolving(query: { server: string; name: string; pause?: number; timeout?: number }): Promise<Loop<Resolutions>> {
    return this.#loop('resolving', query);
  }

  #conversations = 0;
  #ownPorts = 0;
  #loops = 0;

  async #loop<T extends Answer>(op: string, args: object): Promise<Loop<T>> {
    const loop = `l${++this.#loops}`;
    await this.call(op, { ...args, loop });
    return {
      progress: () => this.call<T>('progress', { loop }),
      stop: () => this.call<T>('stop', { loop }),
    };
  }
}

export interface Loop<T> {
  /** What it has done so far; it goes on. */
  progress(): Promise<T>;
  stop(): Promise<T>;
}

/** One open connection to a test server. */
export class Conversation {
  readonly greeting: Greeting;
  readonly #prober: Prober;
  readonly #conn: string;

  constructor(prober: Prober, conn: string, greeting: Greeting) {
    this.#prober = prober;
    this.#conn = conn;
    this.greeting = greeting;
  }

  /** Sends a line and reads the answer. */
  async ask(text: string): Promise<string> {
    const answer = await this.#call<Answer & { line?: string }>('talk', { text });
    return answer.line ?? `${answer.how}: ${answer.error}`;
  }

  /** Sends a line, reads nothing. */
  tell(text: string): Promise<Answer> {
    return this.#call('talk', { text, quiet: true });
  }

  async line(): Promise<string> {
    const answer = await this.#call<Answer & { line?: string }>('line', {});
    return answer.line ?? `${answer.how}: ${answer.error}`;
  }

  push(bytes: number, options: { seed?: number; timeout?: number } = {}): Promise<Answer & Pushed> {
    return this.#call('push', { bytes, ...options });
  }

  pull(bytes: number, seed = 1): Promise<Answer & { received: number; sum: string; wanted: string }> {
    return this.#call('pull', { bytes, seed });
  }

  /** How the peer ended the connection: eof, reset or timeout. */
  end(timeout = 10): Promise<Answer & { extra?: number }> {
    return this.#call('end', { timeout });
  }

  halfClose(): Promise<Answer> {
    return this.#call('halfClose', {});
  }

  close(options: { reset?: boolean } = {}): Promise<Answer> {
    return this.#call('close', options);
  }

  #call<T extends Answer>(op: string, args: object): Promise<T> {
    return this.#prober.call<T>(op, { ...args, conn: this.#conn });
  }
}

export interface Pushed {
  readonly sent: number;
  readonly sum: string;
  /** A send took longer than the timeout: the other side holds us back. */
  readonly blocked: boolean;
}

/** Below what the kernel hands out, above what the mesh listens on. */
const FIRST_OWN_PORT = 20_000;

/** Path of a Python program for pods. It stays in the source tree; compiled tests run from dist. */
export function pythonFile(name: string): string {
  return join(import.meta.dirname, '../../../test/support/pods', name);
}
