import t from 'tap';
import type { Verdict } from '../../../../src/agent/dataplane/dataplane.js';
import { FakeDataplane } from '../../../../src/agent/dataplane/fake.js';
import { ManualClock } from '../../../../src/lib/manual-clock.js';

const POD = { uid: 'p', name: 'p', namespace: 'n', identity: 'spiffe://td/ns/n/sa/p', netns: '/n', addresses: [] };

t.test('a tunnelled connection opens when its certificate comes', async (t) => {
  const { dataplane, answer } = await open();
  const endpoint = { id: 'e', ip: '10.0.0.1', port: 80, tunnelIp: '10.0.0.1', tunnelPort: 15008, authority: '' };
  const rest = { identities: [], weight: 1, rank: 0, healthy: true, labels: '', log: '' };
  dataplane.putGroups([{ id: 'g', endpoints: [{ ...endpoint, ...rest }] }]);
  const connection = dataplane.connect({ pod: 'p' });
  answer({ action: 'group', group: 'g' });
  t.same(dataplane.take().wantedCertificates, [POD.identity]);
  t.equal(connection.state, 'waiting');
  const { keyId } = dataplane.createKey();
  t.ok(dataplane.installCertificate({ identity: POD.identity, keyId, chain: [Uint8Array.of(1)] }).ok);
  t.equal(connection.state, 'open');
  t.equal(connection.endpoint?.id, 'e');
});

t.test('draining waits for connections to end, by the clock it was given', async (t) => {
  const { dataplane, answer, clock } = await open();
  const connection = dataplane.connect({ pod: 'p' });
  answer({ action: 'direct', targetIp: '10.0.0.9' });
  t.equal(await connection.decided, 'open');
  const cut = dataplane.drain(5000);
  t.equal(await dataplane.connect({ pod: 'p' }).decided, 'refused');
  clock.advance(5000);
  t.equal(await cut, 1);
  t.equal(await connection.ended, 'drain');
});

async function open() {
  const clock = new ManualClock();
  const dataplane = new FakeDataplane({}, clock);
  await dataplane.addPod(POD);
  const answer = (verdict: Partial<Verdict>) =>
    dataplane.answer(dataplane.take().offers.map(({ id }) => ({ ...VERDICT, offerId: id, ...verdict })));
  return { dataplane, answer, clock };
}

const VERDICT: Verdict = {
  offerId: 0,
  version: 1,
  action: 'deny',
  targetIp: '',
  targetPort: 80,
  group: '',
  status: 503,
  because: 'test',
  objects: [],
  reads: [],
  fields: 0,
  baggage: '',
  forwardedHost: '',
  labels: '',
  log: '',
  responseFlags: '-',
};
