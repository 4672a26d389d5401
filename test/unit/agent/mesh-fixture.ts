import { create, type MessageInitShape, toBinary } from '@bufbuild/protobuf';
import type { Offer } from '../../../src/agent/dataplane/dataplane.js';
import { groupsAnew } from '../../../src/agent/route/groups.js';
import type { Self, World } from '../../../src/agent/route/observed.js';
import type { LocalPod } from '../../../src/agent/store/snapshot.js';
import { type Change, Store } from '../../../src/agent/store/store.js';
import { AuthorizationSchema } from '../../../src/gen/istio/security/authorization_pb.js';
import {
  AddressSchema,
  ServiceSchema,
  TunnelProtocol,
  WorkloadSchema,
} from '../../../src/gen/istio/workload/workload_pb.js';
import { ipToBytes, parsePrefix } from '../../../src/lib/ip.js';

/** A small mesh for tests, written down in a few words. */

export const SELF: Self = {
  node: 'node-1',
  cluster: 'Kubernetes',
  network: '',
  trustDomain: 'cluster.local',
  clusterDomain: 'cluster.local',
  locality: { region: 'r1', zone: 'z1', subzone: 's1' },
  meshPrefixes: [],
};

export type WorkloadInit = Omit<MessageInitShape<typeof WorkloadSchema>, 'addresses' | '$typeName' | 'services'> & {
  readonly ips?: readonly string[];
  /** Service key to service port to target port. */
  readonly services?: Readonly<Record<string, Readonly<Record<number, number>>>>;
};

export function uidOf(name: string, namespace = 'default'): string {
  return `Kubernetes//Pod/${namespace}/${name}`;
}

/** A captured pod's workload: `workload('web', { ips: ['10.0.0.1'] })`. */
export function workload(name: string, init: WorkloadInit = {}) {
  const { ips = [], services = {}, namespace = 'default', ...rest } = init;
  const message = create(WorkloadSchema, {
    name,
    namespace,
    uid: uidOf(name, namespace),
    serviceAccount: name,
    workloadName: name,
    canonicalName: name,
    canonicalRevision: 'v1',
    clusterId: 'Kubernetes',
    tunnelProtocol: TunnelProtocol.HBONE,
    ...rest,
    addresses: ips.map(bytesOf),
    services: Object.fromEntries(
      Object.entries(services).map(([key, ports]) => [
        key,
        { ports: Object.entries(ports).map(([port, targetPort]) => ({ servicePort: Number(port), targetPort })) },
      ]),
    ),
  });
  const bytes = toBinary(AddressSchema, create(AddressSchema, { type: { case: 'workload', value: message } }));
  return { name: message.uid, bytes };
}

export type ServiceInit = Omit<MessageInitShape<typeof ServiceSchema>, 'addresses' | 'ports' | '$typeName'> & {
  /** `10.96.0.1` or `10.96.0.0/16`. */
  readonly vips?: readonly string[];
  /** Service port to target port. */
  readonly ports?: Readonly<Record<number, number>>;
};

export function service(name: string, init: ServiceInit = {}) {
  const { vips = [], ports = {}, namespace = 'default', ...rest } = init;
  const message = create(ServiceSchema, {
    name,
    namespace,
    hostname: `${name}.${namespace}.svc.cluster.local`,
    ...rest,
    addresses: vips.map((vip) => {
      const prefix = parsePrefix(vip);
      if (prefix === undefined) throw new Error(vip);
      return { network: '', address: bytesOf(prefix.ip), ...(vip.includes('/') ? { length: prefix.length } : {}) };
    }),
    ports: Object.entries(ports).map(([port, targetPort]) => ({ servicePort: Number(port), targetPort })),
  });
  const bytes = toBinary(AddressSchema, create(AddressSchema, { type: { case: 'service', value: message } }));
  return { name: `${namespace}/${message.hostname}`, bytes };
}

export type PolicyInit = Omit<MessageInitShape<typeof AuthorizationSchema>, '$typeName'>;

export function policy(name: string, init: PolicyInit = {}) {
  const message = create(AuthorizationSchema, { name, namespace: 'default', ...init });
  return { name: `${message.namespace}/${name}`, bytes: toBinary(AuthorizationSchema, message) };
}

export function localPod(name: string, addresses: readonly string[], namespace = 'default'): LocalPod {
  return {
    uid: uidOf(name, namespace),
    name,
    namespace,
    serviceAccount: name,
    identity: `spiffe://cluster.local/ns/${namespace}/sa/${name}`,
    addresses,
    labels: {},
  };
}

type Resource = { readonly name: string; readonly bytes: Uint8Array };

/** A store that has heard from its control plane. */
export function store(addresses: readonly Resource[] = [], policies: readonly Resource[] = [], pods: LocalPod[] = []) {
  const made = new Store();
  expectAccepted(made.applyAddresses({ changed: addresses, removed: [] }));
  expectAccepted(made.applyPolicies({ changed: policies, removed: [] }));
  for (const pod of pods) made.applyPod(pod);
  return made;
}

export function worldOf(snapshot: Store, self: Self = SELF): World {
  return {
    snapshot,
    ...groupsAnew(snapshot, self),
  };
}

/** An offer of the pod `client` unless said otherwise. */
export function offer(init: Partial<Offer>): Offer {
  return {
    id: 1,
    pod: uidOf('client'),
    direction: 'outbound',
    dstIp: '',
    dstPort: 0,
    srcIp: '10.0.0.1',
    peerIdentity: '',
    authority: '',
    rejudge: false,
    ...init,
  };
}

export function bytesOf(ip: string): Uint8Array {
  const bytes = ipToBytes(ip);
  if (bytes === undefined) throw new Error(`${ip} is no address`);
  return bytes;
}

function expectAccepted(change: Change): void {
  if (change.refused.length > 0) throw new Error(change.refused.map(({ reason }) => reason).join('; '));
}
