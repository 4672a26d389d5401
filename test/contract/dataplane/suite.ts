/** What every Dataplane does. Run on the engine and on the fake. */
import { createVerify } from 'node:crypto';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Test } from 'tap';
import { OfferField, type Read } from '../../../src/agent/dataplane/dataplane.js';
import { Desk, direct, HOSTS, type OpenHarness, POD, POD_IDENTITY, plaintextGroup } from './harness.js';

export function dataplaneSuite(t: Test, open: OpenHarness): void {
  t.test('a miss is offered once, and the answer is cached under the fields it looked at', async (t) => {
    await using harness = await open();
    const desk = new Desk(harness.dataplane);
    await harness.addPod();
    const [one, two] = [harness.connect(A, 8000), harness.connect(A, 8000)];
    const offer = await desk.offer(1);
    t.match(offer, { pod: POD, direction: 'outbound', dstIp: A, dstPort: 8000, peerIdentity: '', rejudge: false });
    desk.answer(direct(offer, harness.server, { fields: OfferField.dstIp }));
    t.equal(await one.decided, 'open');
    t.equal(await two.decided, 'open');
    t.equal(await harness.connect(A, 8001).decided, 'open', 'the port was not looked at');
    t.equal(desk.offers.length, 1);
    const other = harness.connect(B, 8000);
    desk.answer(direct(await desk.offer(2), harness.server, { fields: OfferField.dstIp }));
    t.equal(await other.decided, 'open');
    t.match(harness.dataplane.stats(), { flows: 2, pods: 1, connections: 4, pendingOffers: 0, cacheHits: 1 });
  });

  t.test('a refusal is cached too', async (t) => {
    await using harness = await open();
    const desk = new Desk(harness.dataplane);
    await harness.addPod();
    const one = harness.connect(A, 8000);
    desk.answer(direct(await desk.offer(1), harness.server, { action: 'deny', because: 'policy-deny' }));
    t.equal(await one.decided, 'refused');
    t.equal(await harness.connect(A, 8000).decided, 'refused');
    t.equal(desk.offers.length, 1);
  });

  t.test('a change drops the flows that read it, and no others', async (t) => {
    await using harness = await open();
    const desk = new Desk(harness.dataplane);
    await harness.addPod();
    const reads = [exact('policies', 'a'), { table: 'address', key: A, prefix: true }];
    harness.connect(A, 8000);
    desk.answer(direct(await desk.offer(1), harness.server, { fields: OfferField.dstIp, reads }));
    t.equal(await harness.connect(A, 8000).decided, 'open');
    harness.dataplane.invalidate(2, [exact('policies', 'b'), { table: 'address', key: '10.98.0.0/16', prefix: true }]);
    t.equal(await harness.connect(A, 8000).decided, 'open');
    t.equal(desk.offers.length, 1);
    for (const [version, change] of [
      [3, exact('policies', 'a')],
      [4, { table: 'address', key: '10.0.0.0/8', prefix: true }],
    ] as const) {
      const before = desk.offers.length;
      harness.dataplane.invalidate(version, [change]);
      const offer = await desk.offer(before + 1);
      t.equal(offer.rejudge, true, 'its live connections are judged again');
      desk.answer(direct(offer, harness.server, { version, fields: OfferField.dstIp, reads }));
      t.equal(await harness.connect(A, 8000).decided, 'open');
    }
    t.equal(harness.dataplane.stats().version, 4);
  });

  t.test('a stale verdict is refused and its question offered again', async (t) => {
    await using harness = await open();
    const desk = new Desk(harness.dataplane);
    await harness.addPod();
    const client = harness.connect(A, 8000);
    const first = await desk.offer(1);
    harness.dataplane.invalidate(7, [exact('policies', 'a')]);
    desk.answer(direct(first, harness.server, { version: 6, reads: [exact('policies', 'a')] }));
    const second = await desk.offer(2);
    t.not(second.id, first.id);
    t.same({ ...second, id: 0 }, { ...first, id: 0 });
    desk.answer(direct(first, harness.server, { version: 7 }));
    desk.answer(direct(second, harness.server, { version: 7, reads: [exact('policies', 'a')] }));
    t.equal(await client.decided, 'open');
  });

  t.test('a verdict as old as a change that it did not read is good', async (t) => {
    await using harness = await open();
    const desk = new Desk(harness.dataplane);
    await harness.addPod();
    const client = harness.connect(A, 8000);
    const offer = await desk.offer(1);
    harness.dataplane.invalidate(7, [exact('policies', 'a')]);
    desk.answer(direct(offer, harness.server, { version: 6, reads: [exact('policies', 'b')] }));
    t.equal(await client.decided, 'open');
  });

  t.test('a live connection that would be denied now is closed, others stay', async (t) => {
    await using harness = await open();
    const desk = new Desk(harness.dataplane);
    await harness.addPod();
    const verdict = { fields: OfferField.dstIp, reads: [exact('policies', 'a')] };
    const [one, two] = [harness.connect(A, 8000), harness.connect(B, 8000)];
    await desk.offer(2);
    desk.answer(...desk.offers.map((offer) => direct(offer, harness.server, verdict)));
    t.same(await Promise.all([one.decided, two.decided]), ['open', 'open']);
    harness.dataplane.invalidate(2, [exact('policies', 'a')]);
    await desk.offer(4);
    for (const offer of desk.offers.slice(2)) {
      t.equal(offer.rejudge, true);
      const action = offer.dstIp === A ? 'deny' : 'direct';
      desk.answer(direct(offer, harness.server, { ...verdict, version: 2, action, status: 401 }));
    }
    await one.ended;
    t.match(harness.dataplane.connections(10), [{ pod: POD, dstIp: B, direction: 'outbound', because: 'test' }]);
    two.end();
    await two.ended;
  });

  t.test('a live connection out keeps its endpoint when there is none for new ones', async (t) => {
    await using harness = await open();
    const desk = new Desk(harness.dataplane);
    await harness.addPod();
    const verdict = { fields: OfferField.dstIp, reads: [exact('services', 'a')] };
    const one = harness.connect(A, 8000);
    desk.answer(direct(await desk.offer(1), harness.server, verdict));
    t.equal(await one.decided, 'open');
    harness.dataplane.invalidate(2, [exact('services', 'a')]);
    const again = await desk.offer(2);
    t.equal(again.rejudge, true);
    desk.answer(direct(again, harness.server, { ...verdict, version: 2, action: 'deny', status: 503 }));
    t.equal(await harness.connect(A, 8000).decided, 'refused', 'a new one is');
    t.match(harness.dataplane.connections(10), [{ dstIp: A, because: 'test' }]);
    one.end();
    await one.ended;
  });

  t.test("a pod's pending offers have a quota; what exceeds it waits in the backlog", async (t) => {
    await using harness = await open({ maxPendingPerPod: 2 });
    const desk = new Desk(harness.dataplane);
    await harness.addPod();
    const clients = HOSTS.map((host) => harness.connect(host, 8000));
    await desk.offer(2);
    t.equal(desk.offers.length, 2);
    desk.answer(direct(await desk.offer(1), harness.server, { fields: OfferField.dstIp }));
    await desk.offer(3);
    desk.answer(...desk.offers.map((offer) => direct(offer, harness.server, { fields: OfferField.dstIp })));
    t.same(await Promise.all(clients.map(({ decided }) => decided)), ['open', 'open', 'open']);
  });

  t.test("a pod's flows have a quota; the least recently used goes", async (t) => {
    await using harness = await open({ maxFlowsPerPod: 1 });
    const desk = new Desk(harness.dataplane);
    await harness.addPod();
    const reads = [exact('policies', 'a')];
    for (const [nth, host] of [A, B].entries()) {
      const client = harness.connect(host, 8000);
      desk.answer(direct(await desk.offer(nth + 1), harness.server, { fields: OfferField.dstIp, reads }));
      t.equal(await client.decided, 'open');
    }
    t.equal(harness.dataplane.stats().flows, 1);
    harness.dataplane.invalidate(2, reads);
    await desk.offer(4);
    t.same(
      desk.offers
        .slice(2)
        .map(({ dstIp }) => dstIp)
        .sort(),
      [A, B],
      'the evicted one is judged again too',
    );
  });

  t.test('a group leads to an endpoint and is edited in place', async (t) => {
    await using harness = await open();
    const desk = new Desk(harness.dataplane);
    await harness.addPod();
    const client = harness.connect(A, 8000);
    desk.answer(direct(await desk.offer(1), harness.server, { action: 'group', group: 'g' }));
    t.equal(await client.decided, 'refused', 'there is no such group');
    harness.dataplane.putGroups([plaintextGroup('g', harness.server)]);
    t.equal(await harness.connect(A, 8000).decided, 'open');
    t.equal(harness.dataplane.stats().groups, 1);
    harness.dataplane.putGroups([{ id: 'g', endpoints: [] }]);
    t.equal(await harness.connect(A, 8000).decided, 'refused');
    harness.dataplane.removeGroups(['g', 'unknown']);
    t.equal(harness.dataplane.stats().groups, 0);
    t.equal(desk.offers.length, 1, 'the flow stayed');
  });

  t.test('a certificate that is missing is asked for', async (t) => {
    await using harness = await open();
    const desk = new Desk(harness.dataplane);
    await harness.addPod();
    harness.dataplane.putGroups([plaintextGroup('g', harness.server, A)]);
    const client = harness.connect(A, 8000);
    desk.answer(direct(await desk.offer(1), harness.server, { action: 'group', group: 'g' }));
    await desk.until(() => desk.wanted.length > 0);
    t.same(desk.wanted, [POD_IDENTITY]);
    client.end();
    await client.ended;
  });

  t.test('each connection is one line of the access log', async (t) => {
    await using harness = await open();
    const desk = new Desk(harness.dataplane);
    await harness.addPod();
    const [passed, denied] = [harness.connect(A, 8000), harness.connect(B, 8000)];
    await desk.offer(2);
    for (const offer of desk.offers) {
      const action = offer.dstIp === A ? 'direct' : 'deny';
      const [because, labels] = [`why-${action}`, `reporter="source",way="${action}"`];
      desk.answer(direct(offer, harness.server, { action, fields: OfferField.dstIp, because, labels }));
    }
    t.equal(await passed.decided, 'open');
    t.equal(await denied.decided, 'refused');
    passed.end();
    await desk.until(() => desk.log.length >= 2);
    const lines = desk.log.sort((a, b) => String(a['dst.addr']).localeCompare(String(b['dst.addr'])));
    t.match(lines, [
      { 'src.workload': 'client', 'dst.addr': `${A}:8000`, direction: 'outbound', because: 'why-direct' },
      { 'src.workload': 'client', 'dst.addr': `${B}:8000`, direction: 'outbound', because: 'why-deny', error: /./ },
    ]);
    t.equal(lines.length, 2);
    t.match(
      harness.dataplane.metrics(),
      /^istio_tcp_connections_opened_total\{reporter="source",way="direct"[^}]*\} 1$/m,
    );
    t.notMatch(harness.dataplane.metrics(), /# EOF/);
  });

  t.test('a pod that goes takes its connections along', async (t) => {
    await using harness = await open();
    const desk = new Desk(harness.dataplane);
    await harness.addPod();
    await harness.addPod();
    t.equal(harness.dataplane.stats().pods, 1, 'adding twice is nothing');
    const client = harness.connect(A, 8000);
    desk.answer(direct(await desk.offer(1), harness.server));
    t.equal(await client.decided, 'open');
    harness.dataplane.removePod(POD, 'the pod was deleted');
    harness.dataplane.removePod('unknown', 'never was');
    await client.ended;
    await desk.until(() => desk.log.length > 0);
    t.match(desk.log, [{ error: /the pod was deleted/ }]);
    t.match(harness.dataplane.stats(), { pods: 0, flows: 0, pendingOffers: 0 });
  });

  t.test('bad input is refused by name, and changes nothing', async (t) => {
    await using harness = await open();
    const { dataplane } = harness;
    const desk = new Desk(dataplane);
    const pod = { uid: 'p', name: 'p', namespace: 'n', identity: POD_IDENTITY, netns: '/proc/self/ns/net' };
    t.match(await dataplane.addPod({ ...pod, addresses: ['10.0.0'] }), { ok: false, error: /^pod p: .*'10\.0\.0'/ });
    t.match(dataplane.setTrust([{ trustDomain: 'cluster.local', roots: [Uint8Array.of(1)] }]), {
      ok: false,
      error: /./,
    });
    t.match(dataplane.setRevocations([Uint8Array.of(1)]), { ok: false, error: /./ });
    t.match(dataplane.installCertificate({ identity: POD_IDENTITY, keyId: 99, chain: [] }), {
      ok: false,
      error: /key 99/,
    });
    t.equal(dataplane.sign(99, Uint8Array.of(1)), undefined);
    dataplane.removeCertificate(POD_IDENTITY);
    await harness.addPod();
    const client = harness.connect(A, 8000);
    const offer = await desk.offer(1);
    desk.answer(direct(offer, { ip: 'nowhere', port: 1 }), direct({ ...offer, id: 1e9 }, harness.server));
    t.match(dataplane.take().notices, [{ level: 'error', code: 'bad-verdict', message: /'nowhere'/ }]);
    desk.answer(direct(offer, harness.server));
    t.equal(await client.decided, 'open', 'the offer was still open');
  });

  t.test('keys sign', async (t) => {
    await using harness = await open();
    const { keyId, publicKey } = harness.dataplane.createKey();
    const bytes = new TextEncoder().encode('certification request');
    const signature = harness.dataplane.sign(keyId, bytes);
    const verify = createVerify('sha256').update(bytes);
    const key = { key: Buffer.from(publicKey), format: 'der', type: 'spki' } as const;
    t.ok(signature !== undefined && verify.verify(key, signature));
    t.not(harness.dataplane.createKey().keyId, keyId);
  });

  t.test('listeners pass to a successor of a higher generation', async (t) => {
    await using predecessor = await open();
    const path = join(tmpdir(), `meltemi-contract-${process.pid}-${Date.now()}.sock`);
    t.match(await predecessor.dataplane.takeHandover(path, 1), { ok: true, pods: [] }, 'nobody there is no error');
    await predecessor.addPod();
    const taken = predecessor.dataplane.offerHandover(path, 1);
    await using successor = await open();
    const handover = await until(async () => {
      const result = await successor.dataplane.takeHandover(path, 2);
      return result.pods.length > 0 ? result : undefined;
    });
    t.match(handover, { ok: true, pods: [POD] });
    t.ok(successor.dataplane.isOffered(path), 'the predecessor serves until it is told that it need not');
    t.match(await successor.dataplane.completeHandover(), { ok: true });
    t.match(await taken, { ok: true, sharesNetwork: true });
    t.notOk(successor.dataplane.isOffered(path));
    const gone = predecessor.dataplane.successorGone();
    successor.dataplane.close();
    t.equal(await gone, true, 'a successor that ends is noticed');
    predecessor.dataplane.resumeAccepting();
    const desk = new Desk(predecessor.dataplane);
    const client = predecessor.connect(A, 8000);
    desk.answer(direct(await desk.offer(1), predecessor.server));
    t.equal(await client.decided, 'open', 'the predecessor accepts again');
  });

  t.test('a lower generation takes nothing', async (t) => {
    await using predecessor = await open();
    const path = join(tmpdir(), `meltemi-contract-low-${process.pid}-${Date.now()}.sock`);
    const taken = predecessor.dataplane.offerHandover(path, 5);
    await using other = await open();
    await until(async () => (other.dataplane.isOffered(path) ? true : undefined));
    t.match(await other.dataplane.takeHandover(path, 5), { ok: false, pods: [] });
    t.match(await other.dataplane.completeHandover(), { ok: true }, 'nobody is relieved');
    predecessor.dataplane.close();
    t.match(await taken, { ok: false });
  });

  t.test('draining closes what does not end in time and counts it', async (t) => {
    await using harness = await open();
    const desk = new Desk(harness.dataplane);
    await harness.addPod();
    t.equal(await harness.dataplane.drain(1000), 0);
    await using other = await open();
    const otherDesk = new Desk(other.dataplane);
    await other.addPod();
    const client = other.connect(A, 8000);
    otherDesk.answer(direct(await otherDesk.offer(1), other.server));
    t.equal(await client.decided, 'open');
    t.equal(await other.dataplane.drain(1), 1);
    await client.ended;
    t.equal(desk.offers.length, 0);
  });
}

/** Asks again, after each turn of the event loop, until there is an answer. */
async function until<T>(ask: () => Promise<T | undefined>): Promise<T> {
  for (;;) {
    const answer = await ask();
    if (answer !== undefined) return answer;
    await new Promise(setImmediate);
  }
}

function exact(table: string, key: string): Read {
  return { table, key, prefix: false };
}

const [A, B] = HOSTS;
