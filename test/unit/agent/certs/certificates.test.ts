import { generateKeyPairSync } from 'node:crypto';
import t from 'tap';
import { Certificates, type SignedCertificate } from '../../../../src/agent/certs/certificates.js';
import { issueCrl } from '../../../../src/identity/crl.js';
import { issueIntermediate, issueLeaf, issueRoot } from '../../../../src/identity/issue.js';
import { fromPem } from '../../../../src/identity/pem.js';
import { ManualClock } from '../../../../src/lib/manual-clock.js';
import { err, ok, type Result } from '../../../../src/lib/result.js';
import { logger, setLogSink } from '../../../../src/telemetry/log.js';

setLogSink(() => undefined);

const P256 = { namedCurve: 'P-256' };
const HOUR_MS = 3_600_000;
const A = 'spiffe://cluster.local/ns/default/sa/a';
const B = 'spiffe://cluster.local/ns/default/sa/b';

/** An authority that answers when the test says so. */
class Desk {
  readonly waiting: { readonly identity: string; readonly answer: (result: Result<SignedCertificate>) => void }[] = [];

  request(identity: string): Promise<Result<SignedCertificate>> {
    const { promise, resolve } = Promise.withResolvers<Result<SignedCertificate>>();
    this.waiting.push({ identity, answer: resolve });
    return promise;
  }

  get names(): string[] {
    return this.waiting.map(({ identity }) => identity);
  }

  /** Answers the oldest request and lets everything that follows happen. */
  async answer(result: Result<SignedCertificate>): Promise<string> {
    const first = this.waiting.shift();
    first?.answer(result);
    await settled();
    return first?.identity ?? '';
  }
}

function setUp(options: { concurrency?: number } = {}) {
  const clock = new ManualClock();
  const desk = new Desk();
  const installed: string[] = [];
  const removed: string[] = [];
  let nextKey = 0;
  const certificates = new Certificates({
    dataplane: {
      createKey: () => ({ keyId: ++nextKey, publicKey: new Uint8Array([nextKey]) }),
      sign: () => new Uint8Array([1]),
      installCertificate: ({ identity, keyId }) => {
        installed.push(`${identity} key ${keyId}`);
        return { ok: true, error: '' };
      },
      removeCertificate: (identity) => removed.push(identity),
    },
    source: desk,
    buildCsr: ({ spiffeId, sign }) => `${spiffeId} ${sign(new Uint8Array())}`,
    clock,
    log: logger('certs'),
    random: () => 0,
    ...options,
  });
  const signed = (lifeMs = 24 * HOUR_MS): Result<SignedCertificate> =>
    ok({ chain: [new Uint8Array([1])], notBeforeMs: clock.now(), notAfterMs: clock.now() + lifeMs, serial: 'ff' });
  return { clock, desk, installed, removed, certificates, signed, keys: () => nextKey };
}

t.test('the first pod of an identity fetches it, the last one forgets it', async (t) => {
  const { desk, installed, removed, certificates, signed } = setUp();
  certificates.hold(A, 'pod-1');
  certificates.hold(A, 'pod-2');
  t.strictSame(desk.names, [A]);
  t.strictSame(certificates.missing(), [A]);
  await desk.answer(signed());
  t.strictSame(installed, [`${A} key 1`]);
  t.strictSame(certificates.missing(), []);
  certificates.release(A, 'pod-1');
  t.strictSame(removed, []);
  certificates.release(A, 'pod-2');
  t.strictSame(removed, [A]);
  t.strictSame(certificates.states(), []);
});

t.test('at half of its life a certificate is renewed with another key', async (t) => {
  const { clock, desk, installed, certificates, signed } = setUp();
  certificates.hold(A, 'pod');
  await desk.answer(signed(24 * HOUR_MS));
  clock.advance(12 * HOUR_MS - 1);
  t.strictSame(desk.names, []);
  clock.advance(1);
  t.strictSame(desk.names, [A]);
  await desk.answer(signed());
  t.strictSame(installed, [`${A} key 1`, `${A} key 2`]);
});

t.test('a certificate that is revoked, or stands under one that is, is replaced at once; others are not', async (t) => {
  const { clock, desk, installed, certificates } = setUp();
  const validity = { notBefore: new Date(clock.now()), notAfter: new Date(clock.now() + 24 * HOUR_MS) };
  const named = (commonName: string) => ({ ...validity, commonName, organization: 'test' });
  const [rootKeys, keys] = [generateKeyPairSync('ec', P256), generateKeyPairSync('ec', P256)];
  const root = { privateKey: rootKeys.privateKey, certificate: issueRoot(rootKeys.privateKey, named('root')) };
  const above = issueIntermediate(root, keys.publicKey, named('above'));
  const issuer = { privateKey: keys.privateKey, certificate: above };
  const signed = (): Result<SignedCertificate> & { value: SignedCertificate } => {
    const { der, serial } = issueLeaf(issuer, { ...validity, publicKey: keys.publicKey, uriSans: [A] });
    return {
      ok: true,
      value: {
        chain: [der, above.der],
        notBeforeMs: validity.notBefore.getTime(),
        notAfterMs: validity.notAfter.getTime(),
        serial,
      },
    };
  };
  const list = (by: typeof issuer, ...serials: string[]) => {
    const revoked = serials.map((serial) => ({ serial, at: validity.notBefore }));
    const dates = { thisUpdate: validity.notBefore, nextUpdate: validity.notAfter };
    return fromPem('X509 CRL', issueCrl(by, { number: 1, ...dates, revoked }))[0] ?? Buffer.alloc(0);
  };
  const [first, second] = [signed(), signed()];
  certificates.hold(A, 'pod-a');
  certificates.hold(B, 'pod-b');
  await desk.answer(first);
  await desk.answer(second);
  certificates.renewRevoked([list(issuer), list(root)]);
  certificates.renewRevoked([]);
  t.strictSame(desk.names, []);
  certificates.renewRevoked([list(root), list(issuer, '0123456789', first.value.serial)]);
  t.strictSame(desk.names, [A]);
  await desk.answer(signed());
  t.strictSame(installed, [`${A} key 1`, `${B} key 2`, `${A} key 3`]);
  certificates.renewRevoked([list(issuer, first.value.serial)]);
  t.strictSame(desk.names, [], 'it is another by now');
  certificates.renewRevoked([list(root, above.serial)]);
  t.strictSame(desk.names, [A, B]);
});

t.test('a failure is tried again with growing pauses and the same key, and the old certificate stays', async (t) => {
  const { clock, desk, installed, removed, certificates, signed, keys } = setUp();
  certificates.hold(A, 'pod');
  await desk.answer(signed(24 * HOUR_MS));
  clock.advance(12 * HOUR_MS);
  const pauses: number[] = [];
  for (let i = 0; i < 12; i++) {
    await desk.answer(err('the CA is down'));
    let pauseMs = 0;
    while (desk.waiting.length === 0) {
      clock.advance(250);
      pauseMs += 250;
    }
    pauses.push(pauseMs);
  }
  t.strictSame(pauses.slice(0, 4), [250, 500, 1000, 2000]);
  t.equal(pauses.at(-1), 75_000, 'half of 150 s is the longest pause without jitter');
  t.equal(keys(), 2);
  t.match(certificates.states(), [{ state: 'installed', error: 'the CA is down' }]);
  t.strictSame(removed, []);
  await desk.answer(signed());
  t.strictSame(installed, [`${A} key 1`, `${A} key 2`]);
  t.match(certificates.states(), [{ error: '' }]);
});

t.test('an identity that a connection waits for goes before one that is warmed up', async (t) => {
  const { desk, certificates, signed } = setUp({ concurrency: 1 });
  const others = ['c', 'd', 'e'].map((name) => `spiffe://cluster.local/ns/default/sa/${name}`);
  for (const identity of [A, ...others, B]) certificates.hold(identity, 'pod');
  certificates.want([B]);
  t.equal(await desk.answer(signed()), A);
  t.equal(await desk.answer(signed()), B);
  t.equal(await desk.answer(signed()), others[0]);
});

t.test('what comes back after the last pod has gone is not installed', async (t) => {
  const { desk, installed, certificates, signed } = setUp();
  certificates.hold(A, 'pod');
  certificates.release(A, 'pod');
  certificates.hold(A, 'pod');
  t.equal(desk.waiting.length, 2);
  await desk.answer(signed());
  t.strictSame(installed, [], 'the first request was for the entry that is gone');
  await desk.answer(signed());
  t.strictSame(installed, [`${A} key 2`]);
});

t.test('an expired certificate is refused and counts as missing', async (t) => {
  const { clock, desk, installed, certificates, signed } = setUp();
  certificates.hold(A, 'pod');
  await desk.answer(signed(0));
  t.strictSame(installed, []);
  t.match(certificates.states()[0]?.error, /expired already/);
  clock.advance(1000);
  await desk.answer(signed(10_000));
  clock.advance(10_000);
  t.strictSame(certificates.missing(), [A]);
});

async function settled(): Promise<void> {
  for (let i = 0; i < 10; i++) await Promise.resolve();
}
