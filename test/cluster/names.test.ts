import t from 'tap';
import { serviceEntry } from '../support/manifests.js';
import { AMBIENT, accessRecords, agentMetric, captured, OUT, peerAuthentication, podOn } from './harness/in-mesh.js';
import { appService } from './harness/manifests.js';
import { meshCluster } from './harness/mesh.js';
import { until } from './harness/shell.js';
import { applyAndWait, clientIn, namespaceFor, type Sums } from './harness/tap-cluster.js';

/** Endpoints that are host names, which agents ask the cluster's own DNS for. Some 25 s. */
t.setTimeout(300_000);
const cluster = await meshCluster();
const [first = '', second = first] = await cluster.nodes();
const namespace = await namespaceFor(t, cluster, AMBIENT);
const FARM = `farm.${namespace}.svc.cluster.local`;
const PORTS = [{ name: 'http', number: 80, targetPort: 8080, protocol: 'HTTP' }];

await applyAndWait(
  cluster,
  headless('farm', { group: 'farm' }),
  podOn(first, { namespace, name: 'client' }),
  podOn(first, { namespace, name: 'barn-1', labels: { ...OUT, group: 'farm' } }),
  podOn(second, { namespace, name: 'barn-2', labels: { ...OUT, group: 'farm' } }),
  entry('by-name', { hosts: ['eggs.names.example'], resolution: 'DNS', endpoints: [{ address: FARM }] }),
  podOn(second, { namespace, name: 'home', labels: { at: 'home' } }),
  appService({ namespace, name: 'home' }),
  entry('alias', {
    hosts: ['home.names.example'],
    ports: [{ name: 'http', number: 80, protocol: 'HTTP' }],
    resolution: 'DNS',
    endpoints: [{ address: `home.${namespace}.svc.cluster.local` }],
  }),
  entry('of-none', { hosts: ['gone.names.example'], resolution: 'DNS' }),
  entry('selected', {
    hosts: ['milk.names.example'],
    resolution: 'STATIC',
    workloadSelector: { labels: { tier: 'machines' } },
  }),
  {
    apiVersion: 'networking.istio.io/v1',
    kind: 'WorkloadEntry',
    metadata: { name: 'machine', namespace, labels: { tier: 'machines' } },
    spec: { address: FARM, labels: { tier: 'machines' } },
  },
);
await captured(cluster, namespace, 'client', 'home');

t.test('what the cluster’s DNS says of a name are the endpoints of an entry', async (t) => {
  await answer('eggs.names.example', ['barn-1', 'barn-2']);
  await answer('milk.names.example', ['barn-1', 'barn-2']);
  t.ok((await agentMetric(cluster, 'istio_on_demand_dns_total{result="addresses"}')) > 0);
});

t.test('a name that leads to a Service of the mesh leads through its tunnels', async (t) => {
  await applyAndWait(cluster, peerAuthentication(namespace, 'STRICT'));
  await answer('home.names.example', ['home']);
  const inbound = await until('it is logged', async () => {
    return (await accessRecords(cluster, namespace)).find((each) => each.direction === 'inbound');
  });
  t.match(inbound['src.identity'], `spiffe://cluster.local/ns/${namespace}/sa/default`);
  await cluster.kubectl(['delete', 'peerauthentication', '-n', namespace, '--all']);
});

t.test('a name that nobody has is refused, and the record says so', async (t) => {
  const host = 'gone.names.example';
  const record = await until('it is logged', async () => {
    const { ok } = await ask(host, 1);
    t.equal(ok, 0);
    return (await accessRecords(cluster, namespace)).find((each) => each['dst.service'] === host);
  });
  t.match(record, { direction: 'outbound', because: 'name-unresolved' });
});

t.test('pods that come and go behind the name are followed', async () => {
  await cluster.kubectl(['label', 'pod', '-n', namespace, 'barn-1', 'group-']);
  await answer('eggs.names.example', ['barn-2']);
  await answer('milk.names.example', ['barn-2']);
});

/** Waits until exactly these pods answer for a host. */
async function answer(host: string, wanted: readonly string[]): Promise<void> {
  let found: Sums | undefined;
  await until(
    `${wanted} answer for ${host}`,
    async () => {
      found = await ask(host, 30);
      return found.ok === 30 && Object.keys(found.pods).sort().join() === wanted.join();
    },
    // CoreDNS and the agents each keep an answer for its time to live.
    { timeoutMs: 120_000, everyMs: 1000 },
  ).catch((error: Error) => {
    throw new Error(`${error.message}: ${JSON.stringify(found)}`);
  });
}

function ask(host: string, count: number): Promise<Sums> {
  const args = ['--url', `http://${host}/`, '--count', String(count), '--timeout', '5s'];
  return clientIn(cluster, namespace, 'client', args);
}

function headless(name: string, selector: Readonly<Record<string, string>>): object {
  return {
    apiVersion: 'v1',
    kind: 'Service',
    metadata: { name, namespace },
    spec: { clusterIP: 'None', selector, ports: [{ name: 'http', port: 8080 }] },
  };
}

function entry(name: string, spec: object): object {
  return serviceEntry(name, namespace, { ports: PORTS, ...spec });
}
