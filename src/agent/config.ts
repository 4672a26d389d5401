import { ConfigReader } from '../lib/config-reader.js';
import { type Prefix, parsePrefix } from '../lib/ip.js';
import { err, ok, type Result } from '../lib/result.js';
import { parseYaml } from '../lib/yaml.js';
import { isLogLevel, type LogLevel } from '../telemetry/log.js';
import type { EngineOptions } from './dataplane/dataplane.js';
import { DEFAULT_ENGINE_OPTIONS } from './dataplane/options.js';

/** What `meltemi agent --config FILE` reads. Immutable; everything has its unit in its name. */
export interface AgentConfig {
  readonly node: string;
  readonly cluster: string;
  readonly network: string;
  readonly trustDomain: string;
  readonly clusterDomain: string;
  readonly rootNamespace: string;
  readonly locality: { readonly region: string; readonly zone: string; readonly subzone: string };
  /** Blocks that belong to the mesh; empty when nobody said. */
  readonly meshPrefixes: readonly Prefix[];
  readonly xds: Upstream;
  readonly ca: Upstream & { readonly ttlSeconds: number };
  /** PEM or DER revocation lists; empty for none. */
  readonly crlPath: string;
  readonly pods: PodsConfig;
  /** Which pods are this agent's, by `istio.io/rev`; empty for the default revision. */
  readonly revision: string;
  /** Path of the node's own network namespace, where probes are let through and plaintext is held; empty for neither. */
  readonly hostNetns: string;
  /** The plugin that makes pods wait for their enrolment; undefined where there is none. */
  readonly cni: CniConfig | undefined;
  readonly stateDir: string;
  /** A port of 0 listens nowhere; an empty socket path neither. */
  readonly admin: { readonly socket: string; readonly port: number };
  readonly metricsPort: number;
  readonly readinessPort: number;
  /** `stdout`, `off`, or a path. */
  readonly accessLog: string;
  readonly logLevel: LogLevel;
  /** `resolvConf` names the nameservers that know endpoints which are host names. */
  readonly dns: { readonly enabled: boolean; readonly port: number; readonly resolvConf: string };
  readonly engine: Partial<EngineOptions>;
  readonly drainSeconds: number;
}

/** Where the pods of this node come from. */
export type PodsConfig =
  | { readonly from: 'directory'; readonly directory: string }
  | {
      readonly from: 'kubernetes';
      /** Besides the root namespace. */
      readonly excludedNamespaces: readonly string[];
      /** Paths of resolver configurations: of pods with `ClusterFirst`, and of the node. */
      readonly resolvConf: string;
      readonly nodeResolvConf: string;
      /** Empty in a pod, where the service account tells. */
      readonly server: { readonly address: string; readonly token: string; readonly rootCert: string };
    };

export interface CniConfig {
  /** Path of the socket, the same in this process and on the node. */
  readonly socket: string;
  /** Where the container runtime of the node looks for plugins, and for its network configuration. */
  readonly binDir: string;
  readonly confDir: string;
  /** Their pods start while the agent is away. */
  readonly exemptNamespaces: readonly string[];
  /** How long a pod waits for an agent that is away, and for one that is there, before the kubelet tries again. */
  readonly awaySeconds: number;
  readonly answerSeconds: number;
}

/** The control plane as a server. */
export interface Upstream {
  /** `host:port`. */
  readonly address: string;
  /** Name in its certificate; empty for the host of the address. */
  readonly serverName: string;
  /** Path of the PEM roots to trust; empty means plaintext. */
  readonly rootCert: string;
  /** Path of the bearer token; empty for none. */
  readonly token: string;
}

/** `nodeName` is the node's when the text does not name it. Error: every problem of the text, one sentence each. */
export function parseAgentConfig(text: string, nodeName = ''): Result<AgentConfig, readonly string[]> {
  const document = parseYaml(text);
  if (!document.ok) return document;
  const reader = new ConfigReader(document.value);
  const locality = reader.object('locality');
  const pods = podsConfig(reader.object('pods'));
  const admin = reader.object('admin');
  const dns = reader.object('dns');
  const config: AgentConfig = {
    node: nodeName === '' ? reader.text('node') : reader.text('node', nodeName),
    cluster: reader.text('cluster', 'Kubernetes'),
    network: reader.text('network', ''),
    trustDomain: reader.text('trustDomain', 'cluster.local'),
    clusterDomain: reader.text('clusterDomain', 'cluster.local'),
    rootNamespace: reader.text('rootNamespace', 'istio-system'),
    locality: {
      region: locality.text('region', ''),
      zone: locality.text('zone', ''),
      subzone: locality.text('subzone', ''),
    },
    meshPrefixes: prefixes(reader),
    xds: upstream(reader.object('xds')),
    ca: authority(reader.object('ca')),
    crlPath: reader.text('crlPath', ''),
    pods,
    revision: revision(reader),
    hostNetns: reader.text('hostNetns', pods.from === 'kubernetes' ? '/proc/1/ns/net' : ''),
    cni: cniConfig(reader.object('cni'), pods, reader.text('rootNamespace', 'istio-system')),
    stateDir: reader.text('stateDir'),
    admin: { socket: admin.text('socket', ''), port: admin.port('port', 15000) },
    metricsPort: reader.port('metricsPort', 15020),
    readinessPort: reader.port('readinessPort', 15021),
    accessLog: reader.text('accessLog', 'stdout'),
    logLevel: logLevel(reader),
    dns: {
      enabled: dns.flag('enabled', true),
      port: dns.port('port', 15053),
      resolvConf: dns.text('resolvConf', '/etc/resolv.conf'),
    },
    engine: engine(reader.object('engine')),
    drainSeconds: reader.number('drainSeconds', 5, 0, 3600),
  };
  for (const each of [locality, admin, dns, reader]) each.end();
  return reader.problems.length > 0 ? err(reader.problems) : ok(config);
}

function podsConfig(reader: ConfigReader): PodsConfig {
  const fromKubernetes = reader.flag('kubernetes', false);
  const config: PodsConfig = fromKubernetes
    ? {
        from: 'kubernetes',
        excludedNamespaces: reader.names().includes('excludedNamespaces')
          ? reader.texts('excludedNamespaces')
          : ['kube-system'],
        resolvConf: reader.text('resolvConf', '/etc/resolv.conf'),
        nodeResolvConf: reader.text('nodeResolvConf', '/proc/1/root/etc/resolv.conf'),
        server: apiServer(reader.object('server')),
      }
    : { from: 'directory', directory: reader.text('directory') };
  reader.end();
  return config;
}

/** Exempt are, unless told, those namespaces whose pods are never captured. */
function cniConfig(reader: ConfigReader, pods: PodsConfig, rootNamespace: string): CniConfig | undefined {
  const enabled = reader.flag('enabled', false);
  const excluded = pods.from === 'kubernetes' ? pods.excludedNamespaces : [];
  const config = {
    socket: reader.text('socket', '/run/meltemi/cni.sock'),
    binDir: reader.text('binDir', '/opt/cni/bin'),
    confDir: reader.text('confDir', '/etc/cni/net.d'),
    exemptNamespaces: reader.names().includes('exemptNamespaces')
      ? reader.texts('exemptNamespaces')
      : [rootNamespace, ...excluded],
    awaySeconds: reader.number('awaySeconds', 15, 0, 200),
    answerSeconds: reader.number('answerSeconds', 30, 0, 200),
  };
  reader.end();
  if (enabled && pods.from !== 'kubernetes') {
    reader.problems.push('cni.enabled is true without pods.kubernetes: only there does a runtime call it');
  }
  return enabled ? config : undefined;
}

function apiServer(reader: ConfigReader) {
  const server = {
    address: reader.text('address', ''),
    token: reader.text('token', ''),
    rootCert: reader.text('rootCert', ''),
  };
  reader.end();
  return server;
}

/** It is part of the names of tables. */
function revision(reader: ConfigReader): string {
  const name = reader.text('revision', '');
  if (name === 'default') return '';
  if (!/^([a-z0-9]([a-z0-9-]*[a-z0-9])?)?$/.test(name)) {
    reader.problems.push(`revision is ${JSON.stringify(name)}, which is no name of small letters, digits and dashes`);
  }
  return name;
}

function upstream(reader: ConfigReader): Upstream {
  const server = {
    address: reader.text('address'),
    serverName: reader.text('serverName', ''),
    rootCert: reader.text('rootCert', ''),
    token: reader.text('token', ''),
  };
  if (reader.path !== 'ca') reader.end();
  return server;
}

function authority(reader: ConfigReader): AgentConfig['ca'] {
  const ca = { ...upstream(reader), ttlSeconds: reader.number('ttlSeconds', 86_400, 60) };
  if (ca.rootCert === '') reader.problems.push('ca.rootCert is missing: without roots no peer can be verified');
  reader.end();
  return ca;
}

function prefixes(reader: ConfigReader): Prefix[] {
  return reader.texts('meshPrefixes').flatMap((text) => {
    const prefix = parsePrefix(text);
    if (prefix === undefined)
      reader.problems.push(`meshPrefixes names ${JSON.stringify(text)}, which is no CIDR block`);
    return prefix === undefined ? [] : [prefix];
  });
}

function logLevel(reader: ConfigReader): LogLevel {
  const level = reader.text('logLevel', 'info');
  if (isLogLevel(level)) return level;
  reader.problems.push(`logLevel is ${JSON.stringify(level)}, which is no level`);
  return 'info';
}

/** Exactly the engine's own options, each of the kind of its default. */
function engine(reader: ConfigReader): Partial<EngineOptions> {
  const given = new Set(reader.names());
  const chosen: Record<string, unknown> = {};
  for (const [name, value] of Object.entries(DEFAULT_ENGINE_OPTIONS)) {
    const field =
      typeof value === 'number'
        ? reader.number(name, value)
        : typeof value === 'boolean'
          ? reader.flag(name, value)
          : reader.text(name, String(value));
    if (given.has(name)) chosen[name] = field;
  }
  reader.end();
  return chosen;
}
