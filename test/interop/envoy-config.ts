/** Bootstraps of a stock Envoy as either end of an HBONE tunnel. */
import type { Identity } from '../support/hbone-client.js';

export interface EnvoyClient {
  /** Where it listens on loopback. */
  readonly listenPort: number;
  /** What the CONNECT names. */
  readonly authority: string;
  /** Where the tunnel ends. */
  readonly address: string;
  readonly identity: Identity;
}

export interface EnvoyServer {
  readonly address: string;
  /** Port on loopback that gets what came through tunnels. */
  readonly appPort: number;
  readonly identity: Identity;
}

/** TCP in, CONNECT over HTTP/2 over mutual TLS out. */
export function envoyClient({ listenPort, authority, address, identity }: EnvoyClient): object {
  const proxy = {
    '@type': `${FILTERS}.network.tcp_proxy.v3.TcpProxy`,
    stat_prefix: 'outbound',
    cluster: 'peer',
    tunneling_config: { hostname: authority },
  };
  const tls = { '@type': `${TLS}.UpstreamTlsContext`, common_tls_context: tlsContext(identity) };
  return bootstrap(
    [listener('127.0.0.1', listenPort, { filters: [{ name: 'tcp', typed_config: proxy }] })],
    [{ ...cluster('peer', address, HBONE_PORT), ...HTTP2, transport_socket: { name: 'tls', typed_config: tls } }],
  );
}

/** CONNECT in, TCP to the app. */
export function envoyServer({ address, appPort, identity }: EnvoyServer): object {
  const route = {
    match: { connect_matcher: {} },
    route: { cluster: 'app', timeout: '0s', upgrade_configs: [{ upgrade_type: 'CONNECT', connect_config: {} }] },
  };
  const http = {
    '@type': `${FILTERS}.network.http_connection_manager.v3.HttpConnectionManager`,
    stat_prefix: 'inbound',
    codec_type: 'HTTP2',
    http2_protocol_options: { allow_connect: true },
    upgrade_configs: [{ upgrade_type: 'CONNECT' }],
    http_filters: [
      { name: 'envoy.filters.http.router', typed_config: { '@type': `${FILTERS}.http.router.v3.Router` } },
    ],
    route_config: { virtual_hosts: [{ name: 'all', domains: ['*'], routes: [route] }] },
    access_log: [{ name: 'stdout', typed_config: { '@type': STDOUT_LOG, log_format: { text_format_source: LOG } } }],
  };
  const tls = {
    '@type': `${TLS}.DownstreamTlsContext`,
    require_client_certificate: true,
    common_tls_context: tlsContext(identity),
  };
  const chain = {
    filters: [{ name: 'http', typed_config: http }],
    transport_socket: { name: 'tls', typed_config: tls },
  };
  return bootstrap([listener(address, HBONE_PORT, chain)], [cluster('app', '127.0.0.1', appPort)]);
}

function bootstrap(listeners: object[], clusters: object[]): object {
  return { node: { id: 'interop', cluster: 'interop' }, static_resources: { listeners, clusters } };
}

function listener(ip: string, port: number, chain: object): object {
  return { name: `on-${port}`, address: address(ip, port), filter_chains: [chain] };
}

function cluster(name: string, ip: string, port: number): object {
  return {
    name,
    type: 'STATIC',
    connect_timeout: '5s',
    load_assignment: {
      cluster_name: name,
      endpoints: [{ lb_endpoints: [{ endpoint: { address: address(ip, port) } }] }],
    },
  };
}

function tlsContext({ cert, key, ca, expect }: Identity): object {
  return {
    alpn_protocols: ['h2'],
    tls_params: { tls_minimum_protocol_version: 'TLSv1_3', tls_maximum_protocol_version: 'TLSv1_3' },
    tls_certificates: [{ certificate_chain: { filename: cert }, private_key: { filename: key } }],
    validation_context: {
      trusted_ca: { filename: ca },
      ...(expect !== undefined && {
        match_typed_subject_alt_names: [{ san_type: 'URI', matcher: { exact: expect } }],
      }),
    },
  };
}

function address(ip: string, port: number): object {
  return { socket_address: { address: ip, port_value: port } };
}

const HBONE_PORT = 15008;
const FILTERS = 'type.googleapis.com/envoy.extensions.filters';
const TLS = 'type.googleapis.com/envoy.extensions.transport_sockets.tls.v3';
const STDOUT_LOG = 'type.googleapis.com/envoy.extensions.access_loggers.stream.v3.StdoutAccessLog';
const LOG = {
  inline_string:
    'CONNECT %REQ(:AUTHORITY)% peer=%DOWNSTREAM_PEER_URI_SAN% forwarded=%REQ(FORWARDED)% baggage=%REQ(BAGGAGE)% traceparent=%REQ(TRACEPARENT)% %RESPONSE_CODE%\n',
};
const HTTP2 = {
  typed_extension_protocol_options: {
    'envoy.extensions.upstreams.http.v3.HttpProtocolOptions': {
      '@type': 'type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions',
      explicit_http_config: { http2_protocol_options: { allow_connect: true } },
    },
  },
};
