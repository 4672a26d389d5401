import { generateKeyPairSync } from 'node:crypto';
import t from 'tap';
import { ADDRESS_TYPE } from '../../../src/control/push/push.js';
import { StatusCode } from '../../../src/grpc/status.js';
import { type Certificate, chainsTo, parseCertificate } from '../../../src/identity/certificate.js';
import { parseCrl } from '../../../src/identity/crl.js';
import { issueIntermediate, issueRoot } from '../../../src/identity/issue.js';
import { splitPem } from '../../../src/identity/pem.js';
import { RESOURCES } from '../../../src/kube/resources.js';
import { connectAds } from '../../../src/xds/client.js';
import { startApiServer } from '../../support/api-server.js';
import { askForCertificate, caChannel } from '../../support/ca-client.js';
import { Replica, until } from '../../support/replicas.js';

/** Three control planes as processes before a real API server: one mesh. */
const server = await startApiServer({
  args: [
    '--feature-gates=ClusterTrustBundle=true',
    '--runtime-config=certificates.k8s.io/v1beta1/clustertrustbundles=true',
  ],
});
t.setTimeout(600_000);
const api = server.api();
const directory = t.testdir({});
const replicas = ['a', 'b', 'c'].map((name) => new Replica(name, server, directory));
t.teardown(async () => {
  await Promise.all(replicas.map((each) => each.stop('SIGKILL')));
  api.close();
  await server.close();
});

const ROOT = 'istio-system';
const CART = 'spiffe://cluster.local/ns/shop/sa/cart';
const DB = 'spiffe://cluster.local/ns/shop/sa/db';
const AGENT = { namespace: ROOT, name: 'meltemi-agent' };

const secretText = async (name: string, key: string): Promise<string> => {
  const secret = await api.get(RESOURCES.Secret, { namespace: ROOT, name });
  return Buffer.from((secret?.data as Record<string, string> | undefined)?.[key] ?? '', 'base64').toString();
};
const configMap = async (namespace: string, name: string, key: string): Promise<string | undefined> =>
  ((await api.get(RESOURCES.ConfigMap, { namespace, name }))?.data as Record<string, string> | undefined)?.[key];
const roots = (namespace: string) => configMap(namespace, 'istio-ca-root-cert', 'root-cert.pem');

let pods = 0;
async function pod(namespace: string, name: string, account: string, nodeName: string) {
  const made = await api.create(RESOURCES.Pod, {
    apiVersion: 'v1',
    kind: 'Pod',
    metadata: { namespace, name },
    spec: { nodeName, serviceAccountName: account, containers: [{ name: 'c', image: 'none' }] },
  });
  const podIP = `10.1.0.${++pods}`;
  const status = { phase: 'Running', podIP, podIPs: [{ ip: podIP }] };
  await api.patch(RESOURCES.Pod, { namespace, name }, { status }, { subresource: 'status' });
  return { apiVersion: 'v1', kind: 'Pod', name, uid: made.metadata.uid };
}

async function tokenOf(account: { namespace: string; name: string }, spec: object): Promise<string> {
  const answer = await api.create(
    RESOURCES.ServiceAccount,
    { apiVersion: 'authentication.k8s.io/v1', kind: 'TokenRequest', metadata: account, spec },
    { subresource: 'token' },
  );
  return (answer.status as { token: string }).token;
}

/** As an agent asks. Resolves with the chain, the bundle last. */
async function ask(replica: Replica, token: string, identity: string): Promise<readonly string[]> {
  const bundle = await secretText('istio-ca-secret', 'root-cert.pem');
  const rootCerts = (await secretText('cacerts', 'root-cert.pem')) + bundle;
  const channel = caChannel({ address: `127.0.0.1:${replica.port}`, rootCerts });
  try {
    return await askForCertificate(channel, token, identity);
  } finally {
    channel.close();
  }
}

function isTrusted(chain: readonly string[], bundle: string): boolean {
  const [leaf, ...above] = chain.slice(0, -1).map((pem) => parseCertificate(pem));
  const trusted = splitPem('CERTIFICATE', bundle).map((pem) => parseCertificate(pem));
  return chainsTo(leaf as Certificate, above, trusted, new Date());
}

const leaders = async (): Promise<Replica[]> => {
  const leading = await Promise.all(replicas.map((each) => each.leads()));
  return replicas.filter((_, index) => leading[index]);
};
const refused = { code: StatusCode.UNAUTHENTICATED, message: 'request authenticate failure' };

for (const name of [ROOT, 'shop']) await api.create(RESOURCES.Namespace, { metadata: { name } });
for (const each of [AGENT, { namespace: 'shop', name: 'cart' }, { namespace: 'shop', name: 'db' }]) {
  await api.create(RESOURCES.ServiceAccount, { metadata: each });
}
for (const name of ['node-1', 'node-2']) {
  await api.create(RESOURCES.Node, { apiVersion: 'v1', kind: 'Node', metadata: { name } });
}
const boundObjectRef: object = await pod(ROOT, 'agent-1', 'meltemi-agent', 'node-1');
const token = await tokenOf(AGENT, { audiences: ['istio-ca'], boundObjectRef });
await pod('shop', 'cart-1', 'cart', 'node-1');
await pod('shop', 'db-1', 'db', 'node-2');
await Promise.all(replicas.map((each) => each.start()));

t.test('replicas that start together make one root, and one of them leads', async (t) => {
  await until('somebody leads', async () => (await leaders()).length === 1);
  const issuers = await Promise.all(
    replicas.map(async (each) => (JSON.parse(await each.get('/ca')) as { roots: unknown }).roots),
  );
  t.same(issuers[1], issuers[0]);
  t.same(issuers[2], issuers[0]);
});

t.test('an agent gets the certificates of its node’s pods from any replica, and any bundle trusts them', async (t) => {
  const bundle = await secretText('istio-ca-secret', 'root-cert.pem');
  for (const replica of replicas) {
    const chain = await ask(replica, token, CART);
    t.same(parseCertificate(chain[0] ?? '').uriSans, [CART]);
    t.ok(isTrusted(chain, bundle));
    t.equal(chain.at(-1), bundle);
  }
});

t.test('nobody gets the identity of a pod on another node, nor with a token that proves too little', async (t) => {
  const bad = {
    'bound to no pod': await tokenOf(AGENT, { audiences: ['istio-ca'] }),
    'for another audience': await tokenOf(AGENT, { audiences: ['vault'], boundObjectRef }),
    'for the API server': await tokenOf(AGENT, { boundObjectRef }),
    'of another account': await tokenOf(
      { namespace: 'shop', name: 'cart' },
      { audiences: ['istio-ca'], boundObjectRef: await pod('shop', 'cart-2', 'cart', 'node-1') },
    ),
    forged: `${token.slice(0, -6)}AAAAAA`,
  };
  for (const replica of replicas) {
    await t.rejects(ask(replica, token, DB), refused);
    for (const [what, each] of Object.entries(bad)) await t.rejects(ask(replica, each, CART), refused, what);
  }
  const log = replicas.map((each) => each.log).join('\n');
  for (const reason of [
    /no live pod on node node-1 has the identity .*db/,
    /bound to no pod on a node/,
    /is no node agent/,
  ]) {
    t.match(log, reason);
  }
  for (const each of [token, ...Object.values(bad)]) t.notOk(log.includes(each.slice(-20)), 'no token in a log');
});

t.test('the agent of a pod that was scheduled a moment ago is not refused, nor served when it has ended', async (t) => {
  for (let index = 0; index < 10; index++) {
    const name = `fresh-${index}`;
    await api.create(RESOURCES.ServiceAccount, { metadata: { namespace: 'shop', name } });
    await pod('shop', name, name, 'node-1');
    const identity = `spiffe://cluster.local/ns/shop/sa/${name}`;
    // At once: whether the watch has told of it or not.
    await Promise.all(replicas.map((each) => t.resolves(ask(each, token, identity))));
    if (index > 2) continue;
    await api.patch(
      RESOURCES.Pod,
      { namespace: 'shop', name },
      { status: { phase: 'Succeeded' } },
      { subresource: 'status' },
    );
    await until(
      'its end is known',
      async () => (await ask(replicas[0] as Replica, token, identity).catch(() => [])).length === 0,
    );
    for (const each of replicas) {
      await until(
        `${each.name} refuses it`,
        async () => (await ask(each, token, identity).catch(() => [])).length === 0,
      );
    }
  }
});

t.test('a token dies with its pod', async (t) => {
  const mortal = await pod(ROOT, 'agent-2', 'meltemi-agent', 'node-1');
  const its = await tokenOf(AGENT, { audiences: ['istio-ca'], boundObjectRef: mortal });
  await t.resolves(ask(replicas[1] as Replica, its, CART));
  await api.delete(RESOURCES.Pod, { namespace: ROOT, name: 'agent-2' }, { gracePeriodSeconds: 0 });
  // The API server itself remembers tokens for 10 s, and we for 30.
  for (const each of replicas) {
    const isRefused = () =>
      ask(each, its, CART).then(
        () => false,
        ({ code }) => code === StatusCode.UNAUTHENTICATED,
      );
    await until(`${each.name} refuses it`, isRefused);
  }
});

t.test('every replica tells agents the same mesh', async (t) => {
  const rootCerts = await secretText('istio-ca-secret', 'root-cert.pem');
  const told = await Promise.all(
    replicas.map(async (replica) => {
      const first = Promise.withResolvers<Map<string, string>>();
      const client = connectAds({
        address: `127.0.0.1:${replica.port}`,
        serverName: 'meltemi.istio-system.svc',
        rootCerts: async () => rootCerts,
        headers: async () => ({ authorization: `Bearer ${token}` }),
        node: { id: 'node-1' },
        types: [
          {
            typeUrl: ADDRESS_TYPE,
            mode: 'wildcard',
            onUpdate({ changed }) {
              first.resolve(new Map(changed.map(({ name, bytes }) => [name, Buffer.from(bytes).toString('hex')])));
              return [];
            },
          },
        ],
      });
      try {
        return await first.promise;
      } finally {
        client.close();
      }
    }),
  );
  t.ok((told[0]?.size ?? 0) > 2);
  t.same(told[1], told[0]);
  t.same(told[2], told[0]);
});

t.test('the roots are in every namespace and in a ClusterTrustBundle', async (t) => {
  const bundle = await secretText('istio-ca-secret', 'root-cert.pem');
  for (const namespace of [ROOT, 'shop', 'default', 'kube-system']) {
    await until(`the roots are in ${namespace}`, async () => (await roots(namespace)) === bundle);
  }
  await api.create(RESOURCES.Namespace, { metadata: { name: 'new' } });
  const begin = Date.now();
  await until('they are in a new one', async () => (await roots('new')) === bundle);
  t.comment(`a new namespace had them after ${Date.now() - begin} ms`);
  await api.patch(
    RESOURCES.ConfigMap,
    { namespace: 'new', name: 'istio-ca-root-cert' },
    { data: { 'root-cert.pem': 'EVIL' } },
  );
  await until('they are put right', async () => (await roots('new')) === bundle);
  await api.delete(RESOURCES.ConfigMap, { namespace: 'shop', name: 'istio-ca-root-cert' });
  await until('they are put back', async () => (await roots('shop')) === bundle);
  const trust = async () => (await api.get(RESOURCES.ClusterTrustBundle, { name: 'meltemi.io:ca:root-cert' }))?.spec;
  await until('there is a ClusterTrustBundle', async () => (await trust()) !== undefined);
  t.same(await trust(), { signerName: 'meltemi.io/ca', trustBundle: bundle });
});

t.test('what is revoked at one replica is on the lists of all, and beside the agents', async (t) => {
  const [leaf = ''] = await ask(replicas[2] as Replica, token, CART);
  const { serial } = parseCertificate(leaf);
  await replicas[0]?.get(`/ca/revoke?serial=${serial}`, 'POST');
  for (const each of replicas) {
    await until(`${each.name} knows`, async () => (await each.get('/ca')).includes(serial));
  }
  await until('agents can read it', async () => (await configMap(ROOT, 'istio-ca-crl', 'ca-crl.pem')) !== '');
  const lists = splitPem('X509 CRL', (await configMap(ROOT, 'istio-ca-crl', 'ca-crl.pem')) ?? '');
  t.equal(lists.length, 2);
  for (const list of lists) t.ok(parseCrl(list));
});

t.test('a leader that is killed is replaced, and so is one that is stopped', async (t) => {
  for (const signal of ['SIGKILL', 'SIGTERM'] as const) {
    const [leader] = await leaders();
    if (leader === undefined) throw new Error('nobody leads');
    await leader.stop(signal);
    const begin = Date.now();
    await api.delete(RESOURCES.ConfigMap, { namespace: 'shop', name: 'istio-ca-root-cert' });
    await until('another leads', async () => (await leaders()).length === 1);
    t.comment(`${signal}: another led after ${Date.now() - begin} ms`);
    await until('it writes', async () => (await roots('shop')) !== undefined);
    await leader.start();
    t.equal((await leaders()).length, 1);
  }
});

t.test('while the API server is away certificates are signed, nobody leads, and nobody is refused', async (t) => {
  const fresh = await tokenOf(AGENT, { audiences: ['istio-ca'], boundObjectRef });
  for (const each of replicas) await ask(each, token, CART);
  const rootCerts = await secretText('istio-ca-secret', 'root-cert.pem');
  await server.stop();
  const channel = caChannel({ address: `127.0.0.1:${replicas[0]?.port}`, rootCerts });
  const request = (bearer: string) => askForCertificate(channel, bearer, CART);
  await t.resolves(request(token), 'known a moment ago');
  await t.rejects(request(fresh), { code: StatusCode.UNAVAILABLE });
  await until('nobody leads', async () => (await leaders()).length === 0);
  await server.start();
  await until('somebody leads', async () => (await leaders()).length === 1);
  await until('tokens are judged again', () =>
    request(fresh).then(
      () => true,
      () => false,
    ),
  );
  channel.close();
});

t.test('a rotation of the root goes through all replicas, whoever is asked for a step', async (t) => {
  const old = await secretText('istio-ca-secret', 'root-cert.pem');
  const steps = ['phase=add', 'phase=sign&force=true', 'phase=drop&force=true'];
  for (const [index, step] of steps.entries()) {
    const before = await secretText('istio-ca-secret', 'root-cert.pem');
    const answer = await (replicas[index] as Replica).get(`/ca/rotate?${step}`, 'POST');
    t.match(answer, /"phase"/, step);
    const bundle = await secretText('istio-ca-secret', 'root-cert.pem');
    t.not(bundle, before);
    await until(
      'the roots are everywhere',
      async () => (await roots('shop')) === bundle && (await roots('new')) === bundle,
    );
    for (const each of replicas) {
      await until(`${each.name} knows`, async () => {
        const { roots: known } = JSON.parse(await each.get('/ca')) as { roots: unknown[] };
        return known.length === splitPem('CERTIFICATE', bundle).length;
      });
      t.ok(isTrusted(await ask(each, token, CART), bundle));
    }
  }
  t.notOk(isTrusted(await ask(replicas[0] as Replica, token, CART), old));
});

t.test('a CA that an operator plugs in signs at once at every replica, and so does the next', async () => {
  const keys = generateKeyPairSync('ec', { namedCurve: 'P-384' });
  const nowMs = Date.now();
  const input = (commonName: string) => ({
    commonName,
    organization: 'acme',
    notBefore: new Date(nowMs - 60_000),
    notAfter: new Date(nowMs + 86_400_000),
  });
  const root = { privateKey: keys.privateKey, certificate: issueRoot(keys.privateKey, input('root')) };
  const intermediate = (name: string) => {
    const { publicKey, privateKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
    const { pem } = issueIntermediate(root, publicKey, input(name));
    const files = {
      'ca-cert.pem': pem,
      'ca-key.pem': privateKey.export({ format: 'pem', type: 'pkcs8' }).toString(),
      'cert-chain.pem': pem,
      'root-cert.pem': root.certificate.pem,
    };
    return { pem, stringData: files };
  };
  const [first, second] = [intermediate('one'), intermediate('two')];
  const metadata = { namespace: ROOT, name: 'cacerts' };
  await api.create(RESOURCES.Secret, { metadata, stringData: first.stringData });
  const signsWith = async (pem: string) => {
    for (const each of replicas) {
      await until(`${each.name} signs with it`, async () => {
        const chain = await ask(each, token, CART).catch(() => []);
        return chain[1] === pem;
      });
    }
  };
  await signsWith(first.pem);
  await until('both roots are trusted', async () => splitPem('CERTIFICATE', (await roots('shop')) ?? '').length === 2);
  await api.patch(RESOURCES.Secret, metadata, { stringData: second.stringData });
  await signsWith(second.pem);
  await api.patch(RESOURCES.Secret, metadata, { stringData: { 'ca-key.pem': first.stringData['ca-key.pem'] } });
  for (const each of replicas) {
    await until(`${each.name} says so`, async () => (await each.get('/ca')).includes('not the key of ca-cert.pem'));
  }
  await signsWith(second.pem);
  await api.delete(RESOURCES.Secret, { namespace: ROOT, name: 'istio-ca-secret' });
  await until('one root is trusted', async () => (await roots('shop')) === root.certificate.pem);
});

t.test('no key shows on a page or in a log', async (t) => {
  const keys = [
    await secretText('cacerts', 'ca-key.pem'),
    await secretText('meltemi-ca-revocations', 'revocations.json'),
  ]
    .flatMap((text) => [...text.matchAll(/PRIVATE KEY-----([\s\S]+?)-----END/g)])
    .flatMap(([, body = '']) => body.match(/[A-Za-z0-9+/]{40,}/g) ?? []);
  t.ok(keys.length > 2);
  for (const each of replicas) {
    const pages = await Promise.all(
      ['/ca', '/debug/status', '/debug/configz', '/debug/registryz', '/metrics', '/version'].map((path) =>
        each.get(path),
      ),
    );
    const shown = `${pages.join('\n')}\n${each.log}`;
    t.ok(pages.every((page) => page.length > 20));
    t.notMatch(shown, /PRIVATE/);
    t.same(
      keys.filter((line) => shown.includes(line)),
      [],
    );
  }
});
