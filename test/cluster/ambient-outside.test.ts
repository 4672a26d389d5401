import t from 'tap';
import { AMBIENT, agentPods, captured, fieldOf, ipOf, MESH, peerAuthentication, podOn } from './harness/in-mesh.js';
import { appPod } from './harness/manifests.js';
import { meshCluster } from './harness/mesh.js';
import { until } from './harness/shell.js';
import { applyAndWait, awaitService, clientIn, namespaceFor } from './harness/tap-cluster.js';

/** What captured pods find outside of the mesh: the API server, the cloud's metadata server, agents' metrics. Some 15 s. */
t.setTimeout(300_000);
const cluster = await meshCluster();
const ownSkip = cluster.own === undefined ? 'needs machines of our own' : false;
const [first = '', second = first] = await cluster.nodes();
const METADATA = '169.254.169.254';

t.test('a captured pod speaks to the API server with its token, by name and by address', async (t) => {
  const namespace = await namespaceFor(t, cluster, AMBIENT);
  const path = 'jsonpath={.spec.template.spec.containers[0].image}';
  const image = await cluster.kubectl(['get', 'daemonset', '-n', MESH, 'meltemi-agent', '-o', path]);
  const command = ['/opt/meltemi/node_modules/node/bin/node', '-e', ASK];
  await cluster.kubectl(['apply', '-f', '-'], {
    apiVersion: 'v1',
    kind: 'List',
    items: [
      // Nothing of it has to do with who may speak to the pod itself.
      peerAuthentication(namespace, 'STRICT'),
      appPod({
        namespace,
        name: 'asks',
        args: [],
        container: { image, command },
        spec: { nodeName: first, restartPolicy: 'Never' },
      }),
    ],
  });
  await until(
    'it has asked',
    async () => ['Succeeded', 'Failed'].includes(await fieldOf(cluster, namespace, 'asks', '{.status.phase}')),
    { timeoutMs: 90_000 },
  );
  const said = await cluster.kubectl(['logs', '-n', namespace, 'asks']);
  t.same(said.trim().split('\n'), [
    'kubernetes.default.svc 200 v1',
    'address 200 v1',
    `kubernetes.default.svc 403 User "system:serviceaccount:${namespace}:default"`,
  ]);
});

t.test('the metadata server of a cloud sees the address of the pod that asks', { skip: ownSkip }, async (t) => {
  const namespace = await namespaceFor(t, cluster, AMBIENT);
  const address = ['address', `${METADATA}/32`, 'dev', 'lo'];
  await cluster.exec(first, ['ip', ...address.slice(0, 1), 'add', ...address.slice(1)]);
  t.teardown(() => cluster.exec(first, ['ip', ...address.slice(0, 1), 'delete', ...address.slice(1)]));
  const serve = [
    'serve',
    '--http',
    `${METADATA}:80`,
    '--lines',
    `${METADATA}:81`,
    '--greet',
    '',
    '--udp',
    `${METADATA}:82`,
  ];
  await applyAndWait(
    cluster,
    podOn(first, {
      namespace,
      name: 'metadata',
      args: serve,
      container: { readinessProbe: null },
      spec: { hostNetwork: true },
    }),
    podOn(first, { namespace, name: 'client' }),
  );
  await captured(cluster, namespace, 'client');
  await awaitService(cluster, namespace, 'client', `http://${METADATA}/latest/meta-data`);
  const ip = await ipOf(cluster, namespace, 'client');
  for (const args of [
    ['--url', `http://${METADATA}/latest/meta-data`],
    ['--tcp', `${METADATA}:81`],
    ['--udp', `${METADATA}:82`],
  ]) {
    const { errors, sources } = await clientIn(cluster, namespace, 'client', [...args, '--count', '3']);
    t.same({ errors, sources }, { errors: {}, sources: { [ip]: 3 } }, args.join(' '));
  }
});

t.test('agents are scraped from captured pods as from others, and nowhere on any other port', async (t) => {
  const namespace = await namespaceFor(t, cluster, AMBIENT);
  await applyAndWait(cluster, podOn(second, { namespace, name: 'scraper' }));
  await captured(cluster, namespace, 'scraper');
  const inScraper = (script: string) =>
    cluster.kubectl(['exec', '-n', namespace, 'scraper', '--', '/bin/sh', '-c', script]);
  for (const agent of await agentPods(cluster)) {
    const ip = await ipOf(cluster, MESH, agent);
    t.match(await inScraper(`wget -q -O - http://${ip}:15020/metrics`), /^istio_build\{component="/m, agent);
    t.match(await inScraper(`wget -q -O - http://${ip}:15000/config_dump || echo refused`), /^refused/);
  }
});

/** What the pod that asks runs: the API server by name and by address, and what it may not see. */
const ASK = `
const fs = require('node:fs'), https = require('node:https');
const at = '/var/run/secrets/kubernetes.io/serviceaccount/';
const headers = { authorization: 'Bearer ' + fs.readFileSync(at + 'token', 'utf8') };
const ask = (name, host, path) => new Promise((resolve, reject) => {
  https.get({ host, path, headers, ca: fs.readFileSync(at + 'ca.crt'), timeout: 20_000 }, (answer) => {
    let text = '';
    answer.on('data', (chunk) => { text += chunk; });
    answer.on('end', () => {
      console.log(name, answer.statusCode, /"gitVersion": "(v1)/.exec(text)?.[1] ?? /User .*?"[^"]*"/.exec(JSON.parse(text).message)?.[0]);
      resolve();
    });
  }).on('error', reject);
});
const name = 'kubernetes.default.svc';
ask(name, name, '/version')
  .then(() => ask('address', process.env.KUBERNETES_SERVICE_HOST, '/version'))
  .then(() => ask(name, name, '/api/v1/secrets'))
  .catch((error) => { console.log(error.message); process.exit(1); });
`;
