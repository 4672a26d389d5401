/**
 * Kinds of Istio and of the Gateway API that are accepted and not read, with what they would need to have an effect.
 * Keys are `group/Kind`.
 */
export function unreadKind(group: string, kind: string): string | undefined {
  return UNREAD.get(`${group}/${kind}`);
}

const WAYPOINT = 'it needs a waypoint, and there are none yet';
const GATEWAY = 'it needs a gateway, and there are none yet';
const SIDECAR = 'it is for sidecars, and there are none';
const UNREAD: ReadonlyMap<string, string> = new Map([
  ...['DestinationRule', 'EnvoyFilter', 'VirtualService'].map(
    (kind) => [`networking.istio.io/${kind}`, WAYPOINT] as const,
  ),
  ...['ProxyConfig', 'Sidecar'].map((kind) => [`networking.istio.io/${kind}`, SIDECAR] as const),
  ['networking.istio.io/Gateway', GATEWAY],
  ['networking.istio.io/WorkloadGroup', 'nothing registers WorkloadEntries by it yet'],
  ['security.istio.io/RequestAuthentication', WAYPOINT],
  ['telemetry.istio.io/Telemetry', 'what node agents report is fixed, and the rest needs a waypoint'],
  ['extensions.istio.io/WasmPlugin', WAYPOINT],
  ['extensions.istio.io/TrafficExtension', WAYPOINT],
  ...['Gateway', 'GatewayClass', 'ListenerSet', 'ReferenceGrant'].map(
    (kind) => [`gateway.networking.k8s.io/${kind}`, GATEWAY] as const,
  ),
  ...['BackendTLSPolicy', 'GRPCRoute', 'HTTPRoute', 'TCPRoute', 'TLSRoute', 'UDPRoute'].map(
    (kind) =>
      [`gateway.networking.k8s.io/${kind}`, 'it needs a waypoint or a gateway, and there are none yet'] as const,
  ),
]);
