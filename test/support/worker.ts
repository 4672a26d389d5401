/** A program inside a pod that reads one JSON command a line and answers each, in any order, with the same id. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { createInterface } from 'node:readline';

/** Where a program runs: namespaces of process `pid`, or this process's own when there is none. */
export interface Place {
  readonly pid?: number;
  /** Network namespace by path, instead of a pid. */
  readonly netns?: string;
}

export class Worker implements AsyncDisposable {
  readonly name: string;
  readonly #child: ChildProcess;
  readonly #waiting = new Map<number, (answer: Answer) => void>();
  #lastId = 0;
  #stderr = '';

  constructor(name: string, place: Place, command: readonly string[]) {
    this.name = name;
    const [file = '', ...args] = inside(place, command);
    this.#child = spawn(file, args, { stdio: ['pipe', 'pipe', 'pipe'] });
    this.#child.stderr?.setEncoding('utf8').on('data', (text: string) => {
      this.#stderr = (this.#stderr + text).slice(-4000);
    });
    this.#child.on('error', (error) => this.#end(error.message));
    this.#child.on('exit', (code, signal) => this.#end(`ended with ${code ?? signal}`));
    this.#child.stdin?.on('error', () => undefined);
    if (this.#child.stdout === null) throw new Error('no stdout');
    createInterface({ input: this.#child.stdout }).on('line', (line) => this.#answered(line));
  }

  /** Sends one command; resolves with its answer, `outcome: 'broken'` when the program died first. */
  call<T extends Answer = Answer>(op: string, args: object = {}): Promise<T> {
    const id = ++this.#lastId;
    return new Promise((resolve) => {
      this.#waiting.set(id, resolve as (answer: Answer) => void);
      if (this.#child.exitCode !== null) this.#end(`ended with ${this.#child.exitCode}`);
      this.#child.stdin?.write(`${JSON.stringify({ ...args, id, op })}\n`);
    });
  }

  async close(): Promise<void> {
    if (this.#child.exitCode !== null || this.#child.signalCode !== null) return;
    const exited = once(this.#child, 'exit');
    this.#child.kill('SIGKILL');
    await exited;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  #answered(line: string): void {
    const answer = JSON.parse(line) as Answer & { id: number };
    const resolve = this.#waiting.get(answer.id);
    this.#waiting.delete(answer.id);
    resolve?.(answer);
  }

  #end(why: string): void {
    for (const resolve of this.#waiting.values()) {
      resolve({ outcome: 'broken', how: 'broken', error: `${this.name} ${why} ${this.#stderr}` });
    }
    this.#waiting.clear();
  }
}

export interface Answer {
  /** connected: the server answered as it should; refused: it did not, see `how`; broken: the test itself is. */
  readonly outcome: 'connected' | 'refused' | 'broken';
  readonly how?: string;
  readonly error?: string;
}

/** The command line that runs `command` at `place`; a pid brings the pod's own resolv.conf and token with it. */
export function inside({ pid, netns }: Place, command: readonly string[]): string[] {
  if (netns !== undefined) return ['nsenter', `--net=${netns}`, '--', ...command];
  if (pid !== undefined) return ['nsenter', '--target', String(pid), '--net', '--mount', '--', ...command];
  return [...command];
}
