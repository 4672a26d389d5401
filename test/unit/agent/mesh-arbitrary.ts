import fc from 'fast-check';
import type { Direction } from '../../../src/agent/dataplane/dataplane.js';
import type { KnownName } from '../../../src/agent/store/snapshot.js';
import { Action, Scope } from '../../../src/gen/istio/security/authorization_pb.js';
import {
  LoadBalancing_Mode,
  Service_Visibility,
  TunnelProtocol,
  WorkloadStatus,
} from '../../../src/gen/istio/workload/workload_pb.js';
import { bytesOf, localPod, offer, policy, service, uidOf, workload } from './mesh-fixture.js';

/** Random pieces of a mesh so small that they meet often. */

const NAMES = ['a', 'b', 'c'] as const;
const NAMESPACES = ['default', 'shop'] as const;
const IPS = ['10.0.0.1', '10.0.0.2', '10.0.0.3', 'fd00::1'] as const;
const VIPS = ['10.96.0.1', '10.96.0.2', '10.0.0.2', '10.96.0.0/24', 'fd00:96::1'] as const;
const HOSTS = ['one.example.com', 'two.example.com'] as const;
const PORTS = [80, 443, 15008] as const;
const KEYS = NAMESPACES.flatMap((ns) => NAMES.map((name) => `${ns}/${name}.${ns}.svc.cluster.local`));
const POLICY_KEYS = NAMESPACES.flatMap((ns) => NAMES.map((name) => `${ns}/p-${name}`));

const name = fc.constantFrom(...NAMES);
const namespace = fc.constantFrom(...NAMESPACES);
const port = fc.constantFrom(...PORTS);

const waypoint = fc.oneof(
  { weight: 3, arbitrary: fc.constant(undefined) },
  {
    weight: 1,
    arbitrary: fc.constantFrom(...NAMES).map((each) => ({
      destination: {
        case: 'hostname' as const,
        value: { namespace: 'default', hostname: `${each}.default.svc.cluster.local` },
      },
      hboneMtlsPort: 15008,
    })),
  },
  {
    weight: 1,
    arbitrary: fc.constantFrom('10.96.0.1', '10.0.0.3').map((ip) => ({
      destination: { case: 'address' as const, value: { network: '', address: bytesOf(ip) } },
      hboneMtlsPort: 15008,
    })),
  },
);

const workloads = fc
  .record({
    name,
    namespace,
    ips: fc.uniqueArray(fc.constantFrom(...IPS), { maxLength: 2 }),
    hostname: fc.constantFrom('', ...HOSTS),
    tunnelProtocol: fc.constantFrom(TunnelProtocol.HBONE, TunnelProtocol.HBONE, TunnelProtocol.NONE),
    keys: fc.uniqueArray(fc.constantFrom(...KEYS), { maxLength: 2 }),
    status: fc.constantFrom(WorkloadStatus.HEALTHY, WorkloadStatus.UNHEALTHY),
    authorizationPolicies: fc.uniqueArray(fc.constantFrom(...POLICY_KEYS), { maxLength: 2 }),
    network: fc.constantFrom('', '', 'other'),
    waypoint,
  })
  .map(({ name, keys, waypoint, ...init }) =>
    workload(name, {
      ...init,
      ...(waypoint === undefined ? {} : { waypoint }),
      services: Object.fromEntries(keys.map((key) => [key, { 80: 8080, 15008: 15008 }])),
    }),
  );

const services = fc
  .record({
    name,
    namespace,
    vips: fc.uniqueArray(fc.constantFrom(...VIPS), { maxLength: 2 }),
    visibility: fc.constantFrom(Service_Visibility.PUBLIC, Service_Visibility.PUBLIC, Service_Visibility.NAMESPACE),
    mode: fc.constantFrom(LoadBalancing_Mode.UNSPECIFIED_MODE, LoadBalancing_Mode.PASSTHROUGH),
    canonical: fc.boolean(),
    waypoint,
  })
  .map(({ name, mode, waypoint, ...init }) =>
    service(name, {
      ...init,
      ...(waypoint === undefined ? {} : { waypoint }),
      ports: { 80: 0, 443: 8443, 15008: 15008 },
      loadBalancing: { mode },
    }),
  );

const stringMatch = fc.oneof(
  fc
    .constantFrom('cluster.local/ns/default/sa/a', 'cluster.local/ns/shop/sa/b', 'default', 'shop')
    .map((value) => ({ matchType: { case: 'exact' as const, value } })),
  fc.constantFrom('cluster.local/ns/shop/', 'def').map((value) => ({ matchType: { case: 'prefix' as const, value } })),
  fc.constantFrom('/sa/a', 'op').map((value) => ({ matchType: { case: 'suffix' as const, value } })),
  fc.constant({ matchType: { case: 'presence' as const, value: {} } }),
);
const block = fc
  .constantFrom(['10.0.0.1', 32], ['10.0.0.0', 30], ['0.0.0.0', 0], ['fd00::', 64])
  .map(([ip, length]) => ({ address: bytesOf(String(ip)), length: Number(length) }));
const account = fc.record({ namespace, serviceAccount: name });

function few<T>(arbitrary: fc.Arbitrary<T>): fc.Arbitrary<T[]> {
  return fc.oneof(
    { weight: 3, arbitrary: fc.constant<T[]>([]) },
    { weight: 1, arbitrary: fc.array(arbitrary, { maxLength: 2 }) },
  );
}

export const match = fc.record({
  namespaces: few(stringMatch),
  notNamespaces: few(stringMatch),
  principals: few(stringMatch),
  notPrincipals: few(stringMatch),
  sourceIps: few(block),
  notSourceIps: few(block),
  destinationIps: few(block),
  notDestinationIps: few(block),
  destinationPorts: few(port),
  notDestinationPorts: few(port),
  serviceAccounts: few(account),
  notServiceAccounts: few(account),
});

export const policies = fc
  .record({
    name,
    namespace,
    scope: fc.constantFrom(Scope.GLOBAL, Scope.NAMESPACE, Scope.WORKLOAD_SELECTOR),
    action: fc.constantFrom(Action.ALLOW, Action.DENY),
    dryRun: fc.constantFrom(false, false, true),
    rules: fc.array(
      fc.record({ clauses: fc.array(fc.record({ matches: fc.array(match, { maxLength: 2 }) }), { maxLength: 2 }) }),
      { maxLength: 2 },
    ),
  })
  .map(({ name, ...init }) => policy(`p-${name}`, init));

export type Edit =
  | { readonly kind: 'addresses'; readonly changed: { name: string; bytes: Uint8Array }[]; readonly removed: string[] }
  | { readonly kind: 'policies'; readonly changed: { name: string; bytes: Uint8Array }[]; readonly removed: string[] }
  | { readonly kind: 'pod'; readonly name: string; readonly namespace: string; readonly ips: string[] }
  | { readonly kind: 'no-pod'; readonly uid: string }
  | { readonly kind: 'name'; readonly host: string; readonly known: KnownName | undefined };

const known: fc.Arbitrary<KnownName | undefined> = fc.constantFrom(
  undefined,
  { ips: ['192.0.2.1'], problem: '', isStale: false },
  { ips: ['192.0.2.1', '2001:db8::1'], problem: '', isStale: true },
  { ips: ['10.0.0.1', '192.0.2.1'], problem: '', isStale: false },
  { ips: ['10.96.0.1'], problem: '', isStale: false },
  { ips: ['10.96.0.77'], problem: '', isStale: false },
  { ips: [], problem: 'NXDOMAIN', isStale: false },
);
const uid = fc.tuple(name, namespace).map(([each, ns]) => uidOf(each, ns));

/** One transaction of the control plane, or a pod that comes or goes. */
export const edit: fc.Arbitrary<Edit> = fc.oneof(
  fc.record({
    kind: fc.constant('addresses' as const),
    changed: fc.array(fc.oneof(workloads, services), { maxLength: 4 }),
    removed: few(fc.oneof(uid, fc.constantFrom(...KEYS))),
  }),
  fc.record({
    kind: fc.constant('policies' as const),
    changed: fc.array(policies, { maxLength: 2 }),
    removed: few(fc.constantFrom(...POLICY_KEYS)),
  }),
  fc.record({
    kind: fc.constant('pod' as const),
    name,
    namespace,
    ips: fc.uniqueArray(fc.constantFrom(...IPS), { maxLength: 2 }),
  }),
  fc.record({ kind: fc.constant('no-pod' as const), uid }),
  fc.record({ kind: fc.constant('name' as const), host: fc.constantFrom(...HOSTS), known }),
);

/** A mesh in which most connections lead somewhere; stories begin with it. */
export const FOUNDATION: readonly Edit[] = [
  ...NAMESPACES.flatMap((ns) =>
    NAMES.map((each) => ({ kind: 'pod' as const, name: each, namespace: ns, ips: ['10.0.0.1', '10.0.0.2'] })),
  ),
  {
    kind: 'addresses',
    changed: [
      service('a', { vips: ['10.96.0.1', 'fd00:96::1'], ports: { 80: 8080, 443: 8443 } }),
      service('b', { namespace: 'shop', vips: ['10.96.0.0/24'], ports: { 80: 8080, 443: 8443 } }),
      service('c', { vips: ['10.96.0.2'], ports: { 80: 8080, 443: 8443 } }),
      workload('c', {
        hostname: 'one.example.com',
        tunnelProtocol: TunnelProtocol.NONE,
        services: { 'default/c.default.svc.cluster.local': { 80: 8080, 443: 8443 } },
      }),
      workload('a', { ips: ['10.0.0.1'], services: { 'default/a.default.svc.cluster.local': { 80: 8080 } } }),
      workload('b', { ips: ['10.0.0.2'], services: { 'default/a.default.svc.cluster.local': { 80: 8080, 443: 1 } } }),
      workload('a', {
        namespace: 'shop',
        ips: ['10.0.0.3'],
        services: { 'shop/b.shop.svc.cluster.local': { 80: 8080 } },
      }),
      workload('c', { namespace: 'shop', ips: ['fd00::1'], services: { 'shop/b.shop.svc.cluster.local': { 443: 9 } } }),
    ],
    removed: [],
  },
  { kind: 'policies', changed: [], removed: [] },
];

export function podOf({ name, namespace, ips }: Extract<Edit, { kind: 'pod' }>) {
  return localPod(name, ips, namespace);
}

export const identity = fc.constantFrom(
  '',
  'spiffe://cluster.local/ns/default/sa/a',
  'spiffe://cluster.local/ns/shop/sa/b',
  'spiffe://cluster.local/ns/shop/sa/a',
);

export const offers = fc
  .record({
    pod: uid,
    direction: fc.constantFrom<Direction>('outbound', 'inbound', 'inbound-plaintext'),
    dstIp: fc.constantFrom('10.0.0.1', '10.0.0.2', '10.96.0.1', '10.96.0.2', '10.96.0.77', '192.0.2.1', 'fd00:96::1'),
    dstPort: port,
    srcIp: fc.constantFrom(...IPS),
    peerIdentity: identity,
    authority: fc.constantFrom(
      '10.0.0.1:80',
      '10.0.0.2:80',
      '[fd00::1]:443',
      'a.default.svc.cluster.local:80',
      'b.shop.svc.cluster.local:443',
      'nonsense',
    ),
  })
  .map((each) => offer(each));
