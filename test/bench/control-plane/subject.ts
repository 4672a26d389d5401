/** The control plane that is measured: a process of its own. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, mkdirSync, openSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { connect } from 'node:net';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { nowMs } from './seed.js';

/** An API server that lets one do everything: its URL, and paths. */
export interface Server {
  readonly url: string;
  readonly ca: string;
  readonly token: string;
}

export class ControlPlane {
  private constructor(
    readonly child: ChildProcess,
    readonly port: number,
    readonly startedMs: number,
    readonly log: string,
  ) {}

  /** Resolves when it accepts connections; callers then wait until it has read everything. */
  static async start(server: Server, directory: string, port: number): Promise<ControlPlane> {
    mkdirSync(join(directory, 'ca'), { recursive: true });
    const config = join(directory, 'control-plane.yaml');
    writeFileSync(
      config,
      JSON.stringify({
        source: { kubernetes: true },
        kubernetes: { server: server.url, token: server.token, ca: server.ca },
        listen: { tls: '127.0.0.1:0', plaintext: `127.0.0.1:${port}` },
        admin: { port: 0, socket: join(directory, 'admin.sock') },
        ca: { directory: join(directory, 'ca') },
        ...JSON.parse(process.env.MELTEMI_BENCH_SETTINGS ?? '{}'),
      }),
    );
    const log = join(directory, 'control-plane.log');
    const out = openSync(log, 'w');
    const startedMs = nowMs();
    const args = [
      ...(process.env.MELTEMI_BENCH_NODE_ARGS?.split(' ') ?? []),
      MAIN,
      'control-plane',
      '--config',
      config,
    ];
    const child = spawn(process.execPath, args, { stdio: ['ignore', out, out], cwd: directory });
    closeSync(out);
    const subject = new ControlPlane(child, port, startedMs, log);
    while (!(await accepts(port))) {
      if (child.exitCode !== null) throw new Error(`the control plane has ended:\n${readFileSync(log, 'utf8')}`);
      await sleep(3);
    }
    return subject;
  }

  /** CPU seconds used so far, to the nanosecond; of threads that live. */
  cpuSeconds(): number {
    return this.#threads().reduce(
      (sum, thread) => sum + Number(readFileSync(`${thread}/schedstat`, 'utf8').split(' ')[0]) / 1e9,
      0,
    );
  }

  residentMiB(): number {
    const status = readFileSync(`/proc/${this.child.pid}/status`, 'utf8');
    return Number(/^VmRSS:\s+(\d+)/m.exec(status)?.[1] ?? 0) / 1024;
  }

  peakMiB(): number {
    const status = readFileSync(`/proc/${this.child.pid}/status`, 'utf8');
    return Number(/^VmHWM:\s+(\d+)/m.exec(status)?.[1] ?? 0) / 1024;
  }

  async stop(): Promise<void> {
    if (this.child.exitCode !== null || this.child.signalCode !== null) return;
    const ended = once(this.child, 'exit');
    this.child.kill('SIGTERM');
    const kill = setTimeout(() => this.child.kill('SIGKILL'), 5000);
    await ended;
    clearTimeout(kill);
  }

  #threads(): readonly string[] {
    const tasks = `/proc/${this.child.pid}/task`;
    return readdirSync(tasks).map((thread) => join(tasks, thread));
  }
}

function accepts(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(port, '127.0.0.1');
    socket.once('connect', () => {
      socket.destroy();
      resolve(true);
    });
    socket.once('error', () => resolve(false));
  });
}

const MAIN = join(import.meta.dirname, '../../../src/cli/main.js');
