import t from 'tap';
import { artefacts } from './harness/artefacts.js';
import { appDeployment, appPod, appService } from './harness/manifests.js';
import { sh, until } from './harness/shell.js';
import { suiteCluster } from './harness/suite.js';
import { applyAndWait, awaitService, clientIn, namespaceFor } from './harness/tap-cluster.js';

/** What the other tests of this suite take for granted about the cluster they run on. */
t.setTimeout(480_000);
const cluster = await suiteCluster();
const machines = cluster.own === undefined ? 'needs machines of our own' : false;

t.test('a Deployment runs on both nodes and its Service answers from every pod', async (t) => {
  const namespace = await namespaceFor(t, cluster);
  await applyAndWait(
    cluster,
    appDeployment({ namespace, name: 'web', replicas: 4 }),
    appService({ namespace, name: 'web' }),
    appPod({ namespace, name: 'client' }),
  );
  const nodes = await cluster.kubectl([
    'get',
    'pods',
    '-n',
    namespace,
    '-l',
    'app=web',
    '-o',
    'jsonpath={.items[*].spec.nodeName}',
  ]);
  t.same([...new Set(nodes.split(' '))].sort(), [...(await cluster.nodes())].sort());

  await awaitService(cluster, namespace, 'client', 'http://web/');
  const sums = await clientIn(cluster, namespace, 'client', ['--url', 'http://web/', '--count', '100']);
  t.equal(sums.ok, 100);
  t.equal(Object.keys(sums.pods).length, 4);
  const address = await cluster.kubectl(['get', 'pod', 'client', '-n', namespace, '-o', 'jsonpath={.status.podIP}']);
  t.same(sums.sources, { [address]: 100 }, 'pods see the address of the pod that calls');

  for (const protocol of [
    ['--tcp', 'web:9000'],
    ['--greeting', 'web:9001'],
    ['--udp', 'web:9002'],
  ]) {
    t.equal((await clientIn(cluster, namespace, 'client', protocol)).ok, 1, protocol.join(' '));
  }
});

t.test('names of Services resolve, and names from elsewhere do not exist', async (t) => {
  const namespace = await namespaceFor(t, cluster);
  await applyAndWait(cluster, appPod({ namespace, name: 'client' }), appService({ namespace, name: 'web' }));
  const resolve = (name: string) => cluster.kubectl(['exec', '-n', namespace, 'client', '--', 'app', 'resolve', name]);
  const address = await cluster.kubectl(['get', 'service', 'web', '-n', namespace, '-o', 'jsonpath={.spec.clusterIP}']);
  for (const name of ['web', `web.${namespace}`, `web.${namespace}.svc.cluster.local`]) {
    t.same(JSON.parse(await resolve(name)), [address], name);
  }
  if (!machines) await t.rejects(resolve('example.com'), /no such host/);
});

t.test('a hostPort answers on the address of its node', { skip: machines }, async (t) => {
  const namespace = await namespaceFor(t, cluster);
  const [node] = cluster.own?.nodes ?? [];
  if (node === undefined) throw new Error('no node');
  const container = { ports: [{ containerPort: 8080, hostPort: 8088 }] };
  await applyAndWait(cluster, appPod({ namespace, name: 'web', container, spec: { nodeName: node.name } }));
  const { pod } = (await (await fetch(`http://${node.address}:8088/`)).json()) as { pod: string };
  t.equal(pod, 'web');
});

t.test('exec and logs reach a pod on every node', async (t) => {
  const namespace = await namespaceFor(t, cluster);
  for (const nodeName of await cluster.nodes()) {
    const name = `on-${nodeName}`;
    const container = { command: ['/bin/sh', '-c', 'echo started; exec sleep 1000'], readinessProbe: null };
    await applyAndWait(cluster, appPod({ namespace, name, container, spec: { nodeName } }));
    t.equal(await cluster.kubectl(['logs', '-n', namespace, name]), 'started\n');
    t.equal(await cluster.kubectl(['exec', '-n', namespace, name, '--', 'hostname']), `${name}\n`);
  }
});

t.test('the API server asks a webhook that runs in a pod', async (t) => {
  const namespace = await namespaceFor(t, cluster, { judged: 'yes' });
  const directory = t.testdir({});
  const { pki } = await artefacts();
  const leaf = {
    name: 'tls',
    authority: 'ca',
    commonName: 'webhook',
    organizations: [],
    names: [`webhook.${namespace}.svc`],
  };
  await sh([pki], { input: JSON.stringify({ directory, authorities: ['ca'], leaves: [leaf] }) });
  const tls = [
    'create',
    'secret',
    'tls',
    'tls',
    '-n',
    namespace,
    `--cert=${directory}/tls.crt`,
    `--key=${directory}/tls.key`,
  ];
  await cluster.kubectl(tls);
  await applyAndWait(
    cluster,
    appPod({
      namespace,
      name: 'webhook',
      args: ['admit'],
      container: { volumeMounts: [{ name: 'tls', mountPath: '/tls' }], readinessProbe: { tcpSocket: { port: 8443 } } },
      spec: { volumes: [{ name: 'tls', secret: { secretName: 'tls' } }] },
    }),
    {
      apiVersion: 'v1',
      kind: 'Service',
      metadata: { name: 'webhook', namespace },
      spec: { selector: { app: 'webhook' }, ports: [{ port: 443, targetPort: 8443 }] },
    },
  );
  const authority = (await sh(['base64', '-w0', `${directory}/ca.crt`])).trim();
  t.teardown(() => cluster.kubectl(['delete', 'validatingwebhookconfiguration', namespace]));
  await cluster.kubectl(['create', '-f', '-'], {
    apiVersion: 'admissionregistration.k8s.io/v1',
    kind: 'ValidatingWebhookConfiguration',
    metadata: { name: namespace },
    webhooks: [
      {
        name: 'refuse.example.com',
        clientConfig: { service: { namespace, name: 'webhook' }, caBundle: authority },
        namespaceSelector: { matchLabels: { 'kubernetes.io/metadata.name': namespace } },
        rules: [{ apiGroups: [''], apiVersions: ['v1'], resources: ['configmaps'], operations: ['CREATE'] }],
        admissionReviewVersions: ['v1'],
        sideEffects: 'None',
      },
    ],
  });
  const map = (name: string, refuse: string) => ({
    apiVersion: 'v1',
    kind: 'ConfigMap',
    metadata: { name, namespace, labels: { refuse } },
  });
  await until('the webhook is asked', () =>
    cluster.kubectl(['create', '--dry-run=server', '-f', '-'], map('bad', 'yes')).then(
      () => false,
      (error: Error) => error.message.includes('refused by the webhook in webhook'),
    ),
  );
  await t.resolves(cluster.kubectl(['create', '-f', '-'], map('good', 'no')));
});

t.test('the tokens of pods are bound to them and have the audience that was asked for', async (t) => {
  const namespace = await namespaceFor(t, cluster);
  const projection = { serviceAccountToken: { audience: 'istio-ca', path: 'token', expirationSeconds: 600 } };
  await applyAndWait(
    cluster,
    appPod({
      namespace,
      name: 'holder',
      container: { volumeMounts: [{ name: 'token', mountPath: '/token' }] },
      spec: { volumes: [{ name: 'token', projected: { sources: [projection] } }] },
    }),
  );
  const token = await cluster.kubectl(['exec', '-n', namespace, 'holder', '--', 'cat', '/token/token']);
  const review = {
    apiVersion: 'authentication.k8s.io/v1',
    kind: 'TokenReview',
    metadata: {},
    spec: { token, audiences: ['istio-ca'] },
  };
  const { status } = JSON.parse(await cluster.kubectl(['create', '-o', 'json', '-f', '-'], review)) as {
    status: { authenticated: boolean; user: { username: string; extra: Record<string, string[]> } };
  };
  t.equal(status.authenticated, true);
  t.equal(status.user.username, `system:serviceaccount:${namespace}:default`);
  t.same(status.user.extra['authentication.kubernetes.io/pod-name'], ['holder']);
});

t.test('what a pod mounts on the host under a shared directory is seen by the node', { skip: machines }, async (t) => {
  const namespace = await namespaceFor(t, cluster);
  const [node] = cluster.own?.nodes ?? [];
  if (node === undefined) throw new Error('no node');
  const mounting =
    'mkdir -p /shared/inner && mount -t tmpfs tmpfs /shared/inner && touch /shared/inner/seen && sleep 1000';
  await applyAndWait(
    cluster,
    appPod({
      namespace,
      name: 'mounter',
      container: {
        command: ['/bin/sh', '-c', mounting],
        readinessProbe: { exec: { command: ['test', '-e', '/shared/inner/seen'] }, periodSeconds: 1 },
        securityContext: { privileged: true },
        volumeMounts: [{ name: 'shared', mountPath: '/shared', mountPropagation: 'Bidirectional' }],
      },
      spec: {
        hostPID: true,
        nodeName: node.name,
        volumes: [{ name: 'shared', hostPath: { path: '/run/shared', type: 'DirectoryOrCreate' } }],
      },
    }),
  );
  t.match(await node.exec(['cat', '/proc/self/mountinfo']), /\/run\/shared\/inner/);
  const netns = (pid: string) => ['readlink', `/proc/${pid}/ns/net`];
  const ofInit = await cluster.kubectl(['exec', '-n', namespace, 'mounter', '--', ...netns('1')]);
  t.equal(ofInit, await node.exec(netns('self')), 'process 1 is in the network namespace of the node');
});
