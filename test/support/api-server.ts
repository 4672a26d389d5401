/** A real API server on loopback, with etcd behind it and nothing in front: no kubelet, no controllers. */
import { execFileSync, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { closeSync, mkdtempSync, openSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { KubeApi, Resource } from '../../src/kube/api.js';
import { inClusterApi } from '../../src/kube/in-cluster.js';
import { artefacts } from '../cluster/harness/artefacts.js';

export interface ApiServer extends AsyncDisposable {
  readonly url: string;
  /** Paths of the certificate to believe, and of a token that may do everything. */
  readonly ca: string;
  readonly token: string;
  /** Path of a kubeconfig for the same user. */
  readonly kubeconfig: string;
  readonly directory: string;
  /** Of the API server's process; another one after each start. */
  readonly pid: number | undefined;
  /** A connection of the caller's own; at another URL, when something stands in between. */
  api(options?: { readonly server?: string; readonly watchSilenceMs?: number; readonly silenceMs?: number }): KubeApi;
  stop(): Promise<void>;
  start(): Promise<void>;
  close(): Promise<void>;
}

/** Starts both and waits until requests are served. Builds Kubernetes first where that has not been done. */
export async function startApiServer(options: { readonly args?: readonly string[] } = {}): Promise<ApiServer> {
  const { kubernetes, pki } = await artefacts();
  const directory = mkdtempSync(join(tmpdir(), 'meltemi-api-'));
  const at = (name: string): string => join(directory, name);
  const [etcdPort, peerPort, port] = await freePorts(3);
  const url = `https://127.0.0.1:${port}`;
  const secret = randomBytes(16).toString('hex');
  execFileSync(pki, {
    input: JSON.stringify({
      directory,
      authorities: ['ca'],
      keys: ['accounts'],
      leaves: [{ name: 'server', authority: 'ca', commonName: 'server', names: ['127.0.0.1', 'localhost'] }],
    }),
  });
  writeFileSync(at('token'), secret);
  writeFileSync(at('tokens.csv'), `${secret},tester,tester,"system:masters"\n`);
  writeFileSync(at('kubeconfig'), kubeconfig(url, at('ca.crt'), secret));

  const etcd = new Part(at('etcd.log'), [
    'etcd',
    `--data-dir=${at('etcd')}`,
    `--listen-client-urls=http://127.0.0.1:${etcdPort}`,
    `--advertise-client-urls=http://127.0.0.1:${etcdPort}`,
    `--listen-peer-urls=http://127.0.0.1:${peerPort}`,
    `--initial-advertise-peer-urls=http://127.0.0.1:${peerPort}`,
    `--initial-cluster=default=http://127.0.0.1:${peerPort}`,
    '--unsafe-no-fsync',
    '--log-level=warn',
  ]);
  const server = new Part(at('api-server.log'), [
    kubernetes,
    'kube-apiserver',
    `--etcd-servers=http://127.0.0.1:${etcdPort}`,
    '--bind-address=127.0.0.1',
    `--secure-port=${port}`,
    '--advertise-address=192.0.2.1',
    '--endpoint-reconciler-type=none',
    `--tls-cert-file=${at('server.crt')}`,
    `--tls-private-key-file=${at('server.key')}`,
    `--token-auth-file=${at('tokens.csv')}`,
    '--authorization-mode=RBAC',
    '--service-account-issuer=https://kubernetes.default.svc.cluster.local',
    `--service-account-key-file=${at('accounts.pub')}`,
    `--service-account-signing-key-file=${at('accounts.key')}`,
    '--service-cluster-ip-range=10.96.0.0/16',
    // Nobody makes accounts or their tokens here.
    '--disable-admission-plugins=ServiceAccount',
    ...(options.args ?? []),
  ]);
  const connect: ApiServer['api'] = (more = {}) =>
    inClusterApi({ server: url, token: at('token'), ca: at('ca.crt'), ...more });
  const started: ApiServer = {
    url,
    ca: at('ca.crt'),
    token: at('token'),
    kubeconfig: at('kubeconfig'),
    directory,
    get pid() {
      return server.pid;
    },
    api: connect,
    stop: () => server.stop(),
    async start() {
      server.start();
      const api = connect();
      const until = Date.now() + START_MS;
      while (!(await isServing(api))) {
        if (!server.isRunning || Date.now() > until) throw new Error(`no API server:\n${etcd.log()}\n${server.log()}`);
        await sleep(50);
      }
      api.close();
    },
    async close() {
      await server.stop();
      await etcd.stop();
      rmSync(directory, { recursive: true, force: true });
    },
    async [Symbol.asyncDispose]() {
      await this.close();
    },
  };
  etcd.start();
  try {
    await started.start();
  } catch (error) {
    await started.close();
    throw error;
  }
  return started;
}

/** A CustomResourceDefinition that lets everything through: what is in it is the business of its readers. */
export function definitionOf({ group, version, plural, kind, namespaced }: Resource) {
  const schema = { openAPIV3Schema: { type: 'object', 'x-kubernetes-preserve-unknown-fields': true } };
  return {
    metadata: { name: `${plural}.${group}` },
    spec: {
      group,
      names: { kind, plural, singular: kind.toLowerCase() },
      scope: namespaced ? 'Namespaced' : 'Cluster',
      versions: [{ name: version, served: true, storage: true, schema }],
    },
  };
}

async function isServing(api: KubeApi): Promise<boolean> {
  return api.request('GET', '/readyz').then(
    (answer) => answer === 'ok',
    () => false,
  );
}

/** A program that ends with its parent, however that ends. */
class Part {
  #child: ReturnType<typeof spawn> | undefined;

  constructor(
    readonly logFile: string,
    readonly command: readonly string[],
  ) {}

  get pid(): number | undefined {
    return this.#child?.pid;
  }

  get isRunning(): boolean {
    return this.#child !== undefined && this.#child.exitCode === null && this.#child.signalCode === null;
  }

  start(): void {
    const out = openSync(this.logFile, 'a');
    this.#child = spawn('setpriv', ['--pdeathsig', 'KILL', ...this.command], { stdio: ['ignore', out, out] });
    closeSync(out);
  }

  async stop(): Promise<void> {
    if (!this.isRunning || this.#child === undefined) return;
    const exited = once(this.#child, 'exit');
    this.#child.kill('SIGKILL');
    await exited;
  }

  log(): string {
    return readFileSync(this.logFile, 'utf8').slice(-5000);
  }
}

async function freePorts(count: number): Promise<readonly number[]> {
  const servers = Array.from({ length: count }, () => createServer().listen(0, '127.0.0.1'));
  await Promise.all(servers.map((server) => once(server, 'listening')));
  const ports = servers.map((server) => (server.address() as { port: number }).port);
  await Promise.all(servers.map((server) => new Promise((resolve) => server.close(resolve))));
  return ports;
}

function kubeconfig(server: string, ca: string, token: string): string {
  return JSON.stringify({
    apiVersion: 'v1',
    kind: 'Config',
    clusters: [{ name: 'test', cluster: { server, 'certificate-authority': ca } }],
    users: [{ name: 'tester', user: { token } }],
    contexts: [{ name: 'test', context: { cluster: 'test', user: 'tester' } }],
    'current-context': 'test',
  });
}

const START_MS = 60_000;
