/** Control planes as processes of their own before a real API server. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, openSync, readFileSync, writeFileSync } from 'node:fs';
import { request } from 'node:http';
import { createServer } from 'node:net';
import { join, resolve } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { ApiServer } from './api-server.js';

export class Replica {
  port = 0;
  #child: ChildProcess | undefined;

  constructor(
    readonly name: string,
    readonly server: ApiServer,
    readonly directory: string,
    /** Lines of YAML besides those that say where the API server is. */
    readonly settings = '',
    /** Path of the token for the API server. */
    readonly token = server.token,
  ) {}

  get pid(): number | undefined {
    return this.#child?.pid;
  }

  get log(): string {
    return readFileSync(join(this.directory, `${this.name}.log`), 'utf8');
  }

  async start(): Promise<void> {
    this.port = await freePort();
    const at = (suffix: string): string => join(this.directory, `${this.name}.${suffix}`);
    writeFileSync(
      at('yaml'),
      `source: { kubernetes: true }
kubernetes: { server: '${this.server.url}', token: '${this.token}', ca: '${this.server.ca}' }
listen: { tls: '127.0.0.1:${this.port}' }
admin: { socket: '${at('sock')}', port: 0 }
ca: { secret: true }
auth: { tokenReview: {} }
${this.settings}
`,
    );
    const out = openSync(at('log'), 'a');
    const program = resolve(import.meta.dirname, '../../src/cli/main.js');
    this.#child = spawn(
      'setpriv',
      ['--pdeathsig', 'KILL', process.execPath, program, 'control-plane', '--config', at('yaml')],
      { stdio: ['ignore', out, out] },
    );
    closeSync(out);
    await until(
      `${this.name} is ready`,
      async () => {
        if (this.#child?.exitCode !== null) throw new Error(`${this.name} has ended`);
        return (await this.get('/ready')) === 'ready\n';
      },
      START_MS,
    );
  }

  /** An admin page; empty while there is nobody. */
  async get(path: string, method = 'GET'): Promise<string> {
    return new Promise((resolve) => {
      const asked = request({ socketPath: join(this.directory, `${this.name}.sock`), path, method }, (answer) => {
        let text = '';
        answer.setEncoding('utf8').on('data', (piece: string) => {
          text += piece;
        });
        answer.on('end', () => resolve(text));
        answer.on('error', () => resolve(''));
      });
      asked.on('error', () => resolve(''));
      asked.end();
    });
  }

  async metric(name: string): Promise<number> {
    return Number(new RegExp(`^${name} (\\S+)$`, 'm').exec(await this.get('/metrics'))?.[1] ?? Number.NaN);
  }

  async leads(): Promise<boolean> {
    return (await this.metric('meltemi_leader')) === 1;
  }

  async stop(signal: NodeJS.Signals = 'SIGTERM'): Promise<void> {
    const child = this.#child;
    this.#child = undefined;
    if (child === undefined || child.exitCode !== null || child.signalCode !== null) return;
    const exited = once(child, 'exit');
    child.kill(signal);
    await exited;
  }
}

/** Asks again until it is so. Rejects when it is not so in time. */
export async function until(what: string, isSo: () => Promise<boolean> | boolean, timeoutMs = LIMIT_MS): Promise<void> {
  const endMs = Date.now() + timeoutMs;
  while (!(await isSo())) {
    if (Date.now() > endMs) throw new Error(`not in ${timeoutMs} ms: ${what}`);
    await sleep(20);
  }
}

async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as { port: number };
  await new Promise((resolve) => server.close(resolve));
  return port;
}

/** On a machine that has other things to do. */
const START_MS = 120_000;
/** After the API server was away, watches pause for up to 30 s. */
const LIMIT_MS = 90_000;
