/** Certificates, intermediates and roots are replaced while traffic runs: nothing breaks, and the old root ends refused. */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import root, { type Test, test } from 'tap';
import { splitPem } from '../../src/identity/pem.js';
import type { IssuedCertificate } from '../support/certificates.js';
import { type Connected, HbonePeer, type Identity } from '../support/hbone-client.js';
import { labCa } from '../support/lab-ca.js';
import { idlePod } from '../support/manifests.js';
import { placeOf, podOf, until } from '../support/mesh.js';
import type { Loop, Streams, Tally } from '../support/prober.js';
import { CAPTURED_PODS, identityOf, PORT, serverId, startTown, type Town, theServers } from './town.js';

// Each test has a limit of its own, and the runner has one for the file.
root.setTimeout(0);

let town: Town;
let peer: HbonePeer;

test('a town comes up, with a foreign peer in it', async () => {
  town = await startTown('rotation');
  peer = new HbonePeer('peer', placeOf(podOf(town.status, 'stranger.street')));
  town.mesh.onClose(() => peer.close());
});

test('the root is replaced under load, and in the end the old one is refused', { timeout: 120_000 }, async (t) => {
  using oldCa = labCa(town.mesh);
  const byOldRoot = oldCa.issue({ uris: [identityOf('stranger', 'street')] });
  const shows = (leaf: IssuedCertificate, trusts: string): Promise<Connected> => tunnel({ ...leaf, ca: trusts });
  const opened = { outcome: 'connected', status: 200 };
  const refused = async (leaf: IssuedCertificate, trusts: string): Promise<boolean> =>
    /ALERT|CERT|ECONNRESET/i.test((await shows(leaf, trusts)).how ?? '');
  t.match(await shows(byOldRoot, oldCa.root), opened, 'a certificate by the old root counts before');

  await underLoad(t, async () => {
    t.match(await rotate('add'), { phase: 'distributing' });
    t.equal(roots().length, 2);
    t.match(await shows(byOldRoot, oldCa.root), opened, 'what is shown is by the old root');
    await until('the new root may sign', async () => (await rotate('sign')).phase === 'signing');
    await until('the server shows what the new root signed', () => refused(byOldRoot, oldCa.root));
    t.match(await shows(byOldRoot, copyOfBundle(t)), opened, 'the old root is trusted still');
    await until('the old root may go', async () => (await rotate('drop')).phase === 'stable');
    t.equal(roots().length, 1);
    await until('the server refuses it', () => refused(byOldRoot, copyOfBundle(t)));
  });

  using newCa = labCa(town.mesh);
  const byNewRoot = newCa.issue({ uris: [identityOf('stranger', 'street')] });
  t.match(await shows(byNewRoot, newCa.root), opened, 'and the new one counts');
});

test('the intermediate is replaced under load', { timeout: 60_000 }, async (t) => {
  await underLoad(t, async () => {
    const before = JSON.parse(await town.mesh.control('/ca')) as CaPage;
    const after = JSON.parse(await town.mesh.control('/ca/rotate-intermediate', 'POST')) as CaPage;
    t.not(after.issuer.fingerprint, before.issuer.fingerprint);
    await town.mesh.apply([idlePod({ name: 'newcomer', namespace: 'app', node: 1 })]);
    await town.mesh.ready([...CAPTURED_PODS, 'newcomer.app']);
    const newcomer = await town.mesh.prober('newcomer.app');
    const tally = await newcomer.churn({ ...theServers, count: 20 });
    t.match(tally, { ok: 20 }, 'certificates by both speak with each other');
  });
});

test('the town goes', async () => {
  await town[Symbol.asyncDispose]();
});

/** A CONNECT from outside of the mesh to the server's own port. */
function tunnel(identity: Identity): Promise<Connected> {
  const address = town.at('server.app').host;
  const authority = `${address}:${PORT}`;
  return peer.connect({ address, port: 15008, authority, identity: { ...identity, expect: serverId }, expect: 20 });
}

/** Runs what is to be unnoticed between streams, both ways between two nodes, and new connections, by address and VIP. */
async function underLoad(t: Test, change: () => Promise<void>): Promise<void> {
  const neighbour = await town.mesh.prober('neighbour.app');
  const server = await town.mesh.prober('server.app');
  const streams: Loop<Streams>[] = [
    await town.caller.streams({ ...town.at('server.app'), workers: 2, pause: 0.005 }),
    await server.streams({ ...town.at('neighbour.app'), workers: 2, pause: 0.005 }),
  ];
  const connecting: Loop<Tally>[] = [
    await town.caller.connecting({ ...theServers, pause: 0.01 }),
    await neighbour.connecting({ ...town.at('server.app', 6), pause: 0.01 }),
    await server.connecting({ ...town.at('neighbour.app'), pause: 0.01 }),
  ];
  const runs = async (loops: readonly Loop<Tally>[]): Promise<boolean> =>
    (await Promise.all(loops.map((loop) => loop.progress()))).every(({ ok }) => ok > 20);
  await until('the load runs', () => runs(connecting));
  await change();
  for (const loop of connecting) {
    const { ok, failed } = await loop.stop();
    t.same(failed, {}, `${ok} connections, none failed`);
  }
  for (const loop of streams) {
    const { bytes, wrong, cut } = await loop.stop();
    t.match({ wrong, cut }, { wrong: 0, cut: 0 }, `${bytes} bytes in streams`);
  }
}

async function rotate(phase: string): Promise<Partial<CaPage>> {
  const text = await town.mesh.control(`/ca/rotate?phase=${phase}`, 'POST');
  return text.startsWith('{') ? (JSON.parse(text) as CaPage) : {};
}

function roots(): string[] {
  return splitPem('CERTIFICATE', bundle());
}

function bundle(): string {
  return readFileSync(join(town.mesh.directory, 'ca/root-cert.pem'), 'utf8');
}

/** Where a process in a pod can read it: pods do not see the lab's own directory. */
function copyOfBundle(t: Test): string {
  const directory = mkdtempSync(join(tmpdir(), 'meltemi-bundle-'));
  t.teardown(() => rmSync(directory, { recursive: true }));
  writeFileSync(join(directory, 'root.pem'), bundle());
  return join(directory, 'root.pem');
}

interface CaPage {
  readonly phase: string;
  readonly issuer: { readonly fingerprint: string };
}
