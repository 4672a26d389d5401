import { type ChildProcessByStdio, spawn } from 'node:child_process';
import { once } from 'node:events';
import { createInterface } from 'node:readline';
import type { Readable, Writable } from 'node:stream';
import { inNamespace, type Topology } from './topology.js';

/** The load generator's questions, as functions. */
export class Load {
  constructor(
    readonly program: string,
    readonly topology: Topology,
  ) {}

  async bulk(connections: number, seconds: number): Promise<{ gbitPerSecond: number; bytes: number }> {
    const read = await this.#ask('bulk', { connections, seconds });
    return { gbitPerSecond: number(read.gbit_per_s), bytes: number(read.bytes) };
  }

  async pingpong(connections: number, seconds: number): Promise<Rate> {
    return rate(await this.#ask('pingpong', { connections, seconds }));
  }

  async connects(workers: number, seconds: number): Promise<Rate> {
    return rate(await this.#ask('connects', { workers, seconds }));
  }

  /** Opens connections and holds them until `release`. */
  async hold(connections: number): Promise<{ open: number; release(): Promise<void> }> {
    const args = this.#arguments('idle', { connections });
    const child = spawn('nsenter', [`--net=${this.topology.client.netns}`, this.program, ...args], {
      stdio: ['pipe', 'pipe', 'inherit'],
    });
    const line = await firstLine(child);
    const read = JSON.parse(line) as { open: number };
    return {
      open: read.open,
      async release() {
        const ended = once(child, 'exit');
        child.stdin.end();
        await ended;
      },
    };
  }

  async #ask(command: string, options: Record<string, number>): Promise<Record<string, unknown>> {
    const args = this.#arguments(command, options);
    return JSON.parse(await inNamespace(this.topology.client.netns, this.program, args)) as Record<string, unknown>;
  }

  #arguments(command: string, options: Record<string, number>): string[] {
    const target = `${this.topology.server.ip}:${this.topology.port}`;
    return [
      command,
      '--connect',
      target,
      ...Object.entries(options).flatMap(([name, value]) => [`--${name}`, String(value)]),
    ];
  }
}

export interface Rate {
  perSecond: number;
  p50Us: number;
  p99Us: number;
  errors: number;
}

async function firstLine(child: ChildProcessByStdio<Writable, Readable, null>): Promise<string> {
  for await (const line of createInterface({ input: child.stdout })) return line;
  throw new Error('the load generator ended without a word');
}

function rate(read: Record<string, unknown>): Rate {
  return {
    perSecond: number(read.rate),
    p50Us: number(read.p50_us),
    p99Us: number(read.p99_us),
    errors: number(read.errors),
  };
}

function number(value: unknown): number {
  if (typeof value !== 'number') throw new Error(`the load generator gave ${JSON.stringify(value)} for a number`);
  return value;
}
