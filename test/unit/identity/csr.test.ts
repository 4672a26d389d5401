import { execFileSync } from 'node:child_process';
import { createPublicKey, generateKeyPairSync, type KeyObject, sign } from 'node:crypto';
import fc from 'fast-check';
import t from 'tap';
import { buildCsr, parseCsr } from '../../../src/identity/csr.js';
import { toPem } from '../../../src/identity/pem.js';

const SPIFFE_ID = 'spiffe://cluster.local/ns/shop/sa/cart';

const csrOf = (keys: { publicKey: KeyObject; privateKey: KeyObject }, spiffeId = SPIFFE_ID): string =>
  buildCsr({
    spiffeId,
    publicKeySpki: keys.publicKey.export({ format: 'der', type: 'spki' }),
    sign: (bytes) => sign('sha256', bytes, keys.privateKey),
  });
const p256 = () => generateKeyPairSync('ec', { namedCurve: 'P-256' });
const openssl = (args: string[], input?: string): string =>
  execFileSync('openssl', args, { encoding: 'utf8', stdio: ['pipe', 'pipe', 'pipe'], ...(input ? { input } : {}) });

t.test('openssl reads and verifies a request of ours', async (t) => {
  const text = openssl(['req', '-verify', '-noout', '-text'], csrOf(p256()));
  t.match(text, /X509v3 Subject Alternative Name: critical\s+URI:spiffe:\/\/cluster.local\/ns\/shop\/sa\/cart/);
  t.match(text, 'ecdsa-with-SHA256');
  t.match(text, /Subject: *\n/);
});

t.test('a request of ours comes back whole', async (t) => {
  const keys = p256();
  const parsed = parseCsr(csrOf(keys));
  if (!parsed.ok) throw new Error(parsed.error);
  t.same(parsed.value.names, { uris: [SPIFFE_ID], dnsNames: [], ips: [], others: 0 });
  t.ok(parsed.value.publicKey.equals(keys.publicKey));
  t.ok(createPublicKey({ key: parsed.value.publicKeySpki, format: 'der', type: 'spki' }).equals(keys.publicKey));
});

t.test('requests made by openssl are read, with EC and RSA keys and every hash', async (t) => {
  const dir = t.testdir();
  const kinds: [string, string[]][] = [
    ['sha256', ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256']],
    ['sha384', ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-384']],
    ['sha512', ['-newkey', 'rsa:2048']],
  ];
  for (const [hash, key] of kinds) {
    const san = `subjectAltName=URI:${SPIFFE_ID},DNS:cart.shop,IP:10.0.0.1,email:a@b`;
    const args = ['req', '-new', ...key, '-nodes', '-keyout', `${dir}/k`, `-${hash}`, '-subj', '/O=x', '-addext', san];
    const parsed = parseCsr(openssl(args));
    t.match(parsed, {
      ok: true,
      value: { names: { uris: [SPIFFE_ID], dnsNames: ['cart.shop'], ips: ['10.0.0.1'], others: 1 } },
    });
  }
});

t.test('a request whose signature is another key’s is refused', async (t) => {
  const mine = p256();
  const csr = csrOf({ publicKey: mine.publicKey, privateKey: p256().privateKey });
  t.match(parseCsr(csr), { ok: false, error: /signature of the CSR does not verify/ });
});

t.test('weak and foreign keys are refused before they are used', async (t) => {
  const dir = t.testdir();
  const made = (key: string[]): string =>
    openssl(['req', '-new', ...key, '-nodes', '-keyout', `${dir}/k`, '-subj', '/O=x']);
  t.match(parseCsr(made(['-newkey', 'rsa:1024'])), { error: /1024 bits/ });
  t.match(parseCsr(made(['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:secp256k1'])), { error: /secp256k1/ });
  t.match(parseCsr(made(['-newkey', 'ed25519'])), { error: /ed25519/ });
});

t.test('oversized, doubled, empty and non-canonical requests are refused with a reason', async (t) => {
  const csr = csrOf(p256());
  t.match(parseCsr('x'.repeat(20_000)), { ok: false, error: /20000 characters/ });
  t.match(parseCsr(csr + csr), { ok: false, error: /2 CERTIFICATE REQUEST blocks/ });
  t.match(parseCsr('hello'), { ok: false, error: /no CERTIFICATE REQUEST/ });
  const nested = Buffer.alloc(6000);
  for (let i = 0; i < 6000; i += 4) nested.set([0x30, 0x82, (5996 - i) >> 8, (5996 - i) & 0xff], i);
  t.match(parseCsr(toPem('CERTIFICATE REQUEST', nested)), { ok: false });
  const privateClass = Buffer.from(csr.replace(/-----.*-----|\n/g, ''), 'base64');
  privateClass[0] = 0xf0;
  t.match(parseCsr(toPem('CERTIFICATE REQUEST', privateClass)), { ok: false, error: /expected ASN.1 type 16/ });
});

t.test('no damage to a request throws or is taken for a good one', async () => {
  const der = Buffer.from(csrOf(p256()).replace(/-----.*-----|\n/g, ''), 'base64');
  fc.assert(
    fc.property(fc.nat(der.length - 1), fc.integer({ min: 1, max: 255 }), fc.nat(der.length), (at, flip, cut) => {
      const damaged = Buffer.from(der);
      damaged[at] = (damaged[at] ?? 0) ^ flip;
      return (
        !parseCsr(toPem('CERTIFICATE REQUEST', damaged)).ok &&
        (cut === der.length || !parseCsr(toPem('CERTIFICATE REQUEST', der.subarray(0, cut))).ok)
      );
    }),
    { numRuns: 500 },
  );
});
