/** What the bench and its simulated agents say to each other. */
import { type ChildProcess, fork } from 'node:child_process';
import { join } from 'node:path';

export type AgentsOrder =
  | { readonly what: 'connect'; readonly count: number; readonly port: number; readonly remember: boolean }
  | { readonly what: 'pause' | 'resume'; readonly indexes: readonly number[] }
  | { readonly what: 'forget' | 'names' | 'disconnect' }
  | { readonly what: 'match'; readonly changes: readonly MadeChange[]; readonly indexes?: readonly number[] };

/** A change of one resource through the API; times by the machine's monotonic clock. */
export interface MadeChange {
  /** Of the xDS resource. */
  readonly name: string;
  /** When the API server was asked, and when it answered. */
  readonly fromMs: number;
  readonly answeredMs: number;
  /** Whether the resource is removed: of two messages (ending, ended) the second one counts. */
  readonly gone: boolean;
}

export interface AgentsAnswer {
  readonly tookMs?: readonly number[];
  readonly atMs?: number;
  readonly bytes?: number;
  readonly latenciesMs?: Float64Array;
  readonly lost?: number;
  readonly messages?: readonly number[];
  readonly resources?: number;
  readonly names?: readonly (readonly string[])[];
}

/** A process of simulated agents. */
export class Agents implements Disposable {
  readonly #child: ChildProcess;
  readonly #waiting = new Map<number, (answer: { answer?: AgentsAnswer; error?: string }) => void>();
  #ended = false;
  #id = 0;

  constructor() {
    this.#child = fork(join(import.meta.dirname, 'agents.js'), { serialization: 'advanced' });
    this.#child.on('message', (message: { id: number; answer?: AgentsAnswer; error?: string }) => {
      this.#waiting.get(message.id)?.(message);
      this.#waiting.delete(message.id);
    });
    this.#child.once('exit', () => {
      this.#ended = true;
      for (const waiting of this.#waiting.values()) waiting({ error: 'their process has ended' });
    });
  }

  get pid(): number {
    return this.#child.pid ?? 0;
  }

  order(order: AgentsOrder): Promise<AgentsAnswer> {
    const id = ++this.#id;
    return new Promise((resolve, reject) => {
      this.#waiting.set(id, ({ answer, error }) =>
        answer === undefined ? reject(new Error(`agents: ${error}`)) : resolve(answer),
      );
      if (this.#ended) reject(new Error('agents: their process has ended'));
      else this.#child.send({ id, order });
    });
  }

  [Symbol.dispose](): void {
    if (this.#child.connected) this.#child.disconnect();
  }
}
