/** The capture matrix as a table, and the world it is played in. Nothing here knows how the mesh decides. */
import {
  CAPTURED,
  idlePod,
  type Manifest,
  NOT_CAPTURED,
  namespace,
  serverPod,
  service,
  serviceEntry,
} from '../../support/manifests.js';

export interface Client {
  readonly name: string;
  readonly namespace: string;
  readonly captured: boolean;
}

export interface Server {
  readonly name: string;
  readonly captured: boolean;
  readonly node: 1 | 2;
}

/** How the client names the server. */
export type Kind = (typeof KINDS)[number];
export type Family = 4 | 6;
export type Mode = (typeof MODES)[number];

export interface Cell {
  readonly client: Client;
  readonly server: Server;
  readonly kind: Kind;
  readonly family: Family;
}

export const CLIENTS: readonly Client[] = [
  { name: 'alice', namespace: 'red', captured: true },
  { name: 'bob', namespace: 'blue', captured: true },
  { name: 'carol', namespace: 'street', captured: false },
];

export const SERVERS: readonly Server[] = [
  { name: 'near', captured: true, node: 1 },
  { name: 'far', captured: true, node: 2 },
  { name: 'near-raw', captured: false, node: 1 },
  { name: 'far-raw', captured: false, node: 2 },
];

export const KINDS = ['vip', 'pod-ip', 'headless', 'service-entry', 'unknown'] as const;
export const FAMILIES: readonly Family[] = [4, 6];
export const MODES = ['PERMISSIVE', 'STRICT'] as const;

/** All cells of one round (one mode, one policy). An unknown address is a program on the node itself, in no mesh. */
export function cells(): Cell[] {
  return CLIENTS.flatMap((client) =>
    SERVERS.flatMap((server) =>
      KINDS.filter((kind) => kind !== 'unknown' || !server.captured).flatMap((kind) =>
        FAMILIES.map((family) => ({ client, server, kind, family })),
      ),
    ),
  );
}

/** Each way to a server ends on a port of its own, so that a record or a packet belongs to one cell. */
export const PORT_OF: Readonly<Record<Kind, number>> = {
  vip: 8001,
  'pod-ip': 8002,
  headless: 8003,
  'service-entry': 8004,
  unknown: 8005,
};

export interface Addresses {
  of(pod: string, family: Family): string;
  ofNode(node: number, family: Family): string;
}

/** What the client connects to. */
export function destination({ server, kind, family }: Cell, addresses: Addresses): { host: string; port: number } {
  switch (kind) {
    case 'vip':
      return { host: vip(server, family), port: 80 };
    case 'pod-ip':
      return { host: addresses.of(server.name, family), port: PORT_OF['pod-ip'] };
    case 'headless':
      return { host: `${server.name}-pods.${SERVER_NAMESPACE}.svc.cluster.local`, port: PORT_OF.headless };
    case 'service-entry':
      return { host: entryAddress(server, family), port: 90 };
    case 'unknown':
      return { host: addresses.ofNode(server.node, family), port: PORT_OF.unknown };
  }
}

export function world(): Manifest[] {
  const spaces = new Set(CLIENTS.map((client) => client.namespace));
  return [
    ...[...spaces].map((name) => namespace(name)),
    namespace(SERVER_NAMESPACE, CAPTURED),
    ...CLIENTS.map((client) => idlePod({ ...client, node: 1, labels: client.captured ? CAPTURED : {} })),
    ...SERVERS.flatMap(serverManifests),
  ];
}

function serverManifests(server: Server): Manifest[] {
  const { name, node, captured } = server;
  const where = { namespace: SERVER_NAMESPACE, selector: { app: name } };
  const labels: Readonly<Record<string, string>> = { role: 'server', ...(captured ? {} : NOT_CAPTURED) };
  const ports = KINDS.map((kind) => PORT_OF[kind]);
  return [
    serverPod({ name, namespace: SERVER_NAMESPACE, node, labels, serviceAccount: name }, ports),
    service({
      ...where,
      name,
      ports: [{ port: 80, targetPort: PORT_OF.vip }],
      addresses: [vip(server, 4), vip(server, 6)],
    }),
    service({ ...where, name: `${name}-pods`, ports: [{ port: PORT_OF.headless, targetPort: PORT_OF.headless }] }),
    serviceEntry(name, SERVER_NAMESPACE, {
      hosts: [`${name}.entry.test`],
      addresses: [entryAddress(server, 4), entryAddress(server, 6)],
      ports: [{ number: 90, name: 'tcp', protocol: 'TCP', targetPort: PORT_OF['service-entry'] }],
      resolution: 'STATIC',
      location: 'MESH_INTERNAL',
      workloadSelector: { labels: { app: name } },
    }),
  ];
}

export function podKeys(): string[] {
  return [
    ...CLIENTS.filter(({ captured }) => captured).map(({ name, namespace }) => `${name}.${namespace}`),
    ...SERVERS.filter(({ captured }) => captured).map(({ name }) => `${name}.${SERVER_NAMESPACE}`),
  ];
}

function vip(server: Server, family: Family): string {
  const index = SERVERS.indexOf(server) + 1;
  return family === 4 ? `10.96.200.${index}` : `fd00:10:96::c80${index}`;
}

function entryAddress(server: Server, family: Family): string {
  const index = SERVERS.indexOf(server) + 1;
  return family === 4 ? `240.0.7.${index}` : `2001:2::7:${index}`;
}

export const SERVER_NAMESPACE = 'srv';
