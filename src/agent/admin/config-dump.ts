import { type JsonObject, toJson } from '@bufbuild/protobuf';
import type { Authorization } from '../../gen/istio/security/authorization_pb.js';
import { AuthorizationSchema } from '../../gen/istio/security/authorization_pb.js';
import {
  AppProtocol,
  type GatewayAddress,
  LoadBalancing_HealthPolicy,
  LoadBalancing_Mode,
  LoadBalancing_Scope,
  type Service,
  TunnelProtocol,
  type Workload,
  WorkloadStatus,
} from '../../gen/istio/workload/workload_pb.js';
import { formatPrefix, ipFromBytes } from '../../lib/ip.js';
import { problemOf } from '../../model/invalid-policy.js';
import type { CertificateState } from '../certs/certificates.js';
import type { ConnectionInfo, EndpointGroup, EngineStats } from '../dataplane/dataplane.js';
import type { PodState } from '../enroll/pod-task.js';
import { addressesOf, identityOf, vipsOf } from '../store/facts.js';
import type { Store } from '../store/store.js';

export interface DumpParts {
  readonly store: Store;
  readonly config: unknown;
  readonly version: string;
  groups(): readonly EndpointGroup[];
  certificates(): readonly CertificateState[];
  pods(): readonly PodState[];
  connections(): readonly ConnectionInfo[];
  stats(): EngineStats;
  xds(): unknown;
  names(): unknown;
}

/** Everything the agent knows, for a person with a question. Keys are never in it. Tables come as generators. */
export function configDump(parts: DumpParts): (readonly [string, unknown])[] {
  const { store } = parts;
  return [
    ['version', { version: parts.version, snapshot: store.version }],
    ['config', parts.config],
    ['xds', parts.xds()],
    ['engine', parts.stats()],
    ['workloads', each(store.workloads(), dumpWorkload)],
    ['services', each(store.services(), (service) => dumpService(service, store))],
    ['policies', each(store.policies(), dumpPolicy)],
    ['certificates', each(parts.certificates(), dumpCertificate)],
    ['workloadState', parts.pods()],
    ['groups', each(parts.groups(), dumpGroup)],
    ['names', parts.names()],
    ['connections', parts.connections()],
  ];
}

function* each<T>(values: Iterable<T>, dump: (value: T) => unknown): Generator<unknown> {
  for (const value of values) yield dump(value);
}

function dumpWorkload(workload: Workload): unknown {
  return {
    uid: workload.uid,
    name: workload.name,
    namespace: workload.namespace,
    workloadIps: addressesOf(workload),
    ...(workload.hostname === '' ? {} : { hostname: workload.hostname }),
    identity: identityOf(workload),
    protocol: TunnelProtocol[workload.tunnelProtocol],
    network: workload.network,
    node: workload.node,
    status: WorkloadStatus[workload.status],
    canonicalName: workload.canonicalName,
    canonicalRevision: workload.canonicalRevision,
    workloadName: workload.workloadName,
    clusterId: workload.clusterId,
    capacity: workload.capacity ?? 1,
    locality: [workload.locality?.region, workload.locality?.zone, workload.locality?.subzone]
      .filter(Boolean)
      .join('/'),
    waypoint: dumpGateway(workload.waypoint),
    authorizationPolicies: workload.authorizationPolicies,
    services: Object.fromEntries(
      Object.entries(workload.services).map(([key, { ports }]) => [
        key,
        Object.fromEntries(ports.map(({ servicePort, targetPort }) => [servicePort, targetPort])),
      ]),
    ),
  };
}

function dumpService(service: Service, store: Store): unknown {
  const { loadBalancing } = service;
  return {
    name: service.name,
    namespace: service.namespace,
    hostname: service.hostname,
    vips: vipsOf(service).map(({ network, prefix }) => `${network}/${formatPrefix(prefix)}`),
    ports: service.ports.map(({ servicePort, targetPort, appProtocol }) => ({
      servicePort,
      targetPort,
      appProtocol: AppProtocol[appProtocol],
    })),
    endpoints: store.endpointsOf(`${service.namespace}/${service.hostname}`),
    subjectAltNames: service.subjectAltNames,
    waypoint: dumpGateway(service.waypoint),
    loadBalancer: loadBalancing && {
      mode: LoadBalancing_Mode[loadBalancing.mode],
      routingPreferences: loadBalancing.routingPreference.map((scope) => LoadBalancing_Scope[scope]),
      healthPolicy: LoadBalancing_HealthPolicy[loadBalancing.healthPolicy],
    },
  };
}

function dumpPolicy(policy: Authorization): unknown {
  const problem = problemOf(policy);
  const plain = toJson(AuthorizationSchema, { ...policy, extensions: [] });
  return problem === undefined ? plain : { ...(plain as JsonObject), problem };
}

function dumpGateway(gateway: GatewayAddress | undefined): string | undefined {
  if (gateway === undefined) return undefined;
  const { destination, hboneMtlsPort } = gateway;
  if (destination.case === 'hostname') {
    return `${destination.value.namespace}/${destination.value.hostname}:${hboneMtlsPort}`;
  }
  if (destination.case !== 'address') return undefined;
  return `${destination.value.network}/${ipFromBytes(destination.value.address)}:${hboneMtlsPort}`;
}

function dumpCertificate(certificate: CertificateState): unknown {
  const { notBeforeMs, notAfterMs, ...rest } = certificate;
  const time = (ms: number): string | undefined => (ms === 0 ? undefined : new Date(ms).toISOString());
  return { ...rest, validFrom: time(notBeforeMs), expirationTime: time(notAfterMs) };
}

/** Without the rendered labels, which say nothing new. */
function dumpGroup({ id, endpoints }: EndpointGroup): unknown {
  return { id, endpoints: endpoints.map(({ labels: _labels, log: _log, ...endpoint }) => endpoint) };
}
