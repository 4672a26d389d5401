import { generateKeyPairSync } from 'node:crypto';
import { readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { openDirectoryCa } from '../../../../src/control/ca/directory-ca.js';
import { caRoutes } from '../../../../src/control/ca/routes.js';
import { type Certificate, chainsTo, parseCertificate } from '../../../../src/identity/certificate.js';
import { splitPem } from '../../../../src/identity/pem.js';
import { ManualClock } from '../../../../src/lib/manual-clock.js';
import { logger, setLevel } from '../../../../src/telemetry/log.js';
import { pass } from '../../../support/pass.js';

setLevel('silent');

const HOUR = 3600_000;
const DAY = 24 * HOUR;
const CART = 'spiffe://cluster.local/ns/shop/sa/cart';
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
  const issue = (ttlSeconds = 0, holder = 'node-1 cart') => {
    const result = authority.issue({ publicKey, uriSans: [CART], ttlSeconds, holder });
    if (!result.ok) throw new Error(result.error);
    return result.value;
  };
  const bundle = () => readFileSync(join(directory, 'root-cert.pem'), 'utf8');
  const certificates = (pem: string) => splitPem('CERTIFICATE', pem).map((each) => parseCertificate(each));
  /** As a peer that trusts what is in the bundle file now. */
  const trusted = (chain: readonly string[], roots = bundle()): boolean => {
    const [leaf, ...above] = chain.slice(0, -1).map((pem) => parseCertificate(pem));
    return chainsTo(leaf as Certificate, above, certificates(roots), new Date(clock.now()));
  };
  return { authority, clock, directory, issue, bundle, certificates, trusted };
}

t.test('a fresh CA makes a root, keeps its keys to itself and publishes the bundle', async (t) => {
  const { directory, issue, bundle, certificates, trusted } = await open(t);
  t.same(readdirSync(directory).sort(), ['ca-crl.pem', 'ca.json', 'revocations.json', 'root-cert.pem']);
  for (const name of ['ca.json', 'revocations.json']) t.equal(statSync(join(directory, name)).mode & 0o777, 0o600);
  t.notMatch(bundle(), /PRIVATE/);
  const { chain, certificate } = issue();
  t.equal(chain.length, 3);
  t.equal(chain.at(-1), bundle());
  t.same(certificate.uriSans, [CART]);
  t.ok(trusted(chain));
  t.equal(certificates(bundle()).length, 1);
  t.match(certificate.notAfter.getTime() - certificate.notBefore.getTime(), DAY + 120_000);
});

t.test('the CA survives a restart, and a state that cannot be used is never replaced by a new root', async (t) => {
  const first = await open(t);
  const { chain } = first.issue();
  first.authority.close();
  const second = await open(t, first.directory, first.clock);
  t.ok(second.trusted(chain));
  t.equal(second.bundle(), first.bundle());
  writeFileSync(join(first.directory, 'ca.json'), '{"version":1,"phase":"stable"');
  await t.rejects(open(t, first.directory), /ca.json cannot be used: .*Restore it/);
  t.equal(readFileSync(join(first.directory, 'ca.json'), 'utf8'), '{"version":1,"phase":"stable"');
});

t.test('validity is what was asked for, within bounds, and never longer than the issuer’s', async (t) => {
  const { authority, clock, issue } = await open(t);
  t.equal(issue(600).certificate.notAfter.getTime(), clock.now() + 600_000);
  t.equal(issue(90 * 86_400).certificate.notAfter.getTime(), clock.now() + 90 * DAY);
  for (const ttlSeconds of [-1, 90 * 86_400 + 1]) {
    t.match(authority.issue({ publicKey, uriSans: [CART], ttlSeconds, holder: 'x' }), { error: /not 0 to 7776000 s/ });
  }
});

t.test('a new intermediate signs what comes, and what came before stays good', async (t) => {
  const { authority, issue, trusted, bundle } = await open(t);
  const before = issue();
  const roots = bundle();
  t.match(await authority.rotateIntermediate(), { ok: true });
  const after = issue();
  t.not(before.chain[1], after.chain[1]);
  t.ok(trusted(before.chain));
  t.ok(trusted(after.chain));
  t.equal(bundle(), roots);
});

t.test('the intermediate is replaced by itself at half of its life', async (t) => {
  const { clock, issue } = await open(t);
  const before = issue();
  await pass(clock, 182 * DAY);
  t.equal(issue().chain[1], before.chain[1]);
  await pass(clock, DAY);
  t.not(issue().chain[1], before.chain[1]);
});

t.test(
  'through every step of a root rotation whatever is shown is trusted, and in the end the old is refused',
  async (t) => {
    const { authority, issue, trusted, bundle, certificates } = await open(t);
    const oldRoot = bundle();
    const oldLeaf = issue();
    issue(0, 'node-2 cart');
    const steps: string[] = [];
    authority.subscribe(() => steps.push(bundle()));

    t.match(await authority.rotateRoot('add'), { ok: true, value: 'distributing' });
    t.equal(certificates(bundle()).length, 2);
    const between = issue();
    t.ok(trusted(between.chain, oldRoot), 'an agent that has the old bundle only trusts what is signed now');
    t.ok(trusted(oldLeaf.chain));
    t.match(
      await authority.rotateRoot('sign'),
      { error: /before this step until .* force/ },
      'node-2 lacks the bundle',
    );
    t.match(authority.describe(), { holders: 2, holdersWithFormerBundle: 1, waiting: /some may hold/ });
    issue(0, 'node-2 cart');

    const bothRoots = bundle();
    t.match(await authority.rotateRoot('sign'), { ok: true, value: 'signing' });
    const newLeaf = issue(0, 'node-2 cart');
    t.ok(
      trusted(newLeaf.chain, bothRoots),
      'an agent that has the bundle of the former step trusts what is signed now',
    );
    t.notOk(trusted(newLeaf.chain, oldRoot));
    t.ok(trusted(oldLeaf.chain));
    t.equal(certificates(bundle()).length, 2);

    t.match(
      await authority.rotateRoot('drop'),
      { error: /before this step until .* force/ },
      'node-1 shows an old one',
    );
    const renewed = issue();
    t.match(await authority.rotateRoot('drop'), { ok: true, value: 'stable' });
    t.equal(certificates(bundle()).length, 1);
    t.ok(trusted(newLeaf.chain));
    t.ok(trusted(renewed.chain));
    t.notOk(trusted(oldLeaf.chain), 'the old root is refused');
    t.notOk(trusted(between.chain));
    t.equal(new Set(steps).size, 3, 'each step changed the bundle');
  },
);

t.test('certificates that have ended hold nothing back', async (t) => {
  const { authority, clock, issue } = await open(t);
  issue(600);
  await authority.rotateRoot('add');
  t.match(await authority.rotateRoot('sign'), { ok: false });
  clock.advance(600_000);
  t.match(await authority.rotateRoot('sign'), { ok: true });
  t.match(await authority.rotateRoot('drop'), { ok: true }, 'nobody holds anything');
});

t.test('steps out of order are refused with the one that is due', async (t) => {
  const { authority } = await open(t);
  t.match(await authority.rotateRoot('sign'), { error: /in phase stable, where the next step is add, not sign/ });
  t.match(await authority.rotateRoot('drop'), { error: /next step is add/ });
  await authority.rotateRoot('add');
  t.match(await authority.rotateRoot('add'), { error: /next step is sign/ });
});

t.test('a rotation continues after a restart, and then waits for certificates it does not know of', async (t) => {
  const first = await open(t);
  const oldLeaf = first.issue();
  await first.authority.rotateRoot('add');
  first.authority.close();
  first.clock.advance(HOUR);
  const second = await open(t, first.directory, first.clock);
  t.match(await second.authority.rotateRoot('sign'), { ok: false });
  t.match(await second.authority.rotateRoot('sign', true), { ok: true });
  second.issue();
  t.ok(second.trusted(oldLeaf.chain));
  t.match(await second.authority.rotateRoot('drop'), { ok: false }, 'somebody may hold one from before the restart');
  first.clock.advance(DAY);
  t.match(await second.authority.rotateRoot('drop'), { ok: true });
});

t.test('the old root can be dropped by force', async (t) => {
  const { authority, issue, trusted } = await open(t);
  const oldLeaf = issue();
  await authority.rotateRoot('add');
  await authority.rotateRoot('sign', true);
  t.match(await authority.rotateRoot('drop', true), { ok: true });
  t.notOk(trusted(oldLeaf.chain));
});

t.test('operators rotate over admin routes', async (t) => {
  const { authority } = await open(t);
  const routes = caRoutes(authority);
  const ask = async (what: string) => {
    const [method, path] = what.split(' ');
    const url = new URL(path ?? '', 'http://localhost');
    const answer = await routes.get(`${method} ${url.pathname}`)?.(url, undefined as never);
    return { status: answer?.status ?? 200, body: answer?.body ?? '' };
  };
  t.match(await ask('GET /ca'), { status: 200, body: /"phase": "stable"/ });
  t.notMatch((await ask('GET /ca')).body, /PRIVATE/);
  t.match(await ask('POST /ca/rotate'), { status: 400, body: /phase is null/ });
  t.match(await ask('POST /ca/rotate?phase=drop'), { status: 409, body: /next step is add/ });
  t.match(await ask('POST /ca/rotate?phase=add'), { status: 200, body: /"nextStep": "sign"/ });
  t.match(await ask('POST /ca/rotate-intermediate'), { status: 200 });
});
