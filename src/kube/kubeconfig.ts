import { existsSync } from 'node:fs';
import { Agent, type RequestOptions } from 'node:https';
import { homedir } from 'node:os';
import { join } from 'node:path';
import type { KubeConfig } from '@kubernetes/client-node';
import type { KubeApi } from './api.js';
import type { Connection } from './connection.js';
import { HttpApi, type HttpApiOptions } from './http-api.js';

/**
 * The API server as a person reaches it: by the kubeconfig at `path`, else by KUBECONFIG, else by ~/.kube/config.
 * Tokens, certificates and programs that make them are the library's business, which is large: it is loaded here and
 * nowhere else. Rejects when there is no such file, or it names no cluster.
 */
export async function kubeconfigApi(
  path?: string,
  options: HttpApiOptions & { /** Instead of the file's current one. */ readonly context?: string } = {},
): Promise<KubeApi> {
  const config = await readKubeconfig(path);
  if (options.context !== undefined) {
    if (config.getContextObject(options.context) === null) {
      const known = config.getContexts().map(({ name }) => name);
      throw new Error(`the kubeconfig has no context ${options.context}; it has ${known.join(', ') || 'none'}`);
    }
    config.setCurrentContext(options.context);
  }
  const cluster = config.getCurrentCluster();
  if (cluster === null) {
    throw new Error(
      `the kubeconfig's current context ${JSON.stringify(config.getCurrentContext() ?? '')} names no cluster`,
    );
  }
  return new HttpApi(new KubeconfigConnection(cluster.server.replace(/\/+$/, ''), config), options);
}

async function readKubeconfig(path: string | undefined): Promise<KubeConfig> {
  const { KubeConfig } = await import('@kubernetes/client-node');
  const config = new KubeConfig();
  if (path !== undefined) {
    config.loadFromFile(path);
    return config;
  }
  const inherited = process.env.KUBECONFIG ?? '';
  if (inherited === '' && !existsSync(join(homedir(), '.kube', 'config'))) {
    throw new Error('there is no kubeconfig: set KUBECONFIG or write ~/.kube/config');
  }
  config.loadFromDefault();
  return config;
}

class KubeconfigConnection implements Connection {
  readonly #agent = new Agent({ keepAlive: true });

  constructor(
    readonly url: string,
    readonly config: KubeConfig,
  ) {}

  async options(): Promise<RequestOptions> {
    const options: RequestOptions = {};
    await this.config.applyToHTTPSOptions(options);
    // The library's own agent keeps no connection; only through a proxy there is no other.
    const isDirect = this.config.getCurrentCluster()?.proxyUrl === undefined && this.url.startsWith('https:');
    return isDirect ? { ...options, agent: this.#agent } : options;
  }

  distrust(): void {}

  close(): void {
    this.#agent.destroy();
  }
}
