import { generateKeyPairSync } from 'node:crypto';
import { readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { openDirectoryCa } from '../../../../src/control/ca/directory-ca.js';
import { chainsTo, parseCertificate } from '../../../../src/identity/certificate.js';
import { issueCrl } from '../../../../src/identity/crl.js';
import { type Issuer, issueIntermediate, issueRoot } from '../../../../src/identity/issue.js';
import { splitPem } from '../../../../src/identity/pem.js';
import { ManualClock } from '../../../../src/lib/manual-clock.js';
import { logger, setLevel } from '../../../../src/telemetry/log.js';

setLevel('silent');

const YEAR = 365 * 24 * 3600_000;
const clockStart = new ManualClock().now();
const pem = (key: Issuer['privateKey']) => key.export({ format: 'pem', type: 'pkcs8' }).toString();

/** root -> middle -> issuer, as companies make them. */
function hierarchy(organization: string, rsa = false) {
  const keys = () =>
    rsa ? generateKeyPairSync('rsa', { modulusLength: 2048 }) : generateKeyPairSync('ec', { namedCurve: 'P-256' });
  const input = (commonName: string) => ({
    commonName,
    organization,
    notBefore: new Date(clockStart - 60_000),
    notAfter: new Date(clockStart + YEAR),
  });
  const rootKeys = keys();
  const root = { privateKey: rootKeys.privateKey, certificate: issueRoot(rootKeys.privateKey, input('root')) };
  const issuerKeys = keys();
  const issuer = {
    privateKey: issuerKeys.privateKey,
    certificate: issueIntermediate(root, issuerKeys.publicKey, input('issuer')),
  };
  return {
    root,
    issuer,
    files: {
      'ca-cert.pem': issuer.certificate.pem,
      'ca-key.pem': pem(issuer.privateKey),
      'cert-chain.pem': issuer.certificate.pem + root.certificate.pem,
      'root-cert.pem': root.certificate.pem,
    },
  };
}

async function open(t: Test, files: Record<string, string>) {
  const clock = new ManualClock();
  const directory = t.testdir({ cacerts: files, ca: {} });
  const cacerts = join(directory, 'cacerts');
  const authority = await openDirectoryCa({
    directory: join(directory, 'ca'),
    cacerts,
    trustDomain: 'cluster.local',
    defaultTtlSeconds: 3600,
    clock,
    log: logger('ca'),
  });
  t.teardown(() => authority.close());
  return {
    authority,
    clock,
    lists: () => readFileSync(join(directory, 'ca/ca-crl.pem'), 'utf8'),
    bundle: () => readFileSync(join(directory, 'ca/root-cert.pem'), 'utf8'),
    put: (more: Record<string, string>) => {
      for (const [name, text] of Object.entries(more)) writeFileSync(join(cacerts, name), text);
    },
    remove: (name: string) => rmSync(join(cacerts, name)),
    issue: () => {
      const { publicKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
      const result = authority.issue({ publicKey, uriSans: ['spiffe://a/ns/b/sa/c'], ttlSeconds: 0, holder: 'h' });
      if (!result.ok) throw new Error(result.error);
      return result.value;
    },
  };
}

t.test('a plugged-in CA signs, with the chain in order and the bundle last, for EC and RSA keys', async (t) => {
  for (const rsa of [false, true]) {
    const made = hierarchy('acme', rsa);
    const it = await open(t, made.files);
    const { chain } = it.issue();
    t.same(chain.slice(1), [made.issuer.certificate.pem, made.root.certificate.pem]);
    t.equal(it.bundle(), made.root.certificate.pem);
    const [leaf, ...above] = chain.slice(0, -1).map((each) => parseCertificate(each));
    t.ok(leaf !== undefined && chainsTo(leaf, above, [made.root.certificate], new Date(it.clock.now())));
  }
});

t.test('replaced files take effect, several roots make the bundle, the leading one first', async (t) => {
  const [old, next] = [hierarchy('old'), hierarchy('next')];
  const it = await open(t, old.files);
  it.put({ 'root-cert.pem': old.root.certificate.pem + next.root.certificate.pem });
  it.clock.advance(5_000);
  t.equal(splitPem('CERTIFICATE', it.bundle()).length, 2);
  it.put({ ...next.files, 'root-cert.pem': old.root.certificate.pem + next.root.certificate.pem });
  it.clock.advance(5_000);
  t.equal(it.bundle(), next.root.certificate.pem + old.root.certificate.pem);
  t.equal(it.issue().chain[1], next.issuer.certificate.pem);
});

t.test('a set that does not fit together is reported and the last good one stays', async (t) => {
  const [old, next] = [hierarchy('old'), hierarchy('next')];
  const it = await open(t, old.files);
  const attempts: [Record<string, string>, RegExp][] = [
    [{ 'ca-key.pem': next.files['ca-key.pem'] }, /ca-key.pem is not the key of ca-cert.pem/],
    [{ 'ca-cert.pem': next.files['ca-cert.pem'] }, /does not lead .* to a root/],
    [{ ...old.files, 'root-cert.pem': 'nothing' }, /root-cert.pem holds no certificate/],
    [{ ...old.files, 'ca-key.pem': 'nothing' }, /.+/],
  ];
  for (const [files, error] of attempts) {
    it.put(files);
    it.clock.advance(5_000);
    t.match(it.authority.describe(), { lastError: error });
    t.equal(it.issue().chain[1], old.issuer.certificate.pem);
    t.equal(it.bundle(), old.root.certificate.pem);
  }
  it.remove('ca-cert.pem');
  it.clock.advance(5_000);
  t.match(it.authority.describe(), { lastError: 'ca-cert.pem cannot be read' });
  it.put(next.files);
  it.clock.advance(5_000);
  t.notMatch(it.authority.describe(), { lastError: /./ });
  t.equal(it.bundle(), next.root.certificate.pem);
});

t.test('a leaf is no CA, and the operator rotates a plugged-in one', async (t) => {
  const made = hierarchy('acme');
  const it = await open(t, made.files);
  const leaf = it.issue();
  await t.rejects(open(t, { ...made.files, 'ca-cert.pem': leaf.certificate.pem }), /is not a CA/);
  t.match(await it.authority.rotateRoot('add'), { error: /replace its files/ });
  t.match(await it.authority.rotateIntermediate(), { error: /replace its files/ });
});

t.test('its revocation lists are read again when they change, and go out only if they are by the CA', async (t) => {
  const [made, other] = [hierarchy('acme', true), hierarchy('acme')];
  const listBy = (issuer: Issuer, number = 1) =>
    issueCrl(issuer, {
      number,
      thisUpdate: new Date(clockStart),
      nextUpdate: new Date(clockStart + YEAR),
      revoked: [{ serial: 'abcd', at: new Date(clockStart) }],
    });
  const good = listBy(made.issuer) + listBy(made.root);
  const it = await open(t, { ...made.files, 'ca-crl.pem': good });
  t.equal(it.lists(), good);
  for (const [text, error] of [
    [listBy(other.issuer), /names our CA and is signed by another key/],
    [listBy(made.issuer) + listBy(made.issuer, 2), /list 2 .* same issuer/],
    ['nothing', /holds no PEM X509 CRL/],
    [good.replace(/\n..../, '\nAAAA'), /list 1 .* no good/],
  ] as const) {
    it.put({ 'ca-crl.pem': text });
    it.clock.advance(5_000);
    t.match(it.authority.describe(), { listsError: error });
    t.equal(it.lists(), good);
  }
  it.remove('ca-crl.pem');
  it.clock.advance(5_000);
  t.match(it.authority.describe(), { listsError: /is gone/ });
  t.equal(it.lists(), good, 'what was revoked is not trusted again by accident');
  it.put({ 'ca-crl.pem': listBy(made.issuer, 2) });
  it.clock.advance(5_000);
  t.equal(it.lists(), listBy(made.issuer, 2), 'RSA signs the same the same way');
  t.notMatch(it.authority.describe(), { listsError: /./ });
  it.put({ 'ca-crl.pem': '' });
  it.clock.advance(5_000);
  t.equal(it.lists(), '');
  t.match(await it.authority.revoke('abcd'), { error: /put its revocation lists into ca-crl.pem/ });
});
