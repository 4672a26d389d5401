import { generateKeyPairSync } from 'node:crypto';
import { readFileSync, renameSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import type { Authority } from '../../../src/control/ca/authority.js';
import { openDirectoryCa } from '../../../src/control/ca/directory-ca.js';
import { openSecretCa } from '../../../src/control/ca/secret-ca.js';
import { type Certificate, chainsTo, parseCertificate } from '../../../src/identity/certificate.js';
import { parseCrl } from '../../../src/identity/crl.js';
import { splitPem } from '../../../src/identity/pem.js';
import { ApiError, type ApiObject } from '../../../src/kube/api.js';
import { RESOURCES } from '../../../src/kube/resources.js';
import { ManualClock } from '../../../src/lib/manual-clock.js';
import { logger, setLevel, setLogSink } from '../../../src/telemetry/log.js';
import { MemoryApi } from '../../support/memory-api.js';
import { pass } from '../../support/pass.js';

const logged: string[] = [];
setLogSink((line) => logged.push(line));
setLevel('trace');

/** Where a mesh keeps its CA, and what may happen to that place. */
interface Place {
  open(clock: ManualClock): Promise<Authority>;
  /** What is kept there under this name, whole. */
  read(what: What): Promise<string>;
  write(what: What, text: string): Promise<void>;
  /** Lets every write fail until told otherwise. */
  block(isBlocked: boolean): void;
}

type What = 'state' | 'revocations';

const SETTINGS = { trustDomain: 'cluster.local', defaultTtlSeconds: 86_400 };
const CART = 'spiffe://cluster.local/ns/shop/sa/cart';
const DAY = 24 * 3600_000;
const { publicKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });

const places: Readonly<Record<string, (t: Test) => Place>> = {
  directory(t) {
    const directory = t.testdir({ ca: {} });
    const ca = join(directory, 'ca');
    const path = (what: What): string => join(ca, what === 'state' ? 'ca.json' : 'revocations.json');
    return {
      open: (clock) => openDirectoryCa({ ...SETTINGS, directory: ca, clock, log: logger('ca') }),
      read: async (what) => readFileSync(path(what), 'utf8'),
      write: async (what, text) => writeFileSync(path(what), text),
      block: (isBlocked) => (isBlocked ? renameSync(ca, `${ca}-away`) : renameSync(`${ca}-away`, ca)),
    };
  },
  Secret() {
    const server = new MemoryApi();
    const clients: MemoryApi[] = [];
    const of = (what: What) =>
      what === 'state'
        ? (['istio-ca-secret', 'meltemi-ca.json'] as const)
        : (['meltemi-ca-revocations', 'revocations.json'] as const);
    const secret = async (what: What): Promise<ApiObject> => {
      const found = await server.get(RESOURCES.Secret, { namespace: 'istio-system', name: of(what)[0] });
      if (found === undefined) throw new Error(`there is no ${what}`);
      return found;
    };
    return {
      open(clock) {
        const api = new MemoryApi(server);
        clients.push(api);
        const isInCharge = () => true;
        return openSecretCa({ ...SETTINGS, api, namespace: 'istio-system', isInCharge, clock, log: logger('ca') });
      },
      async read(what) {
        const { data } = (await secret(what)) as unknown as { data: Record<string, string> };
        return Buffer.from(data[of(what)[1]] ?? '', 'base64').toString();
      },
      async write(what, text) {
        const found = await secret(what);
        const data = { ...(found.data as object), [of(what)[1]]: Buffer.from(text).toString('base64') };
        await server.replace(RESOURCES.Secret, { ...found, data });
      },
      block(isBlocked) {
        for (const api of clients) {
          api.before = ({ verb }) => {
            if (isBlocked && verb !== 'watch') throw new ApiError(0, '', `${verb}: no way to the API server`);
          };
        }
      },
    };
  },
};

for (const [name, make] of Object.entries(places)) {
  const start = async (t: Test) => {
    const place = make(t);
    const clock = new ManualClock();
    const opened: Authority[] = [];
    t.teardown(() => {
      for (const each of opened) each.close();
    });
    const open = async () => {
      const authority = await place.open(clock);
      opened.push(authority);
      return authority;
    };
    const issue = (authority: Authority, holder = 'node-1 cart') => {
      const issued = authority.issue({ publicKey, uriSans: [CART], ttlSeconds: 0, holder });
      if (!issued.ok) throw new Error(issued.error);
      return issued.value;
    };
    /** As a peer that has this bundle. */
    const isTrusted = (chain: readonly string[], bundle: string): boolean => {
      const [leaf, ...above] = chain.slice(0, -1).map((pem) => parseCertificate(pem));
      const roots = splitPem('CERTIFICATE', bundle).map((pem) => parseCertificate(pem));
      return chainsTo(leaf as Certificate, above, roots, new Date(clock.now()));
    };
    return { place, clock, open, issue, isTrusted };
  };
  const suite = (sentence: string, run: (t: Test, it: Awaited<ReturnType<typeof start>>) => Promise<void>) =>
    t.test(`${name}: ${sentence}`, async (t) => run(t, await start(t)));

  suite('a CA is made once, and is the same after a restart', async (t, { place, open, issue, isTrusted }) => {
    const first = await open();
    const { chain } = issue(first);
    first.close();
    const second = await open();
    t.equal(second.bundle, first.bundle);
    t.ok(isTrusted(chain, second.bundle));
    t.ok(isTrusted(issue(second).chain, first.bundle));
    t.match(await place.read('state'), /BEGIN PRIVATE KEY/);
  });

  suite('a state that is damaged is never replaced by a new root', async (t, { place, open }) => {
    (await open()).close();
    for (const [what, text] of [
      ['state', '{"version":1,"phase":"stable"'],
      ['revocations', '{"version":1}'],
    ] as const) {
      const before = await place.read(what);
      await place.write(what, text);
      await t.rejects(open(), /cannot be used: .*Restore it/);
      t.equal(await place.read(what), text);
      await place.write(what, before);
    }
    await t.resolves(open());
  });

  suite('a rotation goes on where it was, over restarts', async (t, { clock, open, issue, isTrusted }) => {
    // Whoever made the root would know everybody who has a certificate.
    (await open()).close();
    clock.advance(DAY);
    let authority = await open();
    const old = issue(authority);
    const oldBundle = authority.bundle;
    for (const [step, phase, roots] of [
      ['add', 'distributing', 2],
      ['sign', 'signing', 2],
      ['drop', 'stable', 1],
    ] as const) {
      t.match(await authority.rotateRoot(step === 'add' ? 'drop' : 'add'), { ok: false });
      t.match(await authority.rotateRoot(step), step === 'add' ? { value: phase } : { error: /force/ });
      if (step !== 'add') t.match(await authority.rotateRoot(step, true), { value: phase });
      t.equal(splitPem('CERTIFICATE', authority.bundle).length, roots);
      authority.close();
      const again = await open();
      t.equal(again.bundle, authority.bundle);
      t.ok(isTrusted(issue(again).chain, authority.bundle));
      authority = again;
    }
    t.not(authority.bundle, oldBundle);
    t.notOk(isTrusted(old.chain, authority.bundle));
  });

  suite('what is revoked stays so, over restarts and new intermediates', async (t, { open, issue }) => {
    const first = await open();
    const { certificate } = issue(first);
    t.equal(first.revocationLists, '');
    t.match(await first.revoke(certificate.serial), { ok: true });
    t.match(await first.rotateIntermediate(), { ok: true });
    first.close();
    const second = await open();
    t.equal(second.revocationLists, first.revocationLists);
    const lists = splitPem('X509 CRL', second.revocationLists).map((pem) => parseCrl(pem));
    t.equal(lists.length, 3);
    t.ok(lists.some((list) => list.isSignedBy(second.material.issuer.certificate.publicKey)));
    t.match(second.describe(), { revoked: [certificate.serial] });
  });

  suite('the intermediate is replaced by itself', async (t, { clock, open, issue, isTrusted }) => {
    const authority = await open();
    const before = issue(authority).chain[1];
    await pass(clock, 183 * DAY);
    const { chain } = issue(authority);
    t.not(chain[1], before);
    t.ok(isTrusted(chain, authority.bundle));
  });

  suite('what cannot be kept has not happened', async (t, { place, open, issue }) => {
    const authority = await open();
    const { certificate } = issue(authority);
    const { bundle } = authority;
    place.block(true);
    t.match(await authority.revoke(certificate.serial), { error: /cannot be kept/ });
    t.match(await authority.rotateRoot('add'), { error: /cannot be kept/ });
    t.match(await authority.rotateIntermediate(), { error: /cannot be kept/ });
    t.equal(authority.bundle, bundle);
    t.equal(authority.revocationLists, '');
    t.ok(issue(authority), 'it signs on');
    place.block(false);
    t.match(await authority.revoke(certificate.serial), { ok: true });
    t.match(await authority.rotateRoot('add'), { ok: true });
  });

  suite('no key shows anywhere but there', async (t, { place, open, issue }) => {
    logged.length = 0;
    const authority = await open();
    await authority.rotateRoot('add');
    await authority.revoke(issue(authority).certificate.serial);
    const keys = (await place.read('state')).match(/[A-Za-z0-9+/]{40,}/g) ?? [];
    const shown =
      logged.join('\n') + JSON.stringify(authority.describe()) + authority.bundle + authority.revocationLists;
    t.ok(logged.length > 2);
    t.notMatch(shown, /PRIVATE KEY/);
    const secrets = keys.filter(
      (line) => !authority.bundle.includes(line) && !issue(authority).chain.join().includes(line),
    );
    t.ok(secrets.length >= 2);
    t.same(
      secrets.filter((line) => shown.includes(line)),
      [],
    );
  });
}
