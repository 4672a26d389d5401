/** A lab as the mesh tests use it: through the command line, the status it prints and the admin sockets of its agents. */
import { spawn } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { request } from 'node:http';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import type { ChangeReport } from '../../src/lab/api.js';
import { LabClient } from '../../src/lab/client.js';
import type { LabStatus, NodeStatus, PodStatus } from '../../src/lab/status.js';
import { type Manifest, markers } from './manifests.js';
import { Prober } from './prober.js';
import type { Place } from './worker.js';

export interface Ran {
  readonly stdout: string;
  readonly stderr: string;
  readonly exitCode: number;
}

export class Mesh implements AsyncDisposable {
  readonly name: string;
  readonly directory: string;
  readonly #client: LabClient;
  readonly #closing: (() => Promise<void>)[] = [];
  #markers = 0;

  private constructor(name: string) {
    this.name = name;
    this.#client = new LabClient(name);
    this.directory = this.#client.layout.directory;
  }

  /** A new lab; one of the same name that a former run left is taken down first. */
  static async up(name: string, options: { nodes?: number; args?: readonly string[] } = {}): Promise<Mesh> {
    // Two runs at the same time on one machine need names of their own.
    const suffix = process.env.LAB_SUFFIX ?? '';
    const mesh = new Mesh(name.endsWith(suffix) ? name : `${name}${suffix}`);
    await mesh.lab('down');
    await mesh.must('up', '--nodes', String(options.nodes ?? 2), ...(options.args ?? []));
    return mesh;
  }

  /** Runs `meltemi lab VERB …` on this lab. */
  lab(verb: string, ...args: readonly string[]): Promise<Ran> {
    return meltemi('lab', verb, '--name', this.name, ...args);
  }

  async must(verb: string, ...args: readonly string[]): Promise<string> {
    const { stdout, stderr, exitCode } = await this.lab(verb, ...args);
    if (exitCode !== 0) throw new Error(`lab ${verb} ${args.join(' ')} ended with ${exitCode}: ${stderr}${stdout}`);
    return stdout;
  }

  /** Applies manifests; what it means has not arrived anywhere yet: see `change`. */
  async apply(manifests: readonly Manifest[]): Promise<void> {
    if (manifests.length > 0) accepted(await this.#client.apply([{ name: 'test', text: list(manifests) }]));
  }

  async remove(manifests: readonly Manifest[]): Promise<void> {
    if (manifests.length > 0) accepted(await this.#client.delete([{ name: 'test', text: list(manifests) }]));
  }

  /** Changes labels of `KIND NAME`; null takes one away. */
  async label(
    kind: string,
    namespace: string | null,
    name: string,
    changes: Record<string, string | null>,
  ): Promise<void> {
    accepted(await this.#client.label({ kind, namespace, name, changes }));
  }

  /** Restarts, stops or starts `control-plane` or the agent of a node. */
  async daemon(action: 'restart' | 'stop' | 'start', name: string, kill = false): Promise<void> {
    accepted(await this.#client.daemon({ name, action, kill }));
  }

  /**
   * Applies and removes, and resolves when every agent works with the result: markers are written last, and the control
   * plane hands out what it has read in the order it was written, policies and addresses each on their own.
   */
  async change(change: { apply?: readonly Manifest[]; remove?: readonly Manifest[] }): Promise<void> {
    await this.remove(change.remove ?? []);
    const name = `marker-${++this.#markers}`;
    await this.apply([...(change.apply ?? []), ...markers(name)]);
    const { nodes } = await this.status();
    for (const node of nodes) {
      await until(`${node.name} knows ${name}`, async () => {
        const dump = await this.agent(node.name, '/config_dump');
        return markers(name).every(({ metadata }) => dump.includes(metadata.name));
      });
    }
    if (this.#markers > 1) await this.remove(markers(`marker-${this.#markers - 1}`));
  }

  status(): Promise<LabStatus> {
    return this.#client.status();
  }

  /** Resolves with the status when it satisfies `condition`. */
  async settled(what: string, condition: (status: LabStatus) => boolean, timeoutMs = 60_000): Promise<LabStatus> {
    let status = await this.status();
    await until(
      what,
      async () => {
        status = await this.status();
        return condition(status);
      },
      timeoutMs,
      () =>
        [
          ...status.problems,
          ...status.pods.map((pod) => `${pod.name} ${pod.ready} ${pod.redirection} ${pod.message}`),
        ].join('; '),
    );
    return status;
  }

  /** Resolves when every pod is ready and the pods of `captured` (`name.namespace`), no others, are captured. */
  ready(captured: readonly string[]): Promise<LabStatus> {
    return this.settled(`all pods are ready, and captured: ${captured.join(' ')}`, ({ pods }) => {
      const enabled = pods.filter(({ redirection }) => redirection === 'enabled').map(keyOf);
      return (
        pods.every(({ ready, redirection }) => ready && (redirection === '' || redirection === 'enabled')) &&
        enabled.sort().join() === [...captured].sort().join()
      );
    });
  }

  async pod(key: string): Promise<PodStatus> {
    return podOf(await this.status(), key);
  }

  async node(name: string): Promise<NodeStatus> {
    return nodeOf(await this.status(), name);
  }

  /** A prober inside the pod `name.namespace`, ended with the lab. */
  async prober(key: string): Promise<Prober> {
    return this.proberAt(key, placeOf(await this.pod(key)));
  }

  proberAt(name: string, place: Place): Prober {
    const prober = new Prober(name, place);
    this.onClose(() => prober.close());
    return prober;
  }

  onClose(close: () => Promise<void>): void {
    this.#closing.push(close);
  }

  /** Asks a node's agent over its admin socket; resolves with the body. Rejects when it is not there. */
  agent(node: string, path: string, method = 'GET'): Promise<string> {
    return httpOverSocket(join(this.directory, 'nodes', node, 'admin.sock'), path, method);
  }

  control(path: string, method = 'GET'): Promise<string> {
    return httpOverSocket(join(this.directory, 'control/admin.sock'), path, method);
  }

  accessLog(node: string): AccessLog {
    return new AccessLog(join(this.directory, 'nodes', node, 'access.log'));
  }

  /** What the agents and the control plane said, the last lines of each: for a test that failed. */
  logs(lines = 15): string {
    const tail = (path: string): string => {
      try {
        return `--- ${path}\n${readFileSync(path, 'utf8').trimEnd().split('\n').slice(-lines).join('\n')}`;
      } catch {
        return `--- no ${path}`;
      }
    };
    const files = ['nodes/node-1/agent.log', 'nodes/node-2/agent.log', 'control/control-plane.log', 'supervisor.log'];
    return files.map((file) => tail(join(this.directory, file))).join('\n');
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const close of this.#closing.reverse()) await close();
    await this.lab('down');
  }
}

/** Access-log records of a node from the moment of creation on. */
export class AccessLog {
  readonly #path: string;
  #from: number;

  constructor(path: string) {
    this.#path = path;
    this.#from = this.#read().length;
  }

  /** All records so far. */
  records(): AccessRecord[] {
    const text = this.#read().subarray(this.#from).toString();
    const whole = text.slice(0, text.lastIndexOf('\n') + 1);
    return whole
      .split('\n')
      .filter((line) => line !== '')
      .map((line) => JSON.parse(line) as AccessRecord);
  }

  /** Resolves with the records that match, as soon as there are `count` of them. */
  async wait(what: string, match: (record: AccessRecord) => boolean, count = 1): Promise<AccessRecord[]> {
    let found: AccessRecord[] = [];
    await until(
      what,
      () => {
        found = this.records().filter(match);
        return Promise.resolve(found.length >= count);
      },
      10_000,
      () =>
        this.records()
          .slice(-5)
          .map((record) => JSON.stringify(record))
          .join('\n'),
    );
    return found;
  }

  /** What comes from now on counts; what came before does not. */
  restart(): void {
    this.#from = this.#read().length;
  }

  #read(): Buffer {
    try {
      return readFileSync(this.#path);
    } catch {
      return Buffer.alloc(0);
    }
  }
}

export interface AccessRecord {
  readonly direction: 'inbound' | 'outbound' | 'inbound-plaintext';
  readonly message: string;
  readonly 'src.addr': string;
  readonly 'dst.addr': string;
  readonly 'dst.hbone_addr'?: string;
  readonly 'src.identity'?: string;
  readonly 'dst.identity'?: string;
  readonly bytes_sent: number;
  readonly bytes_recv: number;
  readonly because: string;
  readonly error?: string;
  readonly [field: string]: unknown;
}

function keyOf({ name, namespace }: PodStatus): string {
  return `${name}.${namespace}`;
}

export function podOf(status: LabStatus, key: string): PodStatus {
  const pod = status.pods.find(({ name, namespace }) => `${name}.${namespace}` === key);
  if (pod === undefined) throw new Error(`no pod ${key} in ${status.pods.map(({ name }) => name).join(' ')}`);
  return pod;
}

export function nodeOf(status: LabStatus, name: string): NodeStatus {
  const node = status.nodes.find((each) => each.name === name);
  if (node === undefined) throw new Error(`no node ${name}`);
  return node;
}

/** The pod's namespaces, network and files, by one of its processes. */
export function placeOf({ pids, name }: PodStatus): Place {
  const [pid] = pids;
  if (pid === undefined) throw new Error(`pod ${name} has no process`);
  return { pid };
}

export function addressOf({ addresses }: { addresses: readonly string[] }, family: 4 | 6): string {
  return addresses.find((ip) => ip.includes(':') === (family === 6)) ?? `no-ipv${family}`;
}

/** Runs bin/meltemi. */
export function meltemi(...args: readonly string[]): Promise<Ran> {
  return new Promise((resolve) => {
    const child = spawn(join(ROOT, 'bin/meltemi'), args, { stdio: ['ignore', 'pipe', 'pipe'] });
    let stdout = '';
    let stderr = '';
    child.stdout.setEncoding('utf8').on('data', (text: string) => {
      stdout += text;
    });
    child.stderr.setEncoding('utf8').on('data', (text: string) => {
      stderr += text;
    });
    child.on('close', (code) => resolve({ stdout, stderr, exitCode: code ?? 1 }));
  });
}

/** Resolves once `condition` holds; rejects after `timeoutMs` with what was awaited and what `seen` tells. */
export async function until(
  what: string,
  condition: () => Promise<boolean>,
  timeoutMs = 20_000,
  seen: () => string = () => '',
): Promise<void> {
  const deadline = performance.now() + timeoutMs;
  let problem = '';
  for (;;) {
    try {
      if (await condition()) return;
    } catch (error) {
      problem = String(error);
    }
    if (performance.now() > deadline) throw new Error(`not within ${timeoutMs} ms: ${what}. ${problem} ${seen()}`);
    await delay(POLL_MS);
  }
}

function list(items: readonly Manifest[]): string {
  return JSON.stringify({ apiVersion: 'v1', kind: 'List', items });
}

function accepted({ problems }: ChangeReport): void {
  if (problems.length > 0) throw new Error(problems.join('; '));
}

function httpOverSocket(socketPath: string, path: string, method: string): Promise<string> {
  return new Promise((resolve, reject) => {
    const asking = request({ socketPath, path, method, timeout: 10_000 }, (response) => {
      let body = '';
      response.setEncoding('utf8').on('data', (text: string) => {
        body += text;
      });
      response.on('end', () => resolve(body));
      response.on('error', reject);
    });
    asking.on('timeout', () => asking.destroy(new Error(`no answer from ${socketPath} to ${path}`)));
    asking.on('error', reject);
    asking.end();
  });
}

const ROOT = join(import.meta.dirname, '../../..');
const POLL_MS = 30;
