import { execFileSync } from 'node:child_process';
import { generateKeyPairSync } from 'node:crypto';
import { readFileSync, renameSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { openDirectoryCa } from '../../../../src/control/ca/directory-ca.js';
import { caRoutes } from '../../../../src/control/ca/routes.js';
import { type Certificate, parseCertificate } from '../../../../src/identity/certificate.js';
import { parseCrl } from '../../../../src/identity/crl.js';
import { splitPem } from '../../../../src/identity/pem.js';
import { ManualClock } from '../../../../src/lib/manual-clock.js';
import { logger, setLevel } from '../../../../src/telemetry/log.js';
import { pass } from '../../../support/pass.js';

setLevel('silent');

const HOUR = 3600_000;
const DAY = 24 * HOUR;
const { publicKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });

async function open(t: Test, directory = t.testdir({}), clock = new ManualClock()) {
  const authority = await openDirectoryCa({
    directory,
    trustDomain: 'cluster.local',
    defaultTtlSeconds: 86_400,
    clock,
    log: logger('ca'),
  });
  t.teardown(() => authority.close());
  const issue = () => {
    const result = authority.issue({ publicKey, uriSans: ['spiffe://a/ns/b/sa/c'], ttlSeconds: 0, holder: 'h' });
    if (!result.ok) throw new Error(result.error);
    const [leaf, intermediate] = result.value.chain.map((pem) =>
      parseCertificate(splitPem('CERTIFICATE', pem)[0] ?? ''),
    );
    return { leaf: leaf as Certificate, intermediate: intermediate as Certificate };
  };
  const lists = () => splitPem('X509 CRL', readFileSync(join(directory, 'ca-crl.pem'), 'utf8')).map(readList);
  const listBy = (issuer: Certificate) => lists().find(({ list }) => list.issuerDer.equals(issuer.subjectDer));
  /** As a peer sees it that knows the issuer. */
  const isRevoked = (leaf: Certificate, issuer: Certificate): boolean => {
    const found = listBy(issuer);
    if (found === undefined) return false;
    if (!found.list.isSignedBy(issuer.publicKey)) throw new Error('a list that its issuer did not sign');
    return found.serials.includes(leaf.serial);
  };
  return { authority, clock, directory, issue, lists, listBy, isRevoked, root: () => authority.material.roots[0] };
}

function readList(pem: string) {
  const text = execFileSync('openssl', ['crl', '-noout', '-text'], { input: pem, stdio: 'pipe' }).toString();
  const serials = [...text.matchAll(/Serial Number: ([0-9A-F]+)/g)].map(([, serial = '']) => serial.toLowerCase());
  const nextUpdateMs = Date.parse(/Next Update: (.*)/.exec(text)?.[1] ?? '');
  const number = Number(/X509v3 CRL Number:\s+(\w+)/.exec(text)?.[1]);
  return { list: parseCrl(pem), serials, nextUpdateMs, number };
}

t.test('while nothing is revoked there are no lists, and then one for every issuer', async (t) => {
  const { authority, directory, issue, lists, isRevoked, root } = await open(t);
  const [stolen, other] = [issue(), issue()];
  t.equal(readFileSync(join(directory, 'ca-crl.pem'), 'utf8'), '');
  t.match(await authority.revoke(stolen.leaf.serial), { ok: true });
  t.equal(lists().length, 2, 'one by the intermediate, one by the root');
  t.ok(isRevoked(stolen.leaf, stolen.intermediate));
  t.ok(isRevoked(stolen.leaf, root() as Certificate));
  t.notOk(isRevoked(other.leaf, other.intermediate));
  t.equal(statSync(join(directory, 'ca-crl.pem')).mode & 0o777, 0o644);
  t.notMatch(readFileSync(join(directory, 'ca-crl.pem'), 'utf8'), /PRIVATE/);
  t.match(authority.describe(), { revoked: [stolen.leaf.serial], nextUpdate: String });
});

t.test('a serial may be written in several ways, and once is enough', async (t) => {
  const { authority, issue, lists } = await open(t);
  const { leaf } = issue();
  const pairs = leaf.serial.toUpperCase().match(/../g) ?? [];
  for (const way of [leaf.serial, leaf.serial.toUpperCase(), pairs.join(':'), `00${leaf.serial}`]) {
    t.match(await authority.revoke(way), { ok: true });
  }
  t.same(lists()[0]?.serials, [leaf.serial]);
  t.equal(lists()[0]?.number, 1);
  for (const bad of ['', '0', 'xyz', 'a'.repeat(41), '12 34'])
    t.match(await authority.revoke(bad), { error: /is no serial/ });
});

t.test('what signs for everybody cannot be revoked', async (t) => {
  const { authority, issue, isRevoked, root } = await open(t);
  const { intermediate } = issue();
  t.match(await authority.revoke(intermediate.serial), { error: /rotate the intermediate first/ });
  t.match(await authority.revoke(root()?.serial ?? ''), { error: /rotate the root/ });
  await authority.rotateIntermediate();
  t.match(await authority.revoke(intermediate.serial), { ok: true }, 'a former intermediate can');
  t.ok(isRevoked(intermediate, root() as Certificate));
});

t.test('revocations survive a restart, and a state that cannot be used is an error', async (t) => {
  const first = await open(t);
  const { leaf, intermediate } = first.issue();
  await first.authority.revoke(leaf.serial);
  first.authority.close();
  writeFileSync(join(first.directory, 'ca-crl.pem'), 'damaged');
  const second = await open(t, first.directory, first.clock);
  t.ok(second.isRevoked(leaf, intermediate));
  second.authority.close();
  writeFileSync(join(first.directory, 'revocations.json'), '{"version":1}');
  await t.rejects(open(t, first.directory), /revocations.json cannot be used: .*Restore it/);
});

t.test('after a new intermediate, certificates by the old one are still revoked, also new ones of them', async (t) => {
  const it = await open(t);
  const [early, late] = [it.issue(), it.issue()];
  await it.authority.revoke(early.leaf.serial);
  await pass(it.clock, HOUR);
  await it.authority.rotateIntermediate();
  const fresh = it.issue();
  t.not(fresh.intermediate.fingerprint, early.intermediate.fingerprint);
  t.equal(it.lists().length, 3);
  t.ok(it.isRevoked(early.leaf, early.intermediate));
  await it.authority.revoke(late.leaf.serial);
  await it.authority.revoke(fresh.leaf.serial);
  t.ok(it.isRevoked(late.leaf, late.intermediate));
  t.ok(it.isRevoked(fresh.leaf, fresh.intermediate));
  const restarted = await open(t, it.directory, it.clock);
  t.ok(restarted.isRevoked(late.leaf, late.intermediate));
});

t.test('a list is signed anew well before it ends, and goes on as long as a certificate on it may live', async (t) => {
  const it = await open(t);
  const { leaf, intermediate } = it.issue();
  await it.authority.revoke(leaf.serial);
  let number = 0;
  for (let day = 0; day < 89; day++) {
    const list = it.listBy(intermediate);
    t.ok(list !== undefined && list.nextUpdateMs - it.clock.now() > 3 * DAY, `day ${day}`);
    t.ok((list?.number ?? 0) >= number);
    number = list?.number ?? 0;
    await pass(it.clock, DAY);
  }
  t.ok(number > 20);
  t.ok(it.isRevoked(leaf, intermediate));
  await pass(it.clock, 2 * DAY);
  t.same(it.lists(), [], 'no certificate of ours lives for 90 days');
});

t.test('the lists of an old root and its intermediates last until the root is dropped', async (t) => {
  const it = await open(t);
  const { leaf, intermediate } = it.issue();
  const oldRoot = it.root() as Certificate;
  await it.authority.revoke(leaf.serial);
  await pass(it.clock, HOUR);
  await it.authority.rotateRoot('add');
  await it.authority.rotateRoot('sign', true);
  t.not(it.root()?.fingerprint, oldRoot.fingerprint);
  t.equal(it.lists().length, 4);
  t.ok(it.isRevoked(leaf, intermediate));
  t.ok(it.isRevoked(leaf, oldRoot), 'its key is gone, and the list that it left ends with it');
  await pass(it.clock, 30 * DAY);
  t.ok((it.listBy(intermediate)?.nextUpdateMs ?? 0) > it.clock.now());
  t.ok((it.listBy(oldRoot)?.nextUpdateMs ?? 0) > it.clock.now());
  await it.authority.rotateRoot('drop', true);
  t.equal(it.listBy(oldRoot), undefined);
  t.equal(it.listBy(intermediate), undefined);
  t.equal(it.lists().length, 2);
});

t.test('what cannot be kept is not revoked, and is said', async (t) => {
  const it = await open(t);
  const { leaf, intermediate } = it.issue();
  renameSync(it.directory, `${it.directory}-away`);
  t.match(await it.authority.revoke(leaf.serial), { error: /cannot be kept/ });
  renameSync(`${it.directory}-away`, it.directory);
  t.notOk(it.isRevoked(leaf, intermediate));
  t.match(await it.authority.revoke(leaf.serial), { ok: true });
  t.ok(it.isRevoked(leaf, intermediate));
});

t.test('operators revoke over an admin route', async (t) => {
  const { authority, issue, isRevoked } = await open(t);
  const { leaf, intermediate } = issue();
  const ask = async (query: string) => {
    const url = new URL(`/ca/revoke${query}`, 'http://localhost');
    const answer = await caRoutes(authority).get('POST /ca/revoke')?.(url, undefined as never);
    return { status: answer?.status ?? 200, body: answer?.body ?? '' };
  };
  t.match(await ask(''), { status: 400, body: /serial is missing/ });
  t.match(await ask('?serial=zebra'), { status: 409, body: /is no serial/ });
  t.match(await ask(`?serial=${leaf.serial}`), { status: 200, body: leaf.serial });
  t.ok(isRevoked(leaf, intermediate));
});
