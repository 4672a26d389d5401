import { generateKeyPairSync } from 'node:crypto';
import t, { type Test } from 'tap';
import { JwtVerifier } from '../../../src/control/ca/jwt-verifier.js';
import { TokenReviewVerifier } from '../../../src/control/ca/token-review-verifier.js';
import { bearerToken, type TokenVerifier } from '../../../src/control/ca/token-verifier.js';
import { ManualClock } from '../../../src/lib/manual-clock.js';
import { logger, setLevel } from '../../../src/telemetry/log.js';
import { createRegistry } from '../../../src/telemetry/metrics.js';
import { signJwt } from '../../support/jwt.js';
import { MemoryApi } from '../../support/memory-api.js';

setLevel('silent');

/** A verifier, and somebody whose tokens it believes. */
interface Rig {
  readonly verifier: TokenVerifier;
  readonly clock: ManualClock;
  token(claims?: Claims): string;
  /** By somebody else, with the same words. */
  forged(claims?: Claims): string;
}

interface Claims {
  readonly sub?: string;
  readonly aud?: string | string[];
  readonly node?: string;
  /** From now. */
  readonly expSeconds?: number;
}

const ACCOUNT = 'system:serviceaccount:istio-system:meltemi-agent';
const keys = () => generateKeyPairSync('ec', { namedCurve: 'P-256' });

const rigs: Readonly<Record<string, () => Rig>> = {
  JWT() {
    const clock = new ManualClock();
    const [known, stranger] = [keys(), keys()];
    const issuers = [{ issuer: 'lab', audience: 'istio-ca', publicKey: known.publicKey }];
    const sign =
      (key: typeof known.privateKey) =>
      ({ sub = ACCOUNT, aud = 'istio-ca', node, expSeconds = 3600 }: Claims = {}) =>
        signJwt(key, { iss: 'lab', sub, aud, node, exp: clock.now() / 1000 + expSeconds });
    return {
      verifier: new JwtVerifier({ issuers, trustDomain: 'cluster.local', clock }),
      clock,
      token: sign(known.privateKey),
      forged: sign(stranger.privateKey),
    };
  },
  TokenReview() {
    const clock = new ManualClock();
    const [known, stranger] = [keys(), keys()];
    const api = new MemoryApi();
    const made = new Set<string>();
    const write =
      (key: typeof known.privateKey) =>
      ({ sub = ACCOUNT, aud = 'istio-ca', node, expSeconds = 3600 }: Claims = {}) =>
        signJwt(key, { iss: 'https://kubernetes', sub, aud, node, exp: clock.now() / 1000 + expSeconds });
    /** As an API server answers. */
    api.review = ({ token, audiences }) => {
      const claims = JSON.parse(Buffer.from(token.split('.')[1] ?? '', 'base64url').toString()) as Claims & {
        exp: number;
      };
      const common = [claims.aud ?? []].flat().filter((each) => audiences.includes(each));
      const isGood = made.has(token) && clock.now() / 1000 < claims.exp && common.length > 0;
      if (!isGood) return { user: {}, error: 'token is no good' };
      const pod = { 'pod-name': ['agent-x'], 'pod-uid': ['u'], 'node-name': [claims.node] };
      const extra = Object.entries(claims.node === undefined ? {} : pod).map(([name, value]) => [
        `authentication.kubernetes.io/${name}`,
        value,
      ]);
      return {
        authenticated: true,
        audiences: common,
        user: { username: claims.sub, groups: [], extra: Object.fromEntries(extra) },
      };
    };
    return {
      verifier: new TokenReviewVerifier({
        api,
        audience: 'istio-ca',
        trustDomain: 'cluster.local',
        clock,
        log: logger('ca'),
        metrics: createRegistry(),
      }),
      clock,
      token(claims) {
        const token = write(known.privateKey)(claims);
        made.add(token);
        return token;
      },
      forged: write(stranger.privateKey),
    };
  },
};

for (const [name, make] of Object.entries(rigs)) {
  const suite = (sentence: string, run: (t: Test, rig: Rig) => Promise<void>) =>
    t.test(`${name}: ${sentence}`, (t) => run(t, make()));

  suite('a good token stands for its account on its node, for as long as it lives', async (t, rig) => {
    const result = await rig.verifier.verify(rig.token({ node: 'node-1' }));
    t.match(result, {
      ok: true,
      value: {
        identity: { trustDomain: 'cluster.local', namespace: 'istio-system', serviceAccount: 'meltemi-agent' },
        node: 'node-1',
      },
    });
    const { untilMs } = (result as { value: { untilMs: number } }).value;
    t.ok(untilMs >= rig.clock.now() + 3600_000 && untilMs <= rig.clock.now() + 3640_000);
  });

  suite('a token that is bound to no node speaks for none', async (t, rig) => {
    const result = await rig.verifier.verify(rig.token());
    t.match(result, { ok: true });
    t.equal((result as { value: { node: unknown } }).value.node, undefined);
  });

  suite('a token for another audience is not believed, one for several is', async (t, rig) => {
    t.match(await rig.verifier.verify(rig.token({ aud: 'vault' })), { ok: false });
    t.match(await rig.verifier.verify(rig.token({ aud: ['vault', 'istio-ca'] })), { ok: true });
  });

  suite('a token by somebody else is not believed', async (t, rig) => {
    t.match(await rig.verifier.verify(rig.forged()), { ok: false });
  });

  suite('a token that has ended is not believed, also when it was before', async (t, rig) => {
    const token = rig.token({ expSeconds: 600 });
    t.match(await rig.verifier.verify(token), { ok: true });
    rig.clock.advance(590_000);
    t.match(await rig.verifier.verify(token), { ok: true });
    rig.clock.advance(60_000);
    t.match(await rig.verifier.verify(token), { ok: false });
  });

  suite('only service accounts are let in', async (t, rig) => {
    for (const sub of [
      'kubernetes-admin',
      'system:node:node-1',
      'system:serviceaccount:a',
      'system:serviceaccount:a:b:c',
      '',
    ]) {
      t.match(await rig.verifier.verify(rig.token({ sub })), { ok: false, error: /is no service account/ }, sub);
    }
  });

  suite('a node that is no name is refused', async (t, rig) => {
    for (const node of ['a/b', '../x', 'A B'])
      t.match(await rig.verifier.verify(rig.token({ node })), { ok: false }, node);
  });

  suite('what is refused is refused with a reason without the token', async (t, rig) => {
    for (const token of [rig.forged(), rig.token({ aud: 'x' }), rig.token({ sub: 'x' })]) {
      const result = await rig.verifier.verify(token);
      t.ok(!result.ok && result.error.length > 10 && !result.error.includes(token.slice(-20)));
    }
    t.match(bearerToken(`Bearer ${'x'.repeat(10_000)}`), { ok: false });
  });
}
