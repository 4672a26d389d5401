import { join } from 'node:path';
import { formatYaml } from '../lib/yaml.js';
import { both, FABRIC, MESH_PREFIXES } from './addresses.js';
import type { LabLayout } from './layout.js';

export interface MeshNames {
  readonly cluster: string;
  readonly network: string;
  readonly trustDomain: string;
  readonly clusterDomain: string;
  readonly rootNamespace: string;
}

/** What `meltemi control-plane --config` reads in this lab. */
export function controlPlaneConfig(layout: LabLayout, names: MeshNames, issuer: string): string {
  return formatYaml({
    source: { directory: layout.manifests },
    ...names,
    listen: { tls: `${FABRIC.ipv4}:15012`, plaintext: '' },
    admin: { socket: join(layout.control, 'admin.sock'), port: 15014 },
    ca: { directory: layout.ca, workloadTtlSeconds: 86_400 },
    auth: { issuers: [{ issuer, audience: 'istio-ca', publicKey: join(layout.control, 'issuer.pem') }] },
  });
}

/** What `meltemi agent --config` reads on node `name`. */
export function agentConfig(layout: LabLayout, names: MeshNames, name: string): string {
  const directory = layout.node(name);
  const upstream = {
    address: `${FABRIC.ipv4}:15012`,
    serverName: `meltemi.${names.rootNamespace}.svc`,
    rootCert: join(layout.ca, 'root-cert.pem'),
    token: join(directory, 'token'),
  };
  return formatYaml({
    node: name,
    ...names,
    meshPrefixes: MESH_PREFIXES,
    locality: { region: '', zone: '', subzone: '' },
    xds: upstream,
    ca: upstream,
    crlPath: join(layout.ca, 'ca-crl.pem'),
    pods: { directory: join(directory, 'pods') },
    stateDir: directory,
    admin: { socket: join(directory, 'admin.sock'), port: 15000 },
    metricsPort: 15020,
    readinessPort: 15021,
    accessLog: join(directory, 'access.log'),
    logLevel: 'info',
    dns: { enabled: true, port: 15053, resolvConf: join(directory, 'resolv.conf') },
    engine: {},
    drainSeconds: 5,
  });
}

/** The lab's nameserver, where nodes reach it. */
export function agentResolvConf(): string {
  return `${both(FABRIC)
    .map((ip) => `nameserver ${ip}`)
    .join('\n')}\n`;
}

export const DEFAULT_NAMES: MeshNames = {
  cluster: 'Kubernetes',
  network: '',
  trustDomain: 'cluster.local',
  clusterDomain: 'cluster.local',
  rootNamespace: 'istio-system',
};
