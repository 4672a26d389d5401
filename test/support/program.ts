/** A program that runs in a namespace until it is closed. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { inside, type Place } from './worker.js';

export class Program implements AsyncDisposable {
  /** What it printed, both streams, the last part. */
  output = '';
  readonly child: ChildProcess;

  constructor(place: Place, command: readonly string[], env: NodeJS.ProcessEnv = process.env) {
    const [file = '', ...args] = inside(place, command);
    this.child = spawn(file, args, { stdio: ['ignore', 'pipe', 'pipe'], env });
    for (const stream of [this.child.stdout, this.child.stderr]) {
      stream?.setEncoding('utf8').on('data', (text: string) => {
        this.output = (this.output + text).slice(-20_000);
      });
    }
    this.child.on('error', (error) => {
      this.output += error.message;
    });
  }

  get running(): boolean {
    return this.child.exitCode === null && this.child.signalCode === null;
  }

  async close(): Promise<void> {
    if (!this.running) return;
    const exited = once(this.child, 'exit');
    this.child.kill('SIGKILL');
    await exited;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }
}
