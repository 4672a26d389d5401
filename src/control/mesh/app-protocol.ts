import { AppProtocol } from '../../gen/istio/workload/workload_pb.js';

/** From a Kubernetes port: `appProtocol`, or else what stands before the first dash of the port's name. */
export function appProtocolOf(portName: string, appProtocol: string | undefined): AppProtocol {
  return KUBERNETES_PROTOCOLS.get(appProtocol ?? '') ?? parseProtocol(appProtocol ?? portName);
}

/** From Istio's own spelling: `HTTP`, `http2-web`, `GRPC` … */
export function parseProtocol(text: string): AppProtocol {
  const name = text.toLowerCase();
  if (name.startsWith('grpc-web')) return AppProtocol.HTTP11;
  return PROTOCOLS.get(name.split('-')[0] ?? '') ?? AppProtocol.UNKNOWN;
}

const PROTOCOLS: ReadonlyMap<string, AppProtocol> = new Map([
  ['http', AppProtocol.HTTP11],
  ['http2', AppProtocol.HTTP2],
  ['grpc', AppProtocol.GRPC],
  ['https', AppProtocol.TLS],
  ['tls', AppProtocol.TLS],
  ['tcp', AppProtocol.TCP],
  ['mongo', AppProtocol.TCP],
  ['mysql', AppProtocol.TCP],
  ['redis', AppProtocol.TCP],
]);

const KUBERNETES_PROTOCOLS: ReadonlyMap<string, AppProtocol> = new Map([
  ['kubernetes.io/h2c', AppProtocol.HTTP2],
  ['kubernetes.io/ws', AppProtocol.HTTP11],
  ['kubernetes.io/wss', AppProtocol.TLS],
]);
