import { networkInterfaces } from 'node:os';
import { AuthorizationSchema } from '../gen/istio/security/authorization_pb.js';
import { AddressSchema } from '../gen/istio/workload/workload_pb.js';
import type { Clock } from '../lib/clock.js';
import { logger } from '../telemetry/log.js';
import type { MetricsRegistry } from '../telemetry/metrics.js';
import { type AdsClient, connectAds } from '../xds/client.js';
import type { UpdateHandler } from '../xds/update.js';
import type { AgentConfig, Upstream } from './config.js';
import { readIfThere } from './credentials.js';
import { xdsMetrics } from './xds-metrics.js';

export interface MeshReceiver {
  readonly addresses: UpdateHandler;
  readonly policies: UpdateHandler;
  /** All of both has come once. */
  synced(): void;
}

/** Subscribes to the whole mesh: workloads, services and policies. Reconnects until it is closed. */
export function connectMesh(
  config: AgentConfig,
  clock: Clock,
  registry: MetricsRegistry,
  receiver: MeshReceiver,
): AdsClient {
  const { xds, cluster } = config;
  const wildcard = { mode: 'wildcard' } as const;
  return connectAds({
    address: xds.address,
    ...(xds.serverName === '' ? {} : { serverName: xds.serverName }),
    rootCerts: () => readIfThere(xds.rootCert),
    headers: () => headersOf(xds, cluster),
    node: nodeOf(config),
    types: [
      { ...wildcard, typeUrl: typeUrl(AddressSchema.typeName), onUpdate: receiver.addresses },
      { ...wildcard, typeUrl: typeUrl(AuthorizationSchema.typeName), onUpdate: receiver.policies },
    ],
    onSynced: () => receiver.synced(),
    metrics: xdsMetrics(registry),
    clock,
    log: logger('xds'),
  });
}

async function headersOf(upstream: Upstream, cluster: string): Promise<Record<string, string>> {
  const token = await readIfThere(upstream.token);
  return { clusterid: cluster, ...(token === undefined ? {} : { authorization: `Bearer ${token}` }) };
}

/** As control planes of this ecosystem expect a node agent to introduce itself. */
function nodeOf(config: AgentConfig) {
  const name = `meltemi-agent-${config.node}`;
  const { rootNamespace, clusterDomain, locality } = config;
  return {
    id: `ztunnel~${ownIp()}~${name}.${rootNamespace}~${rootNamespace}.svc.${clusterDomain}`,
    cluster: config.cluster,
    locality: { region: locality.region, zone: locality.zone, subZone: locality.subzone },
    metadata: {
      NAME: name,
      NAMESPACE: rootNamespace,
      NODE_NAME: config.node,
      CLUSTER_ID: config.cluster,
      NETWORK: config.network,
    },
  };
}

function ownIp(): string {
  for (const addresses of Object.values(networkInterfaces())) {
    const own = addresses?.find(({ internal, family }) => !internal && family === 'IPv4');
    if (own !== undefined) return own.address;
  }
  return '127.0.0.1';
}

function typeUrl(name: string): string {
  return `type.googleapis.com/${name}`;
}
