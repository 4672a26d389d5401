import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { TestCa } from '../support/certificates.js';
import { type ConnectCommand, HbonePeer } from '../support/hbone-client.js';
import { AMBIENT, authorizationPolicy, captured, ipOf, MESH, podOn } from './harness/in-mesh.js';
import { appService } from './harness/manifests.js';
import { meshCluster } from './harness/mesh.js';
import { until } from './harness/shell.js';
import { applyAndWait, namespaceFor } from './harness/tap-cluster.js';

/** What a foreign peer that speaks HBONE itself gets at a captured pod, by the certificate that it has. Some 10 s. */
t.setTimeout(300_000);
const cluster = await meshCluster();
const skip = cluster.own === undefined ? 'needs a way to the pods' : false;
const [first = '', second = first] = await cluster.nodes();

t.test('whoever has a certificate of the mesh is let in as whom it names, and nobody else', { skip }, async (t) => {
  const namespace = await namespaceFor(t, cluster, AMBIENT);
  await applyAndWait(
    cluster,
    appService({ namespace, name: 'web' }),
    podOn(first, { namespace, name: 'web' }),
    podOn(second, { namespace, name: 'other' }),
  );
  await captured(cluster, namespace, 'web', 'other');
  const [address, other] = [await ipOf(cluster, namespace, 'web'), await ipOf(cluster, namespace, 'other')];

  const ca = await meshCa();
  const files = t.testdir({ 'root.pem': ca.root });
  using authority = new TestCa(ca);
  using foreign = new TestCa();
  const uri = (name: string) => `spiffe://cluster.local/ns/${namespace}/sa/${name}`;
  const day = 86_400_000;
  const leaves = {
    friend: authority.issue({ uris: [uri('friend')] }),
    stranger: authority.issue({ uris: [uri('stranger')] }),
    expired: authority.issue({
      uris: [uri('friend')],
      notBefore: new Date(Date.now() - 2 * day),
      notAfter: new Date(Date.now() - day),
    }),
    foreign: foreign.issue({ uris: [uri('friend')] }),
  };
  await using peer = new HbonePeer('direct', {});
  const connect = (who: keyof typeof leaves | undefined, to: string, more: Partial<ConnectCommand> = {}) =>
    peer.connect({
      address,
      port: 15008,
      authority: to,
      ...(who === undefined
        ? {}
        : {
            identity: {
              ...leaves[who],
              cert: chainOf(files, who, leaves[who].cert, ca.chain),
              ca: join(files, 'root.pem'),
              expect: `spiffe://cluster.local/ns/${namespace}/sa/default`,
            },
          }),
      ...more,
    });

  for (const to of [`${address}:9000`, `web.${namespace}.svc.cluster.local:9000`]) {
    const answer = await connect('friend', to, { send: 'hello\n', expect: 10 });
    t.match(answer, { status: 200, received: /^web \S+ hello/ }, `${to}: ${JSON.stringify(answer)}`);
  }
  for (const to of [`${other}:9000`, `${address}:15008`, `${address}:15001`, `127.0.0.1:9000`, '']) {
    t.notMatch(await connect('friend', to), { status: 200 }, `not to ${JSON.stringify(to)}`);
  }
  for (const who of ['expired', 'foreign', undefined] as const) {
    const answer = await connect(who, `${address}:9000`);
    t.equal(answer.status, undefined, `${who ?? 'without a certificate'}: ${JSON.stringify(answer)}`);
  }

  const rules = [{ from: [{ source: { principals: [uri('friend').replace('spiffe://', '')] } }] }];
  await applyAndWait(cluster, authorizationPolicy(namespace, { rules }));
  await until('a stranger is refused', async () => (await connect('stranger', `${address}:9000`)).status === 401);
  t.equal((await connect('friend', `${address}:9000`)).status, 200);
});

/** The certificate with those above it, as a peer presents it. */
function chainOf(directory: string, name: string, certificate: string, chain: string): string {
  const path = join(directory, `${name}.pem`);
  writeFileSync(path, `${readFileSync(certificate, 'utf8')}${chain}`);
  return path;
}

/** The authority that the control plane made for itself. */
async function meshCa() {
  const text = await cluster.kubectl(['get', 'secret', '-n', MESH, 'istio-ca-secret', '-o', 'json']);
  const { data } = JSON.parse(text) as { data: Readonly<Record<string, string>> };
  const pem = (key: string) => Buffer.from(data[key] ?? '', 'base64').toString();
  const certificate = pem('ca-cert.pem');
  return {
    certificate,
    privateKey: pem('ca-key.pem'),
    chain: pem('cert-chain.pem') || certificate,
    root: pem('root-cert.pem'),
  };
}
