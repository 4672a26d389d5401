import { generateKeyPairSync } from 'node:crypto';
import t, { type Test } from 'tap';
import type { Authority } from '../../../../src/control/ca/authority.js';
import { openSecretCa } from '../../../../src/control/ca/secret-ca.js';
import { type Certificate, chainsTo, parseCertificate } from '../../../../src/identity/certificate.js';
import { issueCrl } from '../../../../src/identity/crl.js';
import { issueIntermediate, issueRoot } from '../../../../src/identity/issue.js';
import { splitPem } from '../../../../src/identity/pem.js';
import { ApiError } from '../../../../src/kube/api.js';
import { RESOURCES } from '../../../../src/kube/resources.js';
import { ManualClock } from '../../../../src/lib/manual-clock.js';
import { logger, setLevel } from '../../../../src/telemetry/log.js';
import { MemoryApi } from '../../../support/memory-api.js';
import { pass } from '../../../support/pass.js';

setLevel('silent');

const NAMESPACE = 'istio-system';
const CART = 'spiffe://cluster.local/ns/shop/sa/cart';
const DAY = 24 * 3600_000;
const { publicKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });

/** One API server, and replicas of a control plane before it. */
function world(t: Test) {
  const server = new MemoryApi();
  const clock = new ManualClock();
  const opened: Authority[] = [];
  t.teardown(() => {
    for (const each of opened) each.close();
  });
  const settle = () => pass(clock, 0);
  return {
    server,
    clock,
    settle,
    async open(isInCharge = () => true, api = new MemoryApi(server)) {
      const authority = await openSecretCa({
        api,
        namespace: NAMESPACE,
        trustDomain: 'cluster.local',
        defaultTtlSeconds: 86_400,
        isInCharge,
        clock,
        log: logger('ca'),
      });
      opened.push(authority);
      return authority;
    },
    issue(authority: Authority) {
      const issued = authority.issue({ publicKey, uriSans: [CART], ttlSeconds: 0, holder: 'h' });
      if (!issued.ok) throw new Error(issued.error);
      return issued.value;
    },
    isTrusted(chain: readonly string[], bundle: string): boolean {
      const [leaf, ...above] = chain.slice(0, -1).map((pem) => parseCertificate(pem));
      const roots = splitPem('CERTIFICATE', bundle).map((pem) => parseCertificate(pem));
      return chainsTo(leaf as Certificate, above, roots, new Date(clock.now()));
    },
    async put(name: string, texts: Readonly<Record<string, string>>) {
      const data = Object.fromEntries(
        Object.entries(texts).map(([key, text]) => [key, Buffer.from(text).toString('base64')]),
      );
      const metadata = { namespace: NAMESPACE, name };
      const former = await server.get(RESOURCES.Secret, metadata);
      if (former === undefined) await server.create(RESOURCES.Secret, { metadata, data });
      else await server.replace(RESOURCES.Secret, { ...former, data });
      await settle();
    },
    async texts(name: string): Promise<Record<string, string>> {
      const secret = await server.get(RESOURCES.Secret, { namespace: NAMESPACE, name });
      return Object.fromEntries(
        Object.entries((secret?.data ?? {}) as Record<string, string>).map(([key, value]) => [
          key,
          Buffer.from(value, 'base64').toString(),
        ]),
      );
    },
    async remove(name: string) {
      await server.delete(RESOURCES.Secret, { namespace: NAMESPACE, name });
      await settle();
    },
  };
}

function hierarchy(organization: string) {
  const startMs = new ManualClock().now();
  const input = (commonName: string) => ({
    commonName,
    organization,
    notBefore: new Date(startMs - 60_000),
    notAfter: new Date(startMs + 400 * DAY),
  });
  const rootKeys = generateKeyPairSync('ec', { namedCurve: 'P-256' });
  const root = { privateKey: rootKeys.privateKey, certificate: issueRoot(rootKeys.privateKey, input('root')) };
  const intermediate = () => {
    const keys = generateKeyPairSync('ec', { namedCurve: 'P-256' });
    const certificate = issueIntermediate(root, keys.publicKey, input('issuer'));
    return {
      'ca-cert.pem': certificate.pem,
      'ca-key.pem': keys.privateKey.export({ format: 'pem', type: 'pkcs8' }).toString(),
      'cert-chain.pem': certificate.pem,
      'root-cert.pem': root.certificate.pem,
    };
  };
  return { root, intermediate };
}

t.test('replicas that start at the same time share one root, and trust what any of them signs', async (t) => {
  const it = world(t);
  const replicas = await Promise.all([it.open(), it.open(), it.open()]);
  t.equal(new Set(replicas.map(({ bundle }) => bundle)).size, 1);
  for (const signer of replicas) {
    for (const peer of replicas) t.ok(it.isTrusted(it.issue(signer).chain, peer.bundle));
  }
  const texts = await it.texts('istio-ca-secret');
  t.equal(texts['root-cert.pem'], replicas[0].bundle);
  t.equal(texts['ca-cert.pem'], it.issue(replicas[1]).chain[1]);
});

t.test('a step of a rotation taken at one replica is taken at all, and by one only', async (t) => {
  const it = world(t);
  const [a, b, c] = await Promise.all([it.open(), it.open(), it.open()]);
  const seen: string[] = [];
  b.subscribe((change) => seen.push(change));
  const steps = await Promise.all([a.rotateRoot('add'), b.rotateRoot('add'), c.rotateRoot('add')]);
  t.same(steps.map(({ ok }) => ok).sort(), [false, false, true]);
  await it.settle();
  t.equal(splitPem('CERTIFICATE', a.bundle).length, 2);
  t.same([b.bundle, c.bundle], [a.bundle, a.bundle]);
  t.same(seen, ['material']);
  t.match(await b.rotateRoot('sign'), { error: /force/ }, 'nobody knows who asked the others');
  it.clock.advance(DAY);
  t.match(await b.rotateRoot('sign'), { ok: true });
  await it.settle();
  t.same([b.bundle, c.bundle], [a.bundle, a.bundle]);
  t.equal(it.issue(a).chain[1], it.issue(c).chain[1]);
  t.ok(it.isTrusted(it.issue(a).chain, c.bundle));
});

t.test(
  'intermediates that replicas make at the same time all count, and what they signed can be revoked',
  async (t) => {
    const it = world(t);
    const replicas = await Promise.all([it.open(), it.open(), it.open()]);
    const early = it.issue(replicas[0]);
    const made = await Promise.all(replicas.map((each) => each.rotateIntermediate()));
    t.ok(made.every(({ ok }) => ok));
    await it.settle();
    await replicas[2].revoke(early.certificate.serial);
    await it.settle();
    for (const { revocationLists } of replicas) {
      t.equal(revocationLists, replicas[0].revocationLists);
      t.equal(splitPem('X509 CRL', revocationLists).length, 5, 'four intermediates and the root');
    }
  },
);

t.test('what several replicas revoke at the same time is revoked, and all serve the same lists', async (t) => {
  const it = world(t);
  const replicas = await Promise.all([it.open(), it.open(), it.open()]);
  const serials = replicas.map((each) => it.issue(each).certificate.serial);
  let changes = 0;
  replicas[0].subscribe(() => changes++);
  const results = await Promise.all(replicas.map((each, index) => each.revoke(serials[index] ?? '')));
  t.ok(results.every(({ ok }) => ok));
  await it.settle();
  for (const each of replicas) {
    t.same((each.describe() as { revoked: string[] }).revoked.toSorted(), serials.toSorted());
    t.equal(each.revocationLists, replicas[0].revocationLists);
  }
  t.ok(changes <= 3, `agents are told ${changes} times`);
});

t.test('what is due by time is done by the replica in charge only', async (t) => {
  const it = world(t);
  const [idle, leader] = [await it.open(() => false), await it.open(() => true)];
  const before = it.issue(idle).chain[1];
  it.server.calls.length = 0;
  await pass(it.clock, 183 * DAY);
  t.not(it.issue(leader).chain[1], before);
  t.equal(it.issue(idle).chain[1], it.issue(leader).chain[1]);
  const alone = world(t);
  const nobody = await alone.open(() => false);
  const first = alone.issue(nobody).chain[1];
  await pass(alone.clock, 183 * DAY);
  t.equal(alone.issue(nobody).chain[1], first);
});

t.test('a Secret that somebody removes is put back as it was', async (t) => {
  const it = world(t);
  const replicas = await Promise.all([it.open(), it.open()]);
  const { bundle } = replicas[0];
  await it.remove('istio-ca-secret');
  await it.remove('meltemi-ca-revocations');
  t.equal((await it.texts('istio-ca-secret'))['root-cert.pem'], bundle);
  t.match(await replicas[1].revoke(it.issue(replicas[0]).certificate.serial), { ok: true });
  t.equal((await it.open()).bundle, bundle);
});

t.test('what somebody writes into the Secret that is no good is reported and never written over', async (t) => {
  const it = world(t);
  const replica = await it.open();
  const { bundle } = replica;
  const good = await it.texts('istio-ca-secret');
  await it.put('istio-ca-secret', { ...good, 'meltemi-ca.json': '{}' });
  t.equal(replica.bundle, bundle);
  t.match(replica.describe(), { lastError: /istio-ca-secret cannot be used: .*Restore it/ });
  t.match(await replica.rotateRoot('add'), { ok: false });
  t.equal((await it.texts('istio-ca-secret'))['meltemi-ca.json'], '{}');
  await it.put('istio-ca-secret', good);
  t.notMatch(replica.describe(), { lastError: /./ });
  t.match(await replica.rotateRoot('add'), { ok: true });
});

t.test('while the API server is away certificates are signed, and afterwards what was missed is seen', async (t) => {
  const it = world(t);
  const api = new MemoryApi(it.server);
  const [cut, other] = [await it.open(() => true, api), await it.open()];
  api.before = () => {
    throw new ApiError(0, '', 'no way to the API server');
  };
  await other.rotateRoot('add');
  await it.settle();
  t.ok(it.isTrusted(it.issue(cut).chain, other.bundle));
  t.not(cut.bundle, other.bundle);
  api.before = () => {};
  for (let second = 0; second < 60; second++) await pass(it.clock, 1000);
  t.equal(cut.bundle, other.bundle);
});

t.test('a root that Istio made is taken over', async (t) => {
  const it = world(t);
  const { root } = hierarchy('istio');
  const key = root.privateKey.export({ format: 'pem', type: 'pkcs8' }).toString();
  await it.put('istio-ca-secret', { 'ca-cert.pem': root.certificate.pem, 'ca-key.pem': key });
  const [a, b] = await Promise.all([it.open(), it.open()]);
  t.equal(a.bundle, root.certificate.pem);
  t.equal(it.issue(a).chain[1], it.issue(b).chain[1]);
  t.ok(it.isTrusted(it.issue(b).chain, a.bundle));

  const no = world(t);
  const { intermediate } = hierarchy('istio');
  await no.put('istio-ca-secret', intermediate());
  await t.rejects(no.open(), /ca-cert.pem is no root/);
});

t.test(
  'cacerts signs where it is there, also as a certificate manager writes it, and no other root is made',
  async (t) => {
    const { root, intermediate } = hierarchy('acme');
    const files = intermediate();
    for (const texts of [
      files,
      { 'tls.crt': files['ca-cert.pem'], 'tls.key': files['ca-key.pem'], 'ca.crt': files['root-cert.pem'] },
    ]) {
      const it = world(t);
      await it.put('cacerts', texts);
      const [a, b] = await Promise.all([it.open(), it.open()]);
      t.equal(a.bundle, root.certificate.pem);
      t.equal(it.issue(a).chain[1], files['ca-cert.pem']);
      t.ok(it.isTrusted(it.issue(a).chain, b.bundle));
      t.same(await it.texts('istio-ca-secret'), {});
      t.match(await a.rotateRoot('add'), { error: /plugged in/ });
      t.match(await a.revoke('abcd'), { error: /plugged in/ });
    }
  },
);

t.test('cacerts that is replaced is picked up, and what is no good is not', async (t) => {
  const it = world(t);
  const { root, intermediate } = hierarchy('acme');
  const [first, second] = [intermediate(), intermediate()];
  await it.put('cacerts', first);
  const replicas = await Promise.all([it.open(), it.open()]);
  const renewed: number[] = [];
  for (const [index, each] of replicas.entries()) each.subscribe(() => renewed.push(index));
  await it.put('cacerts', second);
  t.same(renewed.toSorted(), [0, 1]);
  for (const each of replicas) t.equal(it.issue(each).chain[1], second['ca-cert.pem']);
  await it.put('cacerts', { ...first, 'ca-key.pem': second['ca-key.pem'] });
  for (const each of replicas) {
    t.equal(it.issue(each).chain[1], second['ca-cert.pem']);
    t.match(each.describe(), { lastError: /not the key of ca-cert.pem/ });
  }
  await it.remove('cacerts');
  for (const each of replicas) t.equal(it.issue(each).chain[1], second['ca-cert.pem'], 'nobody goes back');
  const list = issueCrl(root, {
    number: 1,
    thisUpdate: new Date(it.clock.now()),
    nextUpdate: new Date(it.clock.now() + DAY),
    revoked: [{ serial: 'abcd', at: new Date(it.clock.now()) }],
  });
  await it.put('cacerts', { ...second, 'ca-crl.pem': list });
  for (const each of replicas) {
    t.notMatch(each.describe(), { lastError: /./ });
    t.equal(each.revocationLists, list);
  }
});

t.test('cacerts that is no good stops the start: half of the mesh would not trust the other', async (t) => {
  const it = world(t);
  await it.put('cacerts', { 'ca-cert.pem': 'nothing' });
  await t.rejects(it.open(), /CA in Secret istio-system\/cacerts cannot be used: ca-key.pem cannot be read/);
});

t.test(
  'when cacerts comes later it signs, and the former root stays trusted until its Secret is removed',
  async (t) => {
    const it = world(t);
    const replicas = await Promise.all([it.open(), it.open()]);
    const [a] = replicas;
    const old = it.issue(a);
    const stolen = it.issue(a);
    await a.revoke(stolen.certificate.serial);
    await it.settle();
    const lists = a.revocationLists;
    const { root, intermediate } = hierarchy('acme');
    await it.put('cacerts', { 'ca-cert.pem': 'not yet' });
    for (const each of replicas) t.match(each.describe(), { lastError: /cacerts cannot be used/ });
    t.ok(it.isTrusted(it.issue(a).chain, old.chain.at(-1) ?? ''));
    const files = intermediate();
    await it.put('cacerts', files);
    replicas.push(await it.open());
    for (const each of replicas) {
      t.equal(it.issue(each).chain[1], files['ca-cert.pem']);
      t.ok(it.isTrusted(old.chain, each.bundle));
      t.ok(it.isTrusted(it.issue(each).chain, each.bundle));
      t.equal(each.bundle, root.certificate.pem + (old.chain.at(-1) ?? ''));
      t.equal(each.revocationLists, lists, 'what the former CA revoked stays revoked');
    }
    await it.remove('istio-ca-secret');
    for (const each of replicas) {
      t.equal(each.bundle, root.certificate.pem);
      t.notOk(it.isTrusted(old.chain, each.bundle));
    }
    t.same(await it.texts('istio-ca-secret'), {}, 'nobody puts it back');
  },
);
