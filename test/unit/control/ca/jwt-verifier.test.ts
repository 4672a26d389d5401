import { createHmac, generateKeyPairSync, sign } from 'node:crypto';
import fc from 'fast-check';
import t from 'tap';
import { JwtVerifier } from '../../../../src/control/ca/jwt-verifier.js';
import { bearerToken } from '../../../../src/control/ca/token-verifier.js';
import { ManualClock } from '../../../../src/lib/manual-clock.js';
import { signJwt } from '../../../support/jwt.js';

const clock = new ManualClock();
const now = clock.now() / 1000;
const lab = generateKeyPairSync('ec', { namedCurve: 'P-256' });
const other = generateKeyPairSync('ec', { namedCurve: 'P-256' });
const verifier = new JwtVerifier({
  issuers: [
    { issuer: 'lab', audience: 'istio-ca', publicKey: lab.publicKey },
    { issuer: 'other', audience: 'elsewhere', publicKey: other.publicKey },
  ],
  trustDomain: 'cluster.local',
  clock,
});
const claims = {
  iss: 'lab',
  aud: 'istio-ca',
  sub: 'system:serviceaccount:istio-system:meltemi-agent',
  node: 'node-1',
  exp: now + 3600,
};
const check = (changes: object, header?: Record<string, unknown>) =>
  verifier.verify(signJwt(lab.privateKey, { ...claims, ...changes }, header));

t.test('a good token says who, on which node and until when', async (t) => {
  t.same(await check({}), {
    ok: true,
    value: {
      identity: { trustDomain: 'cluster.local', namespace: 'istio-system', serviceAccount: 'meltemi-agent' },
      node: 'node-1',
      untilMs: (now + 3600 + 30) * 1000,
    },
  });
  t.match(await check({ aud: ['other', 'istio-ca'], node: undefined, nbf: now }), {
    ok: true,
    value: { node: undefined },
  });
});

t.test('each condition is needed', async (t) => {
  const refusals: [object, RegExp][] = [
    [{ iss: 'stranger' }, /by "stranger", who is not trusted/],
    [{ iss: 'other' }, /signature is not by "other"/],
    [{ aud: 'elsewhere' }, /for "elsewhere", not for "istio-ca"/],
    [{ aud: undefined }, /for nobody/],
    [{ exp: now - 30 }, /ended at/],
    [{ exp: undefined }, /no end/],
    [{ exp: `${now + 3600}` }, /no end/],
    [{ nbf: now + 31 }, /not valid before/],
    [{ nbf: 'soon' }, /not valid before "soon"/],
    [{ sub: 'meltemi-agent' }, /no service account/],
    [{ sub: 'system:serviceaccount:istio-system:a:b' }, /no service account/],
    [{ sub: 'system:serviceaccount:istio-system:../x' }, /no service account/],
    [{ node: 7 }, /no node name/],
    [{ node: 'Node 1' }, /no node name/],
  ];
  for (const [change, error] of refusals) t.match(await check(change), { ok: false, error });
});

t.test('clocks may differ a little', async (t) => {
  t.match(await check({ exp: now - 29 }), { ok: true });
  t.match(await check({ nbf: now + 30 }), { ok: true });
});

t.test('only ES256 counts, whatever the token says', async (t) => {
  t.match(await check({}, { alg: 'none' }), { error: /signed with "none"/ });
  t.match(await check({}, { alg: 'ES256', crit: ['b64'] }), { error: /extensions/ });
  const content = signJwt(lab.privateKey, claims, { alg: 'HS256' }).split('.').slice(0, 2).join('.');
  const secret = lab.publicKey.export({ format: 'pem', type: 'spki' });
  const mac = createHmac('sha256', secret).update(content).digest('base64url');
  t.match(await verifier.verify(`${content}.${mac}`), { error: /signed with "HS256"/ });
  t.match(await verifier.verify(`${content}.`), { error: /no JWT/ });
  const es256 = signJwt(lab.privateKey, claims).split('.').slice(0, 2).join('.');
  const der = sign('sha256', Buffer.from(es256), lab.privateKey).toString('base64url');
  t.match(await verifier.verify(`${es256}.${der}`), { error: /signature/ });
});

t.test('no damage to a token lets it through or throws', async () => {
  const token = signJwt(lab.privateKey, claims);
  await fc.assert(
    fc.asyncProperty(fc.nat(token.length - 1), fc.constantFrom(...'aZ09-_.=é{'), async (at, char) => {
      const damaged = token.slice(0, at) + char + token.slice(at + 1);
      // The last character of a part may hold bits that stand for nothing.
      return Buffer.from(damaged, 'base64url').equals(Buffer.from(token, 'base64url')) ||
        damaged === token ||
        at === token.length - 1
        ? true
        : !(await verifier.verify(damaged)).ok;
    }),
    { numRuns: 500 },
  );
  await fc.assert(fc.asyncProperty(fc.string(), async (text) => !(await verifier.verify(text)).ok));
});

t.test('keys that are not for ES256 are refused when the verifier is made', async (t) => {
  const issuer = (publicKey: typeof lab.publicKey) => () =>
    new JwtVerifier({ issuers: [{ issuer: 'x', audience: 'y', publicKey }], trustDomain: 'z', clock });
  t.throws(
    issuer(generateKeyPairSync('rsa', { modulusLength: 2048 }).publicKey),
    /issuer x is not a public EC P-256 key/,
  );
  t.throws(issuer(lab.privateKey), /not a public/);
});

t.test('bearer tokens are taken from their header, within bounds', async (t) => {
  t.same(bearerToken('Bearer abc'), { ok: true, value: 'abc' });
  t.same(bearerToken('bearer abc'), { ok: true, value: 'abc' });
  t.match(bearerToken(undefined), { error: /no authorization header/ });
  t.match(bearerToken('Basic abc'), { error: /no bearer token/ });
  t.match(bearerToken('Bearer a b'), { error: /no bearer token/ });
  t.match(bearerToken(`Bearer ${'x'.repeat(9000)}`), { error: /9007 characters long/ });
});
