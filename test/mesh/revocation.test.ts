/** Revoked certificates: no new tunnel under one, and those that are open end, whichever end shows it. */
import { copyFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import root, { test } from 'tap';
import type { TestCa } from '../support/certificates.js';
import { HbonePeer, type Identity } from '../support/hbone-client.js';
import { labCa } from '../support/lab-ca.js';
import { serverPod } from '../support/manifests.js';
import { addressOf, nodeOf, placeOf, podOf, until } from '../support/mesh.js';
import { identityOf, PORT, serverId, startTown, type Town, theServers } from './town.js';

// Each test has a limit of its own, and the runner has one for the file.
root.setTimeout(0);

let town: Town;
let ca: TestCa;
let client: HbonePeer;
let server: HbonePeer;
let list: string;
/** Both ends are foreign, so that a test has their certificates. */
const FOREIGN = 'foreign.street';

test('a town comes up, with foreign peers in it', { timeout: 60_000 }, async () => {
  const labels = { 'networking.istio.io/tunnel': 'http' };
  town = await startTown('revocation', {
    manifests: [serverPod({ name: 'foreign', namespace: 'street', node: 2, labels }, [PORT])],
  });
  const { mesh } = town;
  ca = labCa(mesh);
  list = join(mesh.directory, 'ca/ca-crl.pem');
  client = new HbonePeer('client', placeOf(podOf(town.status, 'stranger.street')));
  server = new HbonePeer('server', placeOf(podOf(town.status, FOREIGN)));
  for (const peer of [client, server]) mesh.onClose(() => peer.close());
});

test('a client whose certificate is revoked is cut off, and let in no more', { timeout: 60_000 }, async (t) => {
  const address = town.at('server.app').host;
  const leaf = ca.issue({ uris: [identityOf('stranger', 'street')] });
  const other = ca.issue({ uris: [identityOf('stranger', 'street')] });
  const target = (identity: Identity) => ({
    address,
    port: 15008,
    authority: `${address}:${PORT}`,
    identity: { ...identity, ca: ca.root, expect: serverId },
    expect: 20,
  });
  t.match(await client.keep('revoked', target(leaf)), { status: 200 });
  t.match(await client.keep('other', target(other)), { status: 200 });
  const log = town.mesh.accessLog('node-2');

  copyFileSync(ca.revocationList([leaf]), list);
  const { ended } = await client.release('revoked', true);
  t.ok(ended, `the open tunnel ends: ${ended}`);
  const [record] = await log.wait('the reason', ({ error }) => error?.includes('revoked') === true);
  t.match(record, { direction: 'inbound', error: 'peer certificate revoked by CRL' });
  t.match(await client.connect(target(leaf)), { outcome: 'refused' });
  t.match(await client.connect(target(other)), { status: 200 }, 'another certificate of the same identity goes on');
  t.equal((await client.release('other')).ended, '', 'and so does its open tunnel');
});

test('a server whose certificate is revoked is left, and gone to no more', { timeout: 60_000 }, async (t) => {
  const pod = podOf(town.status, FOREIGN);
  const leaf = ca.issue({ uris: [identityOf('foreign', 'street')] });
  const identity = { ...leaf, ca: ca.root };
  const listening = await server.listen({ address: addressOf(pod, 4), port: 15008, identity, forwardPort: PORT });
  t.match(listening, { outcome: 'connected' });
  const talk = await town.caller.open(town.at(FOREIGN));
  t.match(talk.greeting, { outcome: 'connected', server: 'foreign' });
  const log = town.mesh.accessLog('node-1');

  copyFileSync(ca.revocationList([leaf]), list);
  t.match(await talk.end(), { how: /reset|eof/ }, 'the open connection ends');
  const [record] = await log.wait('the reason', ({ error }) => error?.includes('revoked') === true);
  t.match(record, { direction: 'outbound', error: 'peer certificate revoked by CRL' });
  t.match(await town.caller.probe(town.at(FOREIGN)), { outcome: 'refused' });
  t.match(await town.caller.churn({ ...theServers, count: 20 }), { ok: 20 }, 'others are not concerned');
});

test('a list that is none changes nothing', { timeout: 60_000 }, async (t) => {
  writeFileSync(list, '-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n');
  const agentLog = (): string => town.mesh.logs(50);
  await until('it is reported', () => Promise.resolve(agentLog().includes('revocation lists refused')));
  t.match(await town.caller.probe(town.at(FOREIGN)), { outcome: 'refused' }, 'what was revoked still is');
  t.match(await town.caller.churn({ ...theServers, count: 20 }), { ok: 20 });
});

test('refusals are counted by their reason', async (t) => {
  const metrics = async (node: string): Promise<string> => {
    const { addresses } = nodeOf(town.status, node);
    const fetched = await town.mesh.lab(
      'exec',
      `node/${node}`,
      '--',
      'curl',
      '-s',
      `http://${addresses[0]}:15020/metrics`,
    );
    return fetched.stdout;
  };
  t.match(await metrics('node-1'), /response_flags="CERT_REVOKED"/);
});

test('the town goes', async () => {
  ca[Symbol.dispose]();
  await town[Symbol.asyncDispose]();
});
