import { readFileSync } from 'node:fs';
import type { KubeApi } from '../kube/api.js';
import { inClusterApi } from '../kube/in-cluster.js';
import { RESOURCES } from '../kube/resources.js';
import { systemClock } from '../lib/clock.js';
import type { Logger } from '../telemetry/log.js';
import type { AgentConfig, PodsConfig } from './config.js';
import { KubernetesPods } from './enroll/kubernetes-pods.js';
import { parseResolvConf, type ResolvConf } from './enroll/pod-names.js';
import type { Sandboxes } from './enroll/sandboxes.js';

/** What an agent does with the API server: it finds its pods there, and where its node is. */

export type KubernetesConfig = Extract<PodsConfig, { from: 'kubernetes' }>;

/** The API server as this agent reaches it. Throws when this is no pod and the settings do not name it. */
export function agentApi({ server }: KubernetesConfig): KubeApi {
  if (server.address === '') return inClusterApi();
  return inClusterApi({ server: server.address, token: server.token, ca: server.rootCert });
}

/** The pods of this node. */
export function kubernetesPods(
  api: KubeApi,
  config: AgentConfig,
  pods: KubernetesConfig,
  sandboxes: Sandboxes,
  log: Logger,
): KubernetesPods {
  return new KubernetesPods({
    api,
    node: config.node,
    revision: config.revision,
    excludedNamespaces: [...pods.excludedNamespaces, config.rootNamespace],
    clusterDomain: config.clusterDomain,
    resolvConf: { cluster: readResolvConf(pods.resolvConf, log), node: readResolvConf(pods.nodeResolvConf, log) },
    sandboxes,
    clock: systemClock,
    log,
  });
}

/**
 * The configuration with the locality of the Node object where none was given. Waits a moment for the API server; what
 * is not known then stays empty, which costs only the preference for near endpoints.
 */
export async function withNodeLocality(config: AgentConfig, api: KubeApi, log: Logger): Promise<AgentConfig> {
  if (Object.values(config.locality).some((each) => each !== '')) return config;
  try {
    const { promise: late, reject } = Promise.withResolvers<never>();
    const cancel = systemClock.schedule(NODE_WAIT_MS, () => reject(new Error(`no answer in ${NODE_WAIT_MS} ms`)));
    const node = await Promise.race([api.get(RESOURCES.Node, { name: config.node }), late]).finally(cancel);
    if (node === undefined) throw new Error('there is no such Node');
    return { ...config, locality: localityOf(node.metadata.labels) };
  } catch (error) {
    log.warn({ node: config.node, error }, 'where this node is cannot be read; near endpoints are not preferred');
    return config;
  }
}

function localityOf(labels: unknown): AgentConfig['locality'] {
  const of = (name: string): string => {
    const value = (labels as Readonly<Record<string, unknown>> | undefined)?.[name];
    return typeof value === 'string' ? value : '';
  };
  return {
    region: of('topology.kubernetes.io/region'),
    zone: of('topology.kubernetes.io/zone'),
    subzone: of('topology.istio.io/subzone'),
  };
}

function readResolvConf(path: string, log: Logger): ResolvConf {
  try {
    return parseResolvConf(readFileSync(path, 'utf8'));
  } catch (error) {
    log.warn({ path, error }, 'a resolver configuration cannot be read; DNS of the pods that use it is not captured');
    return { nameservers: [], searches: [] };
  }
}

const NODE_WAIT_MS = 5000;
