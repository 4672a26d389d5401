import { readFile } from 'node:fs/promises';
import { Agent } from 'node:https';
import { type Clock, systemClock } from '../lib/clock.js';
import { formatHostPort } from '../lib/ip.js';
import type { KubeApi } from './api.js';
import type { Connection } from './connection.js';
import { HttpApi, type HttpApiOptions } from './http-api.js';

/** Where things are when it is not as in a pod. */
export interface InClusterOptions extends HttpApiOptions {
  /** URL, like `https://127.0.0.1:6443`. */
  readonly server?: string;
  /** Path of the token. Read again while it is in use: the kubelet rotates it. */
  readonly token?: string;
  /** Path of the certificates to believe, PEM. */
  readonly ca?: string;
  readonly clock?: Clock;
}

/**
 * The API server as a pod reaches it: by its service account. Throws when this is no pod and `server` is not given;
 * files that cannot be read fail the requests, not this.
 */
export function inClusterApi(options: InClusterOptions = {}): KubeApi {
  const connection = new PodConnection(
    options.server?.replace(/\/+$/, '') ?? serverOfPod(process.env),
    options.token ?? `${SERVICE_ACCOUNT}/token`,
    options.ca ?? `${SERVICE_ACCOUNT}/ca.crt`,
    options.clock ?? systemClock,
  );
  return new HttpApi(connection, options);
}

function serverOfPod(env: NodeJS.ProcessEnv): string {
  const { KUBERNETES_SERVICE_HOST: host, KUBERNETES_SERVICE_PORT: port } = env;
  if (host === undefined || port === undefined || host === '' || port === '') {
    throw new Error(
      'this is no pod (KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT are not set): name the API server instead',
    );
  }
  return `https://${formatHostPort(host, Number(port))}`;
}

class PodConnection implements Connection {
  #agent = new Agent({ keepAlive: true });
  #ca = '';
  #token = '';
  #readMs = Number.NEGATIVE_INFINITY;
  #reading: Promise<void> | undefined;

  constructor(
    readonly url: string,
    readonly tokenPath: string,
    readonly caPath: string,
    readonly clock: Clock,
  ) {}

  async options() {
    if (this.clock.now() - this.#readMs >= READ_AGAIN_MS) {
      this.#reading ??= this.#read().finally(() => {
        this.#reading = undefined;
      });
      await this.#reading;
    }
    return { agent: this.#agent, headers: { authorization: `Bearer ${this.#token}` } };
  }

  distrust(): void {
    this.#readMs = Number.NEGATIVE_INFINITY;
  }

  close(): void {
    this.#agent.destroy();
  }

  async #read(): Promise<void> {
    const [token, ca] = await Promise.all([readFile(this.tokenPath, 'utf8'), readFile(this.caPath, 'utf8')]);
    this.#readMs = this.clock.now();
    this.#token = token.trim();
    if (ca === this.#ca) return;
    // What runs on the former agent goes on; nothing new does.
    this.#ca = ca;
    this.#agent = new Agent({ keepAlive: true, ca });
  }
}

const SERVICE_ACCOUNT = '/var/run/secrets/kubernetes.io/serviceaccount';
const READ_AGAIN_MS = 10_000;
