import { execFileSync } from 'node:child_process';
import { generateKeyPairSync, X509Certificate } from 'node:crypto';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { chainsTo, parseCertificate } from '../../../src/identity/certificate.js';
import { issueCrl } from '../../../src/identity/crl.js';
import { type Issuer, issueIntermediate, issueLeaf, issueRoot } from '../../../src/identity/issue.js';
import { splitPem } from '../../../src/identity/pem.js';

const SPIFFE_ID = 'spiffe://cluster.local/ns/shop/sa/cart';
const MINUTE = 60_000;
const YEAR = 365 * 24 * 60 * MINUTE;
const now = Math.floor(Date.now() / 1000) * 1000;
const validity = (years: number) => ({ notBefore: new Date(now - 2 * MINUTE), notAfter: new Date(now + years * YEAR) });

function authority(curve: string, years = 10): { root: Issuer; intermediate: Issuer } {
  const rootKeys = generateKeyPairSync('ec', { namedCurve: curve });
  const root = {
    privateKey: rootKeys.privateKey,
    certificate: issueRoot(rootKeys.privateKey, {
      ...validity(years),
      commonName: 'root',
      organization: 'cluster.local',
    }),
  };
  const keys = generateKeyPairSync('ec', { namedCurve: 'P-256' });
  const input = { ...validity(1), commonName: 'intermediate', organization: 'cluster.local' };
  return {
    root,
    intermediate: { privateKey: keys.privateKey, certificate: issueIntermediate(root, keys.publicKey, input) },
  };
}

const leafOf = (issuer: Issuer, publicKey = generateKeyPairSync('ec', { namedCurve: 'P-256' }).publicKey) =>
  issueLeaf(issuer, { publicKey, uriSans: [SPIFFE_ID], ...validity(0.1) });

function openssl(t: Test, args: string[], files: Record<string, string>): string {
  const dir = t.testdir({});
  for (const [name, content] of Object.entries(files)) writeFileSync(join(dir, name), content);
  return execFileSync('openssl', args, { cwd: dir, encoding: 'utf8', stdio: ['pipe', 'pipe', 'pipe'] });
}

t.test('openssl verifies leaf, intermediate and root, strictly, for both curves', async (t) => {
  for (const curve of ['P-256', 'P-384']) {
    const { root, intermediate } = authority(curve);
    const files = { root: root.certificate.pem, chain: intermediate.certificate.pem, leaf: leafOf(intermediate).pem };
    for (const purpose of ['sslserver', 'sslclient']) {
      const args = ['verify', '-x509_strict', '-purpose', purpose, '-CAfile', 'root', '-untrusted', 'chain', 'leaf'];
      t.match(openssl(t, args, files), 'leaf: OK');
    }
    t.match(openssl(t, ['verify', '-x509_strict', '-CAfile', 'root', 'root'], files), 'root: OK');
  }
});

t.test('a leaf says who it is and what it is for, and nothing else', async (t) => {
  const { root } = authority('P-256');
  const text = openssl(t, ['x509', '-in', 'leaf', '-noout', '-text'], { leaf: leafOf(root).pem });
  t.match(text, /Subject: *\n/);
  t.match(text, /X509v3 Key Usage: critical\s+Digital Signature\n/);
  t.match(text, 'TLS Web Server Authentication, TLS Web Client Authentication');
  t.match(text, /X509v3 Basic Constraints: critical\s+CA:FALSE/);
  t.match(text, new RegExp(`Subject Alternative Name: critical\\s+URI:${SPIFFE_ID}`));
  t.match(text, /X509v3 Authority Key Identifier/);
  const rsa = leafOf(root, generateKeyPairSync('rsa', { modulusLength: 2048 }).publicKey);
  t.match(
    openssl(t, ['x509', '-in', 'leaf', '-noout', '-text'], { leaf: rsa.pem }),
    /Digital Signature, Key Encipherment/,
  );
});

t.test('a CA says that it is one', async (t) => {
  const { root, intermediate } = authority('P-384');
  const text = (pem: string) => openssl(t, ['x509', '-in', 'c', '-noout', '-text'], { c: pem });
  t.match(text(root.certificate.pem), /X509v3 Basic Constraints: critical\s+CA:TRUE\n/);
  t.match(text(root.certificate.pem), /Key Usage: critical\s+Certificate Sign, CRL Sign/);
  t.match(text(root.certificate.pem), /ecdsa-with-SHA384/);
  t.match(text(intermediate.certificate.pem), /CA:TRUE, pathlen:0/);
  t.match(text(intermediate.certificate.pem), /Issuer: O = cluster.local, CN = root/);
});

t.test('what was issued reads back', async (t) => {
  const { intermediate } = authority('P-256');
  const keys = generateKeyPairSync('ec', { namedCurve: 'P-256' });
  const leaf = issueLeaf(intermediate, {
    publicKey: keys.publicKey,
    uriSans: [SPIFFE_ID],
    dnsSans: ['a.b.svc'],
    ipSans: ['10.0.0.1', 'fd00::1'],
    ...validity(0.1),
  });
  t.same(leaf.uriSans, [SPIFFE_ID]);
  t.same(leaf.dnsSans, ['a.b.svc']);
  t.match(new X509Certificate(leaf.pem).subjectAltName, /IP Address:10.0.0.1, IP Address:FD00:0:0:0:0:0:0:1/);
  t.equal(leaf.notBefore.getTime(), now - 2 * MINUTE);
  t.equal(leaf.isCa, false);
  t.ok(leaf.publicKey.equals(keys.publicKey));
  t.match(leaf.serial, /^[4-7][0-9a-f]{31}$/);
  t.equal(parseCertificate(leaf.pem).fingerprint, leaf.fingerprint);
  t.not(leafOf(intermediate).serial, leafOf(intermediate).serial);
});

t.test('dates past 2049 are written as they must be', async (t) => {
  const { root } = authority('P-256', 40);
  t.equal(root.certificate.notAfter.getTime(), now + 40 * YEAR);
});

t.test('chains are followed by signature, validity and right to sign', async (t) => {
  const { root, intermediate } = authority('P-256');
  const stranger = authority('P-256');
  const leaf = leafOf(intermediate);
  const at = new Date(now);
  const [r, i] = [root.certificate, intermediate.certificate];
  t.ok(chainsTo(leaf, [i], [stranger.root.certificate, r], at));
  t.ok(chainsTo(leaf, [stranger.intermediate.certificate, i], [r], at));
  t.notOk(chainsTo(leaf, [], [r], at), 'the intermediate is missing');
  t.notOk(chainsTo(leaf, [i], [stranger.root.certificate], at), 'a root of the same name');
  t.notOk(chainsTo(leaf, [i], [r], new Date(now + YEAR)), 'expired');
  t.notOk(chainsTo(leaf, [i], [r], new Date(now - 3 * MINUTE)), 'not yet valid');
  const forged = leafOf({ certificate: leaf, privateKey: intermediate.privateKey });
  t.notOk(chainsTo(forged, [leaf, i], [r], at), 'a leaf signs nothing');
});

t.test('openssl takes our revocation lists, with and without entries', async (t) => {
  const { root } = authority('P-256');
  const [good, bad] = [leafOf(root), leafOf(root)];
  const list = (serials: string[]) =>
    issueCrl(root, {
      number: 7,
      thisUpdate: new Date(now - MINUTE),
      nextUpdate: new Date(now + 60 * MINUTE),
      revoked: serials.map((serial) => ({ serial, at: new Date(now - MINUTE) })),
    });
  const verify = (leaf: string, serials: string[]) =>
    openssl(t, ['verify', '-crl_check', '-CAfile', 'root', '-CRLfile', 'crl', 'leaf'], {
      root: root.certificate.pem,
      crl: list(serials),
      leaf,
    });
  t.match(verify(good.pem, [bad.serial]), 'leaf: OK');
  t.match(verify(good.pem, []), 'leaf: OK');
  t.throws(() => verify(bad.pem, [bad.serial]), /certificate revoked/);
});

t.test('bundles come apart into their certificates', async (t) => {
  const { root, intermediate } = authority('P-256');
  const text = `${root.certificate.pem}comment\n-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n${intermediate.certificate.pem}`;
  t.same(splitPem('CERTIFICATE', text), [root.certificate.pem, intermediate.certificate.pem]);
  t.same(splitPem('CERTIFICATE', 'nothing'), []);
});
