import t from 'tap';
import { serviceEntry } from '../support/manifests.js';
import {
  AMBIENT,
  accessRecords,
  authorizationPolicy,
  captured,
  clientsIn,
  ipOf,
  OUT,
  peerAuthentication,
  podOn,
} from './harness/in-mesh.js';
import { meshCluster } from './harness/mesh.js';
import { until } from './harness/shell.js';
import { applyAndWait, clientIn, namespaceFor, type Sums } from './harness/tap-cluster.js';

/** ServiceEntries: hosts that exist only in the mesh, over addresses, pods and WorkloadEntries. Some 20 s. */
t.setTimeout(300_000);
const cluster = await meshCluster();
const [first = '', second = first] = await cluster.nodes();
const namespace = await namespaceFor(t, cluster, AMBIENT);
const PORTS = [
  { name: 'http', number: 80, targetPort: 8080, protocol: 'HTTP' },
  { name: 'tcp', number: 9000, protocol: 'TCP' },
];

await applyAndWait(
  cluster,
  podOn(first, { namespace, name: 'client' }),
  podOn(second, { namespace, name: 'web-1', labels: { tier: 'web' } }),
  podOn(first, { namespace, name: 'web-2', labels: { tier: 'web' } }),
  podOn(second, { namespace, name: 'plain', labels: OUT }),
);
await captured(cluster, namespace, 'client', 'web-1', 'web-2');
const [web1 = '', web2 = '', plain = ''] = await Promise.all(
  ['web-1', 'web-2', 'plain'].map((name) => ipOf(cluster, namespace, name)),
);

for (const location of ['MESH_EXTERNAL', 'MESH_INTERNAL']) {
  t.test(`${location}: addresses written into the entry are its endpoints, whatever is there`, async (t) => {
    const host = `${location.toLowerCase().replace('_', '-')}.ambient.example`;
    const endpoints = [web1, plain].map((address) => ({ address }));
    await applyAndWait(cluster, entry('inline', { hosts: [host], location, resolution: 'STATIC', endpoints }));
    await answers(host, ['plain', 'web-1']);
    for (const args of [
      ['--url', `http://${host}/`],
      ['--tcp', `${host}:9000`],
    ]) {
      const { ok, pods, errors } = await clientIn(cluster, namespace, 'client', [...args, '--count', '30']);
      t.same({ ok, errors, pods: Object.keys(pods).sort() }, { ok: 30, errors: {}, pods: ['plain', 'web-1'] });
    }
    await remove('inline');
  });
}

t.test('an address that is a captured pod’s is reached by tunnel, so a STRICT pod lets it in', async (t) => {
  const host = 'strict.ambient.example';
  await applyAndWait(
    cluster,
    peerAuthentication(namespace, 'STRICT'),
    entry('strict', { hosts: [host], resolution: 'STATIC', endpoints: [{ address: web1 }, { address: web2 }] }),
  );
  t.teardown(() => cluster.kubectl(['delete', 'peerauthentication', '-n', namespace, '--all']));
  await answers(host, ['web-1', 'web-2']);
  const records = await until('it is logged', async () => {
    const found = (await accessRecords(cluster, namespace)).filter((each) => each['dst.service'] === host);
    return found.some(({ direction }) => direction === 'inbound') && found;
  });
  t.same(
    records.filter(({ direction }) => direction === 'inbound-plaintext'),
    [],
  );
  await remove('strict');
});

t.test('a selector picks pods and WorkloadEntries, which keep their identity and their policies', async (t) => {
  const host = 'selected.ambient.example';
  const workloadSelector = { labels: { tier: 'web' } };
  await applyAndWait(
    cluster,
    entry('selected', { hosts: [host], location: 'MESH_INTERNAL', resolution: 'STATIC', workloadSelector }),
    {
      apiVersion: 'networking.istio.io/v1',
      kind: 'WorkloadEntry',
      metadata: { name: 'machine', namespace, labels: { tier: 'web' } },
      spec: { address: plain, labels: { tier: 'web' } },
    },
  );
  await answers(host, ['plain', 'web-1', 'web-2']);
  const rules = [{ from: [{ source: { notNamespaces: [namespace] } }] }];
  const selector = { matchLabels: { tier: 'web' } };
  await applyAndWait(cluster, authorizationPolicy(namespace, { selector, rules }));
  t.teardown(() => cluster.kubectl(['delete', 'authorizationpolicy', '-n', namespace, '--all']));
  await until('pods refuse, and nobody stands before the machine', async () => {
    const { pods } = await clientIn(cluster, namespace, 'client', ['--url', `http://${host}/`, '--count', '20']);
    return Object.keys(pods).join() === 'plain';
  });
  await cluster.kubectl(['delete', 'authorizationpolicy', '-n', namespace, '--all']);
  await cluster.kubectl(['label', 'pod', '-n', namespace, 'web-2', 'tier-']);
  await answers(host, ['plain', 'web-1']);
  await remove('selected');
});

t.test('an entry has the address that it names, and its name goes with it', async (t) => {
  const host = 'fixed.ambient.example';
  const spec = { hosts: [host], addresses: ['240.250.7.7'], resolution: 'STATIC', endpoints: [{ address: web2 }] };
  await applyAndWait(cluster, entry('fixed', spec));
  await answers(host, ['web-2']);
  const resolve = () => cluster.kubectl(['exec', '-n', namespace, 'client', '--', '/bin/app', 'resolve', host]);
  t.same(JSON.parse(await resolve()), ['240.250.7.7']);
  t.equal((await clientIn(cluster, namespace, 'client', ['--tcp', '240.250.7.7:9000'])).ok, 1);
  await remove('fixed');
  await until('nobody knows it', () =>
    resolve().then(
      () => false,
      (error: Error) => error.message.includes('no such host'),
    ),
  );
  t.pass();
});

function entry(name: string, spec: object): object {
  return serviceEntry(name, namespace, { ports: PORTS, ...spec });
}

async function remove(name: string): Promise<void> {
  await cluster.kubectl(['delete', 'serviceentry', '-n', namespace, name]);
}

/** Waits until exactly these pods answer for a host. */
async function answers(host: string, wanted: readonly string[]): Promise<void> {
  let found: Sums | undefined;
  const run = ['--url', `http://${host}/`, '--count', '30', '--parallel', '2', '--timeout', '2s'];
  await until(`${wanted} answer for ${host}`, async () => {
    [found] = await clientsIn(cluster, namespace, 'client', [run]);
    return found?.ok === 30 && Object.keys(found.pods).sort().join() === wanted.join();
  }).catch((error: Error) => {
    throw new Error(`${error.message}: ${JSON.stringify(found)}`);
  });
}
