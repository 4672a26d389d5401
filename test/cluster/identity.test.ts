import { createPrivateKey, generateKeyPairSync } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { StatusCode } from '../../src/grpc/status.js';
import { parseCertificate } from '../../src/identity/certificate.js';
import { issueIntermediate } from '../../src/identity/issue.js';
import { askForCertificate, caChannel } from '../support/ca-client.js';
import { signJwt } from '../support/jwt.js';
import { appPod, appService } from './harness/manifests.js';
import { meshCluster } from './harness/mesh.js';
import { forwardPorts } from './harness/port-forward.js';
import { until } from './harness/shell.js';
import { applyAndWait, clientIn, namespaceFor, type Sums } from './harness/tap-cluster.js';

/**
 * Who gets which certificates on a real cluster, by whom they are signed, and who knows whom to trust. About 50 s.
 */
t.setTimeout(600_000);
const cluster = await meshCluster();
const ownSkip = cluster.own === undefined ? 'needs machines of our own' : false;
const ROOT = await meshNamespace();
const [first = '', second = first] = await cluster.nodes();
const root = await ownRoot();
const AMBIENT = { 'istio.io/dataplane-mode': 'ambient' };
const PATIENT = { timeoutMs: 120_000 };
const refused = { code: StatusCode.UNAUTHENTICATED, message: 'request authenticate failure' };

t.test('a token counts for its audience, for its life, and for the life of its pod', async (t) => {
  const namespace = await namespaceFor(t, cluster);
  await applyAndWait(cluster, account(namespace, 'cart'), pod(namespace, 'cart', first));
  const name = `agent-${namespace}`;
  await applyAndWait(cluster, appPod({ namespace: ROOT, name, spec: agentSpec(first) }));
  t.teardown(() => remove('pod', ROOT, name));
  const identity = idOf(namespace, 'cart');
  const late = await tokenOf(ROOT, 'meltemi-agent', name);
  const good = await tokenOf(ROOT, 'meltemi-agent', name);
  const bad = {
    'for another audience': await tokenOf(ROOT, 'meltemi-agent', name, 'vault'),
    'bound to no pod': await tokenOf(ROOT, 'meltemi-agent', ''),
    ...(cluster.own === undefined
      ? {}
      : { expired: resigned(good, -7200), 'signed by somebody else': resigned(good, 0, strangersKey()) }),
  };
  for (const replica of await controlPlanes()) {
    await withCa(replica.name, async (ask) => {
      t.same(parseCertificate((await ask(good, identity))[0] ?? '').uriSans, [identity]);
      if (cluster.own !== undefined)
        await t.resolves(ask(resigned(good, 60), identity), 'what is wrong below is the time');
      for (const [what, token] of Object.entries(bad)) await t.rejects(ask(token, identity), refused, what);
    });
  }
  await remove('pod', ROOT, name);
  for (const replica of await controlPlanes()) {
    await withCa(replica.name, (ask) => t.rejects(ask(late, identity), refused, 'its pod is gone'));
  }
});

t.test('an agent gets the certificates of live pods on its own node; a pod gets its own', async (t) => {
  const namespace = await namespaceFor(t, cluster);
  const accounts = ['cart', 'db', 'idle'].map((name) => account(namespace, name));
  await applyAndWait(cluster, ...accounts, pod(namespace, 'cart', first), pod(namespace, 'db', second));
  const tokens = new Map<string, string>();
  for (const node of [first, second]) tokens.set(node, await tokenOf(ROOT, 'meltemi-agent', await agentOn(node)));
  const of = (node: string) => tokens.get(node) ?? '';
  const own = await tokenOf(namespace, 'cart', 'cart');
  const [cart, db, idle] = ['cart', 'db', 'idle'].map((name) => idOf(namespace, name)) as [string, string, string];
  const isOneNode = first === second;
  for (const replica of await controlPlanes()) {
    await withCa(replica.name, async (ask) => {
      await t.resolves(ask(of(first), cart));
      await t.resolves(ask(of(second), db));
      if (!isOneNode) await t.rejects(ask(of(first), db), refused, 'on another node');
      await t.rejects(ask(of(first), idle), refused, 'of no pod');
      await t.rejects(ask(own, db), refused, 'a pod for another');
      await t.resolves(ask(own, cart, ''), 'a pod for itself');
    });
  }
  if (isOneNode) return;
  await remove('pod', namespace, 'cart');
  await applyAndWait(cluster, pod(namespace, 'cart', second));
  for (const replica of await controlPlanes()) {
    await withCa(replica.name, async (ask) => {
      await t.resolves(ask(of(second), cart), 'where it is now');
      await until(
        'it is no longer where it was',
        () =>
          ask(of(first), cart).then(
            () => false,
            ({ code }) => code === refused.code,
          ),
        PATIENT,
      );
    });
  }
});

t.test('whom to trust is in every namespace and in a ClusterTrustBundle, whatever becomes of it', async (t) => {
  const bundle = await roots();
  const names = await cluster.kubectl([
    'get',
    'namespaces',
    '-o',
    'jsonpath={.items[?(@.status.phase=="Active")].metadata.name}',
  ]);
  for (const each of names.split(' ')) await has(each, bundle);
  const namespace = await namespaceFor(t, cluster);
  await has(namespace, bundle);
  await cluster.kubectl([
    'patch',
    'configmap',
    'istio-ca-root-cert',
    '-n',
    namespace,
    '--type=merge',
    '-p',
    '{"data":{"root-cert.pem":"EVIL"}}',
  ]);
  await has(namespace, bundle);
  await remove('configmap', namespace, 'istio-ca-root-cert');
  await has(namespace, bundle);

  t.equal(await roots(namespace), bundle);

  const kinds = await cluster.kubectl(['api-resources', '--api-group=certificates.k8s.io', '-o', 'name']);
  if (!kinds.includes('clustertrustbundles')) return;
  const object = ['clustertrustbundle', 'meltemi.io:ca:root-cert'];
  const told = () => cluster.kubectl(['get', ...object, '-o', 'jsonpath={.spec.trustBundle}']);
  await until('it is a ClusterTrustBundle', async () => (await told()) === bundle, PATIENT);
  await cluster.kubectl(['delete', ...object]);
  await until('it is one again', async () => (await told()) === bundle, PATIENT);
  t.equal(await told(), await roots());
});

t.test(
  'a certificate that is revoked is replaced on its node as soon as the lists are there',
  { skip: ownSkip },
  async (t) => {
    const namespace = await namespaceFor(t, cluster, AMBIENT);
    await applyAndWait(
      cluster,
      ...['web', 'caller'].map((name) => account(namespace, name)),
      pod(namespace, 'web', first),
      pod(namespace, 'caller', second),
      appService({ namespace, name: 'web' }),
    );
    const works = () =>
      until(
        'the caller reaches web',
        async () => (await clientIn(cluster, namespace, 'caller', ['--url', 'http://web/', '--count', '3'])).ok === 3,
        PATIENT,
      );
    await works();
    const serial = await serialOn(first, idOf(namespace, 'web'));
    await using control = await forwardPorts(cluster, ROOT, (await controlPlanes())[0]?.name ?? '', [15014]);
    const answer = await fetch(`http://${control.at(15014)}/ca/revoke?serial=${serial}`, { method: 'POST' });
    t.match(await answer.text(), serial);
    const path = 'jsonpath={.data.ca-crl\\.pem}';
    const before = await cluster.kubectl(['get', 'configmap', 'istio-ca-crl', '-n', ROOT, '-o', path]);
    t.match(before, /X509 CRL/);
    // A pod that changes has its mounts looked at; the others within a minute and a half.
    const touch = (value: string) =>
      cluster.kubectl([
        'annotate',
        'pod',
        '-n',
        ROOT,
        '-l',
        'app.kubernetes.io/name=meltemi-agent',
        value,
        '--overwrite',
      ]);
    await touch('test.meltemi.io/touched=1');
    await until('it has another', async () => (await serialOn(first, idOf(namespace, 'web'))) !== serial, PATIENT);
    await works();
    await touch('test.meltemi.io/touched-');
  },
);

t.test(
  'an intermediate CA that is plugged in, and the next one, sign at once; nobody restarts and traffic goes on',
  { skip: root === undefined ? 'another CA is plugged in' : false },
  async (t) => {
    if (root === undefined) return;
    const { namespace, check } = await startLoad(t);
    const before = await meshPods();
    const agents = await tokenOf(ROOT, 'meltemi-agent', await agentOn(first));
    const identity = idOf(namespace, 'default');
    const signsWith = async (pem: string) => {
      for (const { name } of await controlPlanes()) {
        await withCa(name, (ask) =>
          until(`${name} signs with it`, async () => (await ask(agents, identity))[1]?.trim() === pem.trim(), PATIENT),
        );
      }
    };
    const intermediate = (commonName: string) => {
      const { publicKey, privateKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
      const [notBefore, notAfter] = [new Date(Date.now() - 60_000), new Date(Date.now() + 86_400_000)];
      const { pem } = issueIntermediate(root, publicKey, { commonName, organization: 'test', notBefore, notAfter });
      const key = privateKey.export({ format: 'pem', type: 'pkcs8' }).toString();
      const stringData = {
        'ca-cert.pem': pem,
        'ca-key.pem': key,
        'cert-chain.pem': pem,
        'root-cert.pem': root.certificate.pem,
      };
      return {
        pem,
        secret: { apiVersion: 'v1', kind: 'Secret', metadata: { name: 'cacerts', namespace: ROOT }, stringData },
      };
    };
    let former = '';
    await withCa((await controlPlanes())[0]?.name ?? '', async (ask) => {
      former = (await ask(agents, identity))[1] ?? '';
    });
    t.teardown(async () => {
      await remove('secret', ROOT, 'cacerts');
      await cluster.kubectl(['rollout', 'restart', 'deployment/meltemi-control-plane', '-n', ROOT]);
      await rolledOut();
      await signsWith(former);
    });
    const bundle = await roots();
    for (const each of ['one', 'two']) {
      const { pem, secret } = intermediate(each);
      await applyAndWait(cluster, secret);
      await signsWith(pem);
      // Its certificate is by the new one, those of the others by a former one.
      await applyAndWait(cluster, account(namespace, each), pod(namespace, each, second));
      await until(
        `${each} and web know each other`,
        async () => (await clientIn(cluster, namespace, each, ['--url', 'http://web/', '--count', '5'])).ok === 5,
        PATIENT,
      );
    }
    await check(t);
    t.equal(await roots(), bundle, 'the root is the same');
    t.same(await meshPods(), before, 'nobody was restarted');
  },
);

t.test(
  'all control planes serve and one leads; another does when it is killed, and nobody notices',
  { skip: ownSkip },
  async (t) => {
    const { namespace, check } = await startLoad(t);
    const all = await controlPlanes();
    t.ok(all.length >= 2, `${all.length} control planes`);
    await until('one leads', async () => (await leading()).length === 1, PATIENT);
    const [leader = ''] = await leading();
    t.equal((await holder()).startsWith(`${leader}_`), true, 'the one that the Lease names');
    const on = all.find(({ name }) => name === leader)?.node ?? '';
    await cluster.exec(on, [
      'sh',
      '-c',
      `kill -KILL $(grep -lsaF POD_NAME=${leader} /proc/[0-9]*/environ | cut -d/ -f3)`,
    ]);
    await until('another leads', async () => (await leading()).some((name) => name !== leader), PATIENT);
    t.equal((await leading()).length, 1);
    const fresh = await namespaceFor(t, cluster);
    await has(fresh, await roots());
    await applyAndWait(cluster, account(namespace, 'late'), pod(namespace, 'late', first));
    await until(
      'a new pod takes part',
      async () => (await clientIn(cluster, namespace, 'late', ['--url', 'http://web/', '--count', '3'])).ok === 3,
      PATIENT,
    );
    await rolledOut();
    await check(t);
    t.same((await controlPlanes()).map(({ name }) => name).sort(), all.map(({ name }) => name).sort());
  },
);

/** New connections from one node to a service on the other, one after the other, until the end of the test. */
async function startLoad(t: Test) {
  const namespace = await namespaceFor(t, cluster, AMBIENT);
  const args = ['load', '--url', 'http://web/', '--rate', '20', '--parallel', '2'];
  const web = { namespace, name: 'web' };
  await applyAndWait(cluster, appPod({ ...web, spec: { nodeName: first } }), appService(web));
  await applyAndWait(cluster, appPod({ namespace, name: 'load', args, spec: { nodeName: second } }));
  const sums = async (): Promise<Sums> =>
    JSON.parse((await cluster.kubectl(['logs', '-n', namespace, 'load', '--tail=1'])) || '{"ok":0}');
  await until('there is traffic', async () => (await sums()).ok > 20, PATIENT);
  const { errors: early } = await sums();
  return {
    namespace,
    /** Nothing has failed since it began to flow, and it flows. */
    async check(t: Test): Promise<void> {
      const { ok: before } = await sums();
      await until('traffic goes on', async () => (await sums()).ok > before + 20, PATIENT);
      const { ok, errors } = await sums();
      t.same(errors, early, `${ok} connections`);
    },
  };
}

/** Runs `use` with a way to ask one control plane for a certificate, as an agent does. */
async function withCa(
  name: string,
  use: (
    ask: (token: string, identity: string, impersonated?: string) => Promise<readonly string[]>,
  ) => Promise<unknown>,
): Promise<void> {
  await using ports = await forwardPorts(cluster, ROOT, name, [15012]);
  const channel = caChannel({ address: ports.at(15012), rootCerts: await roots(), serverName: `meltemi.${ROOT}.svc` });
  try {
    await use((token, identity, impersonated) => askForCertificate(channel, token, identity, impersonated));
  } finally {
    channel.close();
  }
}

async function tokenOf(namespace: string, name: string, ofPod: string, audience = 'istio-ca'): Promise<string> {
  const bound = ofPod === '' ? [] : ['--bound-object-kind', 'Pod', '--bound-object-name', ofPod];
  if (ofPod !== '') {
    const uid = await cluster.kubectl(['get', 'pod', ofPod, '-n', namespace, '-o', 'jsonpath={.metadata.uid}']);
    bound.push('--bound-object-uid', uid);
  }
  return (await cluster.kubectl(['create', 'token', name, '-n', namespace, '--audience', audience, ...bound])).trim();
}

/** The same token as if it were made some seconds later (or earlier); by the cluster's own key where none is given. */
function resigned(token: string, seconds: number, key = clusterKey()): string {
  const [header = '', claims = ''] = token.split('.');
  const part = (text: string) => JSON.parse(Buffer.from(text, 'base64url').toString());
  const { iat, nbf, exp, ...rest } = part(claims);
  return signJwt(
    key,
    { ...rest, iat: iat + seconds, nbf: nbf + Math.min(seconds, 0), exp: exp + seconds },
    part(header),
  );
}

function clusterKey() {
  return createPrivateKey(readFileSync(join(cluster.own?.plan.credentials ?? '', 'service-accounts.key')));
}

function strangersKey() {
  return generateKeyPairSync('ec', { namedCurve: 'P-256' }).privateKey;
}

/** The root of the mesh's own CA with its key; undefined where the CA is somebody's. */
async function ownRoot() {
  const names = await cluster.kubectl(['get', 'secrets', '-n', ROOT, '-o', 'jsonpath={.items[*].metadata.name}']);
  if (names.split(' ').includes('cacerts')) return undefined;
  const path = 'jsonpath={.data.meltemi-ca\\.json}';
  const state = await cluster.kubectl(['get', 'secret', 'istio-ca-secret', '-n', ROOT, '-o', path]);
  const { root } = JSON.parse(Buffer.from(state, 'base64').toString()) as {
    root: { certificate: string; privateKey: string };
  };
  return { certificate: parseCertificate(root.certificate), privateKey: createPrivateKey(root.privateKey) };
}

/** Serial number of what the agent of a node has for an identity. */
async function serialOn(node: string, identity: string): Promise<string> {
  await using agent = await forwardPorts(cluster, ROOT, await agentOn(node), [15000]);
  const dump = (await (await fetch(`http://${agent.at(15000)}/config_dump`)).json()) as {
    certificates: { identity: string; serial: string }[];
  };
  const found = dump.certificates.find((each) => each.identity === identity);
  if (found === undefined) throw new Error(`the agent of ${node} has no certificate of ${identity}`);
  return found.serial;
}

async function roots(namespace = ROOT): Promise<string> {
  const path = 'jsonpath={.data.root-cert\\.pem}';
  return cluster.kubectl(['get', 'configmap', 'istio-ca-root-cert', '-n', namespace, '-o', path]);
}

async function has(namespace: string, bundle: string): Promise<void> {
  await until(`the roots are in ${namespace}`, async () => (await roots(namespace)) === bundle, PATIENT);
}

interface Found {
  readonly name: string;
  readonly node: string;
  readonly isReady: boolean;
  readonly restarts: number;
}

/** Those that stay. */
async function podsOf(app: string): Promise<readonly Found[]> {
  const text = await cluster.kubectl(['get', 'pods', '-n', ROOT, '-l', `app.kubernetes.io/name=${app}`, '-o', 'json']);
  const { items } = JSON.parse(text) as {
    items: {
      metadata: { name: string; deletionTimestamp?: string };
      spec: { nodeName: string };
      status: { containerStatuses?: { restartCount: number; ready: boolean }[] };
    }[];
  };
  return items
    .filter(({ metadata }) => metadata.deletionTimestamp === undefined)
    .map(({ metadata, spec, status }) => ({
      name: metadata.name,
      node: spec.nodeName,
      isReady: status.containerStatuses?.[0]?.ready ?? false,
      restarts: status.containerStatuses?.[0]?.restartCount ?? 0,
    }));
}

const controlPlanes = async () => (await podsOf('meltemi-control-plane')).filter(({ isReady }) => isReady);
/** With how often each has started. */
const meshPods = async () =>
  [...(await podsOf('meltemi-control-plane')), ...(await podsOf('meltemi-agent'))]
    .map(({ name, restarts }) => `${name} ${restarts}`)
    .sort();

async function agentOn(node: string): Promise<string> {
  return until(`there is an agent on ${node}`, async () => {
    return (await podsOf('meltemi-agent')).find((each) => each.node === node && each.isReady)?.name;
  });
}

/** Names of the control planes that say they lead. */
async function leading(): Promise<readonly string[]> {
  const found: string[] = [];
  for (const { name } of await controlPlanes()) {
    const metrics = await cluster.kubectl([
      'get',
      '--raw',
      `/api/v1/namespaces/${ROOT}/pods/${name}:15014/proxy/metrics`,
    ]);
    if (/^meltemi_leader 1$/m.test(metrics)) found.push(name);
  }
  return found;
}

function holder(): Promise<string> {
  return cluster.kubectl(['get', 'lease', 'meltemi-leader', '-n', ROOT, '-o', 'jsonpath={.spec.holderIdentity}']);
}

async function rolledOut(): Promise<void> {
  const args = ['rollout', 'status', 'deployment/meltemi-control-plane', '-n', ROOT, '--timeout=120s'];
  await cluster.kubectl(args, undefined, 130_000);
}

async function remove(kind: string, namespace: string, name: string): Promise<void> {
  await cluster.kubectl(['delete', kind, name, '-n', namespace, '--ignore-not-found', '--grace-period=1']);
}

function idOf(namespace: string, name: string): string {
  return `spiffe://cluster.local/ns/${namespace}/sa/${name}`;
}

function account(namespace: string, name: string): object {
  return { apiVersion: 'v1', kind: 'ServiceAccount', metadata: { namespace, name } };
}

/** With a service account of its name. */
function pod(namespace: string, name: string, nodeName: string): object {
  return appPod({ namespace, name, spec: { nodeName, serviceAccountName: name } });
}

function agentSpec(nodeName: string): object {
  return { nodeName, serviceAccountName: 'meltemi-agent', automountServiceAccountToken: false };
}

async function meshNamespace(): Promise<string> {
  const path = 'jsonpath={.items[?(@.metadata.name=="meltemi-agent")].metadata.namespace}';
  return (await cluster.kubectl(['get', 'daemonset', '-A', '-o', path])).trim();
}
