/** Random worlds for the agreement of `explain` with real connections: labels, policies, modes and who calls whom. */
import {
  authorizationPolicy,
  type Manifest,
  namespace,
  serverPod,
  service,
  serviceEntry,
} from '../../support/manifests.js';
import type { Random } from '../../support/random.js';

export interface Person {
  readonly name: string;
  readonly namespace: string;
  readonly node: number;
}

/** Each is client and server. */
export const PEOPLE: readonly Person[] = [
  { name: 'ada', namespace: 'red', node: 1 },
  { name: 'ben', namespace: 'red', node: 2 },
  { name: 'cid', namespace: 'blue', node: 1 },
  { name: 'dot', namespace: 'blue', node: 2 },
  { name: 'eve', namespace: 'street', node: 1 },
  { name: 'fay', namespace: 'street', node: 2 },
];
export const NAMESPACES = ['red', 'blue', 'street'] as const;
export const PORTS = [8080, 8081] as const;
const VIPS = { pair: 1, single: 2, nobody: 3 } as const;
const MODE = 'istio.io/dataplane-mode';

export interface Labels {
  /** `istio.io/dataplane-mode` of namespaces; absent is no label. */
  readonly namespaces: Readonly<Record<string, string | null>>;
  readonly pods: Readonly<
    Record<string, { readonly [MODE]: string | null; readonly version: string; readonly tier: string }>
  >;
}

export function keyOf({ name, namespace }: Person): string {
  return `${name}.${namespace}`;
}

/** Namespaces and pods. Applied as one, so that no state in between is seen. */
export function labelled(labels: Labels): Manifest[] {
  const present = (all: Readonly<Record<string, string | null>>): Record<string, string> =>
    Object.fromEntries(Object.entries(all).filter((entry): entry is [string, string] => entry[1] !== null));
  return [
    ...NAMESPACES.map((name) => namespace(name, present({ [MODE]: labels.namespaces[name] ?? null }))),
    ...PEOPLE.map((person) => serverPod({ ...person, labels: present({ ...labels.pods[keyOf(person)] }) }, [...PORTS])),
  ];
}

/** Nobody in the mesh. */
export const UNLABELLED: Labels = {
  namespaces: {},
  pods: Object.fromEntries(PEOPLE.map((person) => [keyOf(person), { [MODE]: null, version: 'v1', tier: 'front' }])),
};

export function services(): Manifest[] {
  return [
    dualService('pair', 'red', { tier: 'front' }, VIPS.pair),
    dualService('single', 'blue', { app: 'dot' }, VIPS.single),
    dualService('nobody', 'blue', { app: 'nobody' }, VIPS.nobody),
    service({ name: 'pods', namespace: 'red', selector: { tier: 'front' }, ports: [{ port: 8080, targetPort: 8080 }] }),
    serviceEntry('entry', 'red', {
      hosts: ['entry.test'],
      addresses: ['240.0.8.1', '2001:2::8:1'],
      ports: [{ number: 90, name: 'tcp', protocol: 'TCP', targetPort: 8081 }],
      resolution: 'STATIC',
      location: 'MESH_INTERNAL',
      workloadSelector: { labels: { app: 'ben' } },
    }),
  ];
}

function dualService(name: string, space: string, selector: Record<string, string>, index: number): Manifest {
  return service({
    name,
    namespace: space,
    selector,
    ports: [{ port: 80, targetPort: 8080 }],
    addresses: [`10.96.220.${index}`, `fd00:10:96::dc0${index}`],
  });
}

/** Everything that a client may try, given the addresses of pods and nodes. */
export function targets(addresses: readonly string[], nodes: readonly string[]): string[] {
  const at = (ip: string, port: number): string => (ip.includes(':') ? `[${ip}]:${port}` : `${ip}:${port}`);
  return [
    ...addresses.flatMap((ip) => PORTS.map((port) => at(ip, port))),
    ...Object.values(VIPS).flatMap((index) => [at(`10.96.220.${index}`, 80), at(`fd00:10:96::dc0${index}`, 80)]),
    at('10.96.220.1', 81),
    'pair.red:80',
    'pair.red.svc.cluster.local:80',
    'single.blue.svc:80',
    'pods.red.svc.cluster.local:8080',
    at('240.0.8.1', 90),
    at('2001:2::8:1', 90),
    ...nodes.map((ip) => at(ip, OUTSIDE_PORT)),
  ];
}

export function randomLabels(random: Random): Labels {
  const mode = (captured: number): string | null => (random.chance(captured) ? 'ambient' : null);
  return {
    namespaces: { red: mode(80), blue: mode(60), street: mode(20) },
    pods: Object.fromEntries(
      PEOPLE.map((person) => [
        keyOf(person),
        {
          [MODE]: random.chance(75) ? null : random.one(['ambient', 'none']),
          version: random.one(['v1', 'v2']),
          tier: random.chance(70) ? 'front' : 'back',
        },
      ]),
    ),
  };
}

/** Who ought to be captured under `labels`. */
export function capturedUnder(labels: Labels): string[] {
  return PEOPLE.filter((person) => {
    const own = labels.pods[keyOf(person)]?.[MODE];
    return (own ?? labels.namespaces[person.namespace]) === 'ambient';
  }).map(keyOf);
}

export function randomPolicies(random: Random, addresses: readonly string[]): Manifest[] {
  const policies = Array.from({ length: random.int(5) }, (_, index) => randomPolicy(random, index, addresses));
  const modes = Array.from({ length: random.int(3) }, (_, index) => randomMode(random, index));
  return [...policies, ...modes];
}

function randomPolicy(random: Random, index: number, addresses: readonly string[]): Manifest {
  const space = random.one(['red', 'red', 'blue', 'blue', 'street', 'istio-system']);
  const rules = Array.from({ length: random.chance(90) ? 1 + random.int(2) : 0 }, () => randomRule(random, addresses));
  const spec = {
    action: random.chance(65) ? 'DENY' : 'ALLOW',
    ...(random.chance(60) && { selector: { matchLabels: randomSelector(random, space) } }),
    rules,
  };
  return authorizationPolicy(`policy-${index}`, space, spec, random.chance(10) ? { 'istio.io/dry-run': 'true' } : {});
}

function randomMode(random: Random, index: number): Manifest {
  const space = random.one(['red', 'blue', 'istio-system']);
  const mtls = { mode: random.one(['STRICT', 'STRICT', 'PERMISSIVE', 'UNSET', 'DISABLE']) };
  const selected = space !== 'istio-system' && random.chance(50);
  const ports = Object.fromEntries(
    random.some(PORTS, 1).map((port) => [port, { mode: random.one(['STRICT', 'PERMISSIVE']) }]),
  );
  return {
    apiVersion: 'security.istio.io/v1',
    kind: 'PeerAuthentication',
    metadata: { name: `mode-${index}`, namespace: space },
    spec: {
      mtls,
      ...(selected && { selector: { matchLabels: randomSelector(random, space) } }),
      ...(selected && random.chance(50) && { portLevelMtls: ports }),
    },
  };
}

function randomSelector(random: Random, space: string): Record<string, string> {
  const people = PEOPLE.filter((person) => space === 'istio-system' || person.namespace === space);
  return random.chance(50) ? { app: random.one(people).name } : { version: random.one(['v1', 'v2']) };
}

function randomRule(random: Random, addresses: readonly string[]): object {
  const sources = Array.from({ length: random.int(3) }, () => ({ source: randomSource(random, addresses) }));
  const rule: { from?: object[]; to?: object[]; when?: object[] } = {};
  if (sources.length > 0) rule.from = sources;
  if (random.chance(40)) rule.to = [{ operation: randomOperation(random) }];
  if (random.chance(25)) rule.when = [randomCondition(random, addresses)];
  return rule;
}

function randomSource(random: Random, addresses: readonly string[]): object {
  const fields: Record<string, readonly string[]> = {
    principals: PRINCIPALS,
    namespaces: NAMESPACE_MATCHES,
    ipBlocks: blocks(addresses),
    serviceAccounts: ['red/ada', 'ben', 'blue/cid'],
  };
  const chosen = random.some(Object.keys(fields), 1 + random.int(2));
  // The API has no rule that names service accounts beside principals or namespaces.
  const names = chosen.includes('serviceAccounts')
    ? chosen.filter((name) => name !== 'principals' && name !== 'namespaces')
    : chosen;
  return Object.fromEntries(
    names.map((name) => {
      const negative = random.chance(30) ? `not${name.charAt(0).toUpperCase()}${name.slice(1)}` : name;
      return [negative, random.some(fields[name] ?? [], 1 + random.int(2))];
    }),
  );
}

function randomOperation(random: Random): object {
  if (random.chance(10)) return { methods: ['GET'] };
  return { [random.chance(70) ? 'ports' : 'notPorts']: [String(random.one(PORTS))] };
}

function randomCondition(random: Random, addresses: readonly string[]): object {
  const [key, values] = random.one<readonly [string, readonly string[]]>([
    ['source.ip', blocks(addresses)],
    ['source.namespace', NAMESPACE_MATCHES],
    ['source.principal', PRINCIPALS],
    ['destination.port', PORTS.map(String)],
    ['destination.ip', blocks(addresses)],
  ]);
  return { key, [random.chance(70) ? 'values' : 'notValues']: random.some(values, 1 + random.int(2)) };
}

function blocks(addresses: readonly string[]): string[] {
  return [...addresses, '10.244.1.0/24', '10.244.2.0/24', 'fd00:10:244:1::/64', '0.0.0.0/0'];
}

const PRINCIPALS = [
  '*',
  'cluster.local/ns/red/sa/ada',
  'cluster.local/ns/blue/sa/dot',
  'cluster.local/ns/red/*',
  '*/sa/cid',
  'cluster.local/ns/street/sa/eve',
];
const NAMESPACE_MATCHES = ['red', 'blue', 'street', 'r*', '*e'];
export const OUTSIDE_PORT = 8005;
