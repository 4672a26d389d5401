import { AppProtocol } from '../../gen/istio/workload/workload_pb.js';

/** From a Kubernetes port: `appProtocol`, or else what stands before the first dash of the port's name. */
export function appProtocolOf(portName: string, appProtocol: string | undefined): AppProtocol {
  const named = KUBERNETES_PROTOCOLS[appProtocol ?? ''];
  return named ?? parseProtocol(appProtocol ?? portName);
}

/** From Istio's own spelling: `HTTP`, `http2-web`, `GRPC` … */
export function parseProtocol(text: string): AppProtocol {
  const name = text.toLowerCase();
  if (name.startsWith('grpc-web')) return AppProtocol.HTTP11;
  return PROTOCOLS[name.split('-')[0] ?? ''] ?? AppProtocol.UNKNOWN;
}

const PROTOCOLS: Readonly<Record<string, AppProtocol>> = {
  http: AppProtocol.HTTP11,
  http2: AppProtocol.HTTP2,
  grpc: AppProtocol.GRPC,
  https: AppProtocol.TLS,
  tls: AppProtocol.TLS,
  tcp: AppProtocol.TCP,
  mongo: AppProtocol.TCP,
  mysql: AppProtocol.TCP,
  redis: AppProtocol.TCP,
};

const KUBERNETES_PROTOCOLS: Readonly<Record<string, AppProtocol>> = {
  'kubernetes.io/h2c': AppProtocol.HTTP2,
  'kubernetes.io/ws': AppProtocol.HTTP11,
  'kubernetes.io/wss': AppProtocol.TLS,
};
