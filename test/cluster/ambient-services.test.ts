import t from 'tap';
import { AMBIENT, accessRecords, captured, clientsIn, ipOf, OUT, podOn } from './harness/in-mesh.js';
import { appService } from './harness/manifests.js';
import { meshCluster } from './harness/mesh.js';
import { until } from './harness/shell.js';
import { applyAndWait, awaitService, clientIn, namespaceFor } from './harness/tap-cluster.js';

/**
 * Who reaches whom by what: every pair of captured and uncaptured pods, on one node and across nodes, by Service, by
 * headless name and by address, and what of it goes through tunnels. Some 20 s.
 */
t.setTimeout(300_000);
const cluster = await meshCluster();
const [first = '', second = first] = await cluster.nodes();
const namespace = await namespaceFor(t, cluster, AMBIENT);

interface Who {
  readonly name: string;
  readonly node: string;
  readonly captured: boolean;
}

const CLIENTS: readonly Who[] = [
  { name: 'captured', node: first, captured: true },
  { name: 'plain', node: first, captured: false },
];
const SERVERS: readonly Who[] = [
  { name: 'captured-near', node: first, captured: true },
  { name: 'captured-far', node: second, captured: true },
  { name: 'plain-near', node: first, captured: false },
  { name: 'plain-far', node: second, captured: false },
];
/** By what a server is called, and what the client is told then. */
const WAYS: readonly (readonly [string, (name: string, ip: string) => readonly string[]])[] = [
  ['HTTP by Service', (name) => ['--url', `http://${name}/`]],
  ['lines by Service', (name) => ['--tcp', `${name}:9000`]],
  ['a server that speaks first, by Service', (name) => ['--greeting', `${name}:9001`]],
  ['datagrams by Service', (name) => ['--udp', `${name}:9002`]],
  ['HTTP by headless name', (name) => ['--url', `http://${name}-headless:8080/`]],
  ['HTTP by pod address', (_, ip) => ['--url', `http://${ip}:8080/`]],
];
const COUNT = 3;

await applyAndWait(
  cluster,
  ...SERVERS.flatMap(({ name }) => [appService({ namespace, name }), headless(name)]),
  service('both', { tier: 'captured' }),
  ...[...CLIENTS, ...SERVERS].map(({ name, node, captured }) =>
    podOn(node, { namespace, name, labels: captured ? { tier: name === 'captured' ? 'client' : 'captured' } : OUT }),
  ),
);
await captured(cluster, namespace, ...[...CLIENTS, ...SERVERS].filter((each) => each.captured).map(({ name }) => name));
for (const { name } of SERVERS) await awaitService(cluster, namespace, 'plain', `http://${name}/`);
await awaitService(cluster, namespace, 'captured', 'http://both/');

t.test('everybody reaches everybody, by whatever they call it, under their own address', async (t) => {
  const ips = new Map<string, string>();
  for (const { name } of [...CLIENTS, ...SERVERS]) ips.set(name, await ipOf(cluster, namespace, name));
  const cells = SERVERS.flatMap((server) => WAYS.map(([way, args]) => ({ server, way, args })));
  for (const client of CLIENTS) {
    const runs = cells.map(({ server, args }) => [
      ...args(server.name, ips.get(server.name) ?? ''),
      ...['--count', String(COUNT), '--timeout', '10s'],
    ]);
    const sums = await clientsIn(cluster, namespace, client.name, runs);
    for (const [at, { server, way }] of cells.entries()) {
      const { pods, sources, errors } = sums[at] ?? { pods: {}, sources: {}, errors: {} };
      t.same(
        { pods, sources, errors },
        { pods: { [server.name]: COUNT }, sources: { [ips.get(client.name) ?? '']: COUNT }, errors: {} },
        `${client.name} to ${server.name}: ${way}`,
      );
    }
  }
});

t.test('between captured pods there are tunnels only, and to or from others there are none', async (t) => {
  const wanted = WAYS.filter(([way]) => !way.startsWith('datagrams')).length * COUNT;
  for (const client of CLIENTS) {
    for (const server of SERVERS.filter((each) => each.captured || client.captured)) {
      const kind = !server.captured ? 'outbound' : client.captured ? 'inbound' : 'inbound-plaintext';
      // Told at the end of a connection, some moments after the client had its answer.
      const records = await until(`${client.name} to ${server.name} is logged`, async () => {
        const all = (await accessRecords(cluster, namespace)).filter(
          (each) => each['src.workload'] === client.name && each['dst.workload'] === server.name,
        );
        return all.filter(({ direction }) => direction === kind).length >= wanted && all;
      });
      const name = `${client.name} to ${server.name}`;
      const tunnelled = client.captured && server.captured;
      const kinds = new Set(records.map(({ direction }) => direction));
      t.same([...kinds].sort(), tunnelled ? ['inbound', 'outbound'] : [kind], name);
      t.ok(
        records.every((each) => (each['dst.hbone_addr'] !== undefined) === tunnelled),
        `${name}: through tunnels is ${tunnelled}`,
      );
      t.ok(
        records.every((each) => each.direction !== 'inbound' || each['src.identity'] === identity()),
        `${name}: the server's side knows who called`,
      );
    }
  }
});

t.test('new connections are spread over the pods of a Service, and one connection stays where it is', async (t) => {
  for (const client of CLIENTS) {
    const [spread, kept] = await clientsIn(cluster, namespace, client.name, [
      ['--url', 'http://both/', '--count', '40'],
      ['--url', 'http://both/', '--count', '40', '--reuse'],
    ]);
    t.same(Object.keys(spread?.pods ?? {}).sort(), ['captured-far', 'captured-near'], `${client.name}: spread`);
    t.equal(spread?.ok, 40);
    t.equal(Object.keys(kept?.pods ?? {}).length, 1, `${client.name}: kept`);
    t.equal(kept?.ok, 40);
  }
});

t.test('a captured pod reaches itself, by its own address, by its Service and on loopback', async (t) => {
  const ip = await ipOf(cluster, namespace, 'captured-near');
  // The bare name is the pod’s own in its /etc/hosts.
  for (const url of [`http://${ip}:8080/`, `http://captured-near.${namespace}/`, 'http://127.0.0.1:8080/']) {
    const { pods, errors } = await clientIn(cluster, namespace, 'captured-near', ['--url', url, '--count', '3']);
    t.same({ pods, errors }, { pods: { 'captured-near': 3 }, errors: {} }, url);
  }
});

function service(name: string, selector: object): object {
  const base = appService({ namespace, name }) as { spec: object };
  return { ...base, spec: { ...base.spec, selector } };
}

function headless(name: string): object {
  const base = service(`${name}-headless`, { app: name }) as { spec: object };
  return { ...base, spec: { ...base.spec, clusterIP: 'None', ports: [{ name: 'http', port: 8080 }] } };
}

function identity(): string {
  return `spiffe://cluster.local/ns/${namespace}/sa/default`;
}
