/** Policies of the matrix. Each has its YAML and, separately and by hand, what it lets through. */
import { authorizationPolicy, type Manifest } from '../../support/manifests.js';
import { type Addresses, SERVER_NAMESPACE } from './cells.js';

/** What a policy may look at, as seen by a captured server. */
export interface Facts {
  /** Name of the client, who it says it is in a certificate; empty without one. */
  readonly identity: string;
  /** Namespace in that certificate. */
  readonly namespace: string;
  /** Client by source address: that is kept. */
  readonly source: string;
  readonly port: number;
}

export interface PolicyCase {
  readonly name: string;
  manifests(addresses: Addresses): Manifest[];
  allows(facts: Facts): boolean;
}

const ALICE = 'cluster.local/ns/red/sa/alice';
const IN_SRV = { selector: { matchLabels: { role: 'server' } } };

export const POLICY_CASES: readonly PolicyCase[] = [
  { name: 'none', manifests: () => [], allows: () => true },
  one('allow-principal', 'ALLOW', [from({ principals: [ALICE] })], ({ identity }) => identity === 'alice'),
  one('deny-principal', 'DENY', [from({ principals: [ALICE] })], ({ identity }) => identity !== 'alice'),
  one('deny-suffix', 'DENY', [from({ principals: ['*/sa/bob'] })], ({ identity }) => identity !== 'bob'),
  one('allow-any-principal', 'ALLOW', [from({ principals: ['*'] })], ({ identity }) => identity !== ''),
  one('deny-ports', 'DENY', [to({ ports: ['8001', '8003'] })], ({ port }) => port !== 8001 && port !== 8003),
  one('allow-not-ports', 'ALLOW', [to({ notPorts: ['8002'] })], ({ port }) => port !== 8002),
  one('allow-namespace', 'ALLOW', [from({ namespaces: ['red'] })], ({ namespace }) => namespace === 'red'),
  one('deny-not-namespace', 'DENY', [from({ notNamespaces: ['blue'] })], ({ namespace }) => namespace === 'blue'),
  {
    name: 'allow-ip-blocks',
    manifests: (addresses) => [
      policy('allow-ip-blocks', 'ALLOW', [from({ ipBlocks: both(addresses, 'bob').concat(both(addresses, 'carol')) })]),
    ],
    allows: ({ source }) => source !== 'alice',
  },
  {
    name: 'deny-not-ip-blocks',
    manifests: (addresses) => [policy('deny-not-ip-blocks', 'DENY', [from({ notIpBlocks: both(addresses, 'alice') })])],
    allows: ({ source }) => source === 'alice',
  },
  one(
    'allow-principal-on-port',
    'ALLOW',
    [{ ...from({ principals: [ALICE] }), ...to({ ports: ['8001'] }) }, from({ namespaces: ['blue'] })],
    ({ identity, namespace, port }) => (identity === 'alice' && port === 8001) || namespace === 'blue',
  ),
  one(
    'deny-when-principal',
    'DENY',
    [{ when: [{ key: 'source.principal', notValues: [ALICE] }] }],
    ({ identity }) => identity === 'alice',
  ),
  {
    name: 'allow-nothing',
    manifests: () => [authorizationPolicy('allow-nothing', SERVER_NAMESPACE, {})],
    allows: () => false,
  },
  {
    name: 'deny-over-allow',
    manifests: () => [
      policy('allow-all-known', 'ALLOW', [from({ namespaces: ['red', 'blue'] })]),
      policy('deny-alice', 'DENY', [from({ principals: [ALICE] })]),
    ],
    allows: ({ identity }) => identity === 'bob',
  },
  {
    name: 'dry-run',
    manifests: () => [policy('dry-run', 'DENY', [{}], { 'istio.io/dry-run': 'true' })],
    allows: () => true,
  },
  {
    name: 'whole-mesh',
    manifests: () => [
      authorizationPolicy('whole-mesh', 'istio-system', {
        action: 'DENY',
        rules: [from({ principals: ['*/sa/alice'] })],
      }),
    ],
    allows: ({ identity }) => identity !== 'alice',
  },
  {
    name: 'other-namespace',
    manifests: () => [authorizationPolicy('other-namespace', 'red', { action: 'DENY', rules: [{}] })],
    allows: () => true,
  },
];

function one(name: string, action: 'ALLOW' | 'DENY', rules: object[], allows: (facts: Facts) => boolean): PolicyCase {
  return { name, manifests: () => [policy(name, action, rules)], allows };
}

function policy(
  name: string,
  action: 'ALLOW' | 'DENY',
  rules: object[],
  annotations: Readonly<Record<string, string>> = {},
): Manifest {
  return authorizationPolicy(name, SERVER_NAMESPACE, { ...IN_SRV, action, rules }, annotations);
}

function from(source: object): object {
  return { from: [{ source }] };
}

function to(operation: object): object {
  return { to: [{ operation }] };
}

function both(addresses: Addresses, pod: string): string[] {
  return [addresses.of(pod, 4), addresses.of(pod, 6)];
}
