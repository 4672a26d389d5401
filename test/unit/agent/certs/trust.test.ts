import { readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { Trust } from '../../../../src/agent/certs/trust.js';
import type { TrustAnchor } from '../../../../src/agent/dataplane/dataplane.js';
import { fromPem } from '../../../../src/identity/pem.js';
import { ManualClock } from '../../../../src/lib/manual-clock.js';
import { logger, setLogSink } from '../../../../src/telemetry/log.js';
import { TestCa } from '../../../support/certificates.js';

const lines: string[] = [];
setLogSink((line) => lines.push(line));

async function setUp(t: Test, revocations = '') {
  const directory = t.testdir();
  const clock = new ManualClock();
  const sets: TrustAnchor[][] = [];
  const lists: number[] = [];
  const trusted: boolean[] = [];
  const revoked: number[] = [];
  let refuse = '';
  let waiting: (() => void)[] = [];
  const happened = () => {
    for (const each of waiting.splice(0)) each();
  };
  const rootsPath = join(directory, 'roots.pem');
  const trust = new Trust({
    dataplane: {
      setTrust(anchors) {
        sets.push([...anchors]);
        happened();
        return refuse === '' ? { ok: true, error: '' } : { ok: false, error: refuse };
      },
      setRevocations(crls) {
        lists.push(crls.length);
        happened();
        return { ok: refuse === '', error: refuse };
      },
    },
    clock,
    log: logger('certs'),
    trustDomain: 'cluster.local',
    rootsPath,
    revocationsPath: revocations === '' ? '' : join(directory, revocations),
    trusted: (isFirst) => trusted.push(isFirst),
    revoked: (all) => revoked.push(all.length),
  });
  t.teardown(() => trust.close());
  return {
    trust,
    sets,
    lists,
    trusted,
    revoked,
    rootsPath,
    directory,
    refuseWith(error: string): void {
      refuse = error;
    },
    /** Resolves when the engine has been told something new. */
    async told(): Promise<void> {
      const { promise, resolve } = Promise.withResolvers<void>();
      waiting = [resolve];
      clock.advance(1000);
      await promise;
    },
  };
}

t.test('roots are followed, and a later set is told apart from the first', async (t) => {
  using one = new TestCa();
  using other = new TestCa();
  const { trust, sets, trusted, rootsPath, told } = await setUp(t);
  writeFileSync(rootsPath, readFileSync(one.root));
  await trust.start();
  t.match(sets, [[{ trustDomain: 'cluster.local', roots: { length: 1 } }]]);
  writeFileSync(rootsPath, Buffer.concat([readFileSync(one.root), readFileSync(other.root)]));
  await told();
  t.equal(sets[1]?.[0]?.roots.length, 2);
  t.strictSame(trusted, [true, false]);
});

t.test('without roots nothing is trusted, and they are waited for', async (t) => {
  using ca = new TestCa();
  const { trust, sets, rootsPath, told } = await setUp(t);
  await trust.start();
  t.strictSame(sets, []);
  writeFileSync(rootsPath, readFileSync(ca.root));
  await told();
  t.equal(sets.length, 1);
});

t.test('a file without a certificate, or one that the engine refuses, changes nothing', async (t) => {
  using ca = new TestCa();
  const { trust, sets, trusted, rootsPath, refuseWith } = await setUp(t);
  writeFileSync(rootsPath, 'nothing in here');
  await trust.start();
  t.strictSame([sets, trusted], [[], []]);
  t.ok(lines.some((line) => line.includes('holds no PEM certificate')));
  refuseWith('the root is no CA');
  rmSync(rootsPath);
  writeFileSync(rootsPath, readFileSync(ca.root));
  await trust.start();
  t.strictSame(trusted, []);
  t.ok(lines.some((line) => line.includes('the root is no CA')));
});

t.test('revocation lists are read as PEM or as DER, and told of when they are in force', async (t) => {
  using ca = new TestCa();
  const { trust, lists, revoked, directory, rootsPath, told, refuseWith } = await setUp(t, 'crl');
  const pem = readFileSync(ca.revocationList([]), 'latin1');
  writeFileSync(rootsPath, readFileSync(ca.root));
  writeFileSync(join(directory, 'crl'), pem);
  await trust.start();
  t.strictSame([lists, revoked], [[1], [1]]);
  writeFileSync(join(directory, 'crl'), fromPem('X509 CRL', pem)[0] ?? '');
  await told();
  t.strictSame(
    [lists, revoked],
    [
      [1, 1],
      [1, 1],
    ],
  );
  refuseWith('no');
  writeFileSync(join(directory, 'crl'), pem + pem);
  await told();
  t.strictSame(
    [lists, revoked],
    [
      [1, 1, 2],
      [1, 1],
    ],
  );
  refuseWith('');
  writeFileSync(join(directory, 'crl'), '');
  await told();
  t.strictSame(
    [lists, revoked],
    [
      [1, 1, 2, 0],
      [1, 1, 0],
    ],
  );
});
