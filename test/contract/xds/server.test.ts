import t, { type Test } from 'tap';
import { RpcError, StatusCode } from '../../../src/grpc/status.js';
import { setLevel } from '../../../src/telemetry/log.js';
import { createRegistry } from '../../../src/telemetry/metrics.js';
import { ResourceTable } from '../../../src/xds/resource-table.js';
import { adsServerMetrics } from '../../../src/xds/server-metrics.js';
import { resource, startAdsServer } from '../../support/ads-server.js';
import { ForeignAdsClient, type ForeignResponse } from '../../support/foreign-ads-client.js';

setLevel('silent');

const TYPE = 'type.googleapis.com/test.Thing';
const OTHER = 'type.googleapis.com/test.Other';
const contents = (response: ForeignResponse) =>
  Object.fromEntries(response.resources.map(({ name, resource }) => [name, resource.value.toString()]));
const summary = (response: ForeignResponse) => ({
  ...contents(response),
  removed: [...response.removedResources].sort(),
});

async function setup(t: Test, options: Parameters<typeof startAdsServer>[1] = {}) {
  const table = new ResourceTable(TYPE, 'things');
  const other = new ResourceTable(OTHER, 'others');
  const server = await startAdsServer([other, table], options);
  t.teardown(() => server.close());
  const connect = (headers = {}): ForeignAdsClient => {
    const client = new ForeignAdsClient(server.port, headers);
    t.teardown(() => client.close());
    return client;
  };
  return { table, other, server, connect };
}

t.test('a wildcard client gets everything, then only what changes, each batch whole', async (t) => {
  const { table, connect } = await setup(t);
  table.apply([resource('a', '1'), resource('b', '1')]);
  const client = connect();
  client.send({ typeUrl: TYPE, node: { id: 'n' } });
  const first = await client.accept();
  t.same(summary(first), { a: '1', b: '1', removed: [] });
  t.equal(first.typeUrl, TYPE);
  t.equal(first.resources[0]?.resource.typeUrl, TYPE);
  t.same(first.resources[0]?.aliases, []);
  table.apply([resource('a', '1'), resource('b', '2'), resource('c', '1')], ['a2']);
  t.same(summary(await client.accept()), { b: '2', c: '1', removed: [] });
  table.apply([resource('a', '3')], ['b', 'c']);
  t.same(summary(await client.accept()), { a: '3', removed: ['b', 'c'] });
});

t.test('a table without resources is an answer, too', async (t) => {
  const { connect } = await setup(t);
  const client = connect();
  client.send({ typeUrl: TYPE, resourceNamesSubscribe: ['*'] });
  t.same(summary(await client.accept()), { removed: [] });
});

t.test('a returning client is told only differences from what it holds', async (t) => {
  const { table, connect } = await setup(t);
  table.apply([resource('same', '1'), resource('changed', '2'), resource('new', '1')]);
  const version = table.resource('same')?.version ?? '';
  const client = connect();
  client.send({ typeUrl: TYPE, initialResourceVersions: { same: version, changed: 'old', gone: 'x' } });
  t.same(summary(await client.accept()), { changed: '2', new: '1', removed: ['gone'] });
});

t.test('the same content has the same version after a restart, other content another', async (t) => {
  const one = new ResourceTable(TYPE);
  const two = new ResourceTable(TYPE);
  one.apply([resource('a', '1'), resource('b', '2')]);
  two.apply([resource('x', '7')]);
  two.apply([resource('a', '1'), resource('b', '3')]);
  t.equal(one.resource('a')?.version, two.resource('a')?.version);
  t.not(one.resource('b')?.version, two.resource('b')?.version);
});

t.test('an on-demand client gets what it names, by name and by alias, and learns the aliases', async (t) => {
  const { table, connect } = await setup(t);
  table.apply([resource('uid-1', '1', ['net/10.0.0.1']), resource('uid-2', '2', ['net/10.0.0.1']), resource('z', '9')]);
  const client = connect();
  client.send({ typeUrl: TYPE, resourceNamesSubscribe: ['net/10.0.0.1', 'nowhere'] });
  const first = await client.accept();
  t.same(summary(first), { 'uid-1': '1', 'uid-2': '2', removed: ['nowhere'] });
  t.same(first.resources[0]?.aliases, ['net/10.0.0.1']);
  client.send({ typeUrl: TYPE, resourceNamesSubscribe: ['z'] });
  t.same(summary(await client.accept()), { z: '9', removed: [] }, 'only what was newly asked for');
  table.apply([resource('unwanted', '1'), resource('nowhere', 'now here')], ['uid-2']);
  t.same(summary(await client.accept()), { nowhere: 'now here', removed: ['uid-2'] });
  table.apply([], ['uid-1']);
  t.same(summary(await client.accept()), { removed: ['net/10.0.0.1', 'uid-1'] }, 'the alias is known to be free');
  table.apply([resource('uid-3', '3', ['net/10.0.0.1'])]);
  t.same(summary(await client.accept()), { 'uid-3': '3', removed: [] });
});

t.test('an on-demand client loses what no longer answers to the name it asked for', async (t) => {
  const { table, connect } = await setup(t);
  table.apply([resource('uid-1', '1', ['ip-1'])]);
  const client = connect();
  client.send({ typeUrl: TYPE, resourceNamesSubscribe: ['ip-1'] });
  await client.accept();
  table.apply([resource('uid-1', '1', ['ip-2'])]);
  t.same(summary(await client.accept()), { removed: ['ip-1', 'uid-1'] });
});

t.test('after unsubscribing a name, nothing of it is sent', async (t) => {
  const { table, connect } = await setup(t);
  table.apply([resource('a', '1'), resource('b', '1')]);
  const client = connect();
  client.send({ typeUrl: TYPE, resourceNamesSubscribe: ['a', 'b'] });
  await client.accept();
  client.send({ typeUrl: TYPE, resourceNamesUnsubscribe: ['a'], resourceNamesSubscribe: ['c'] });
  t.same(summary(await client.accept()), { removed: ['c'] });
  table.apply([resource('a', '2'), resource('b', '2')]);
  t.same(summary(await client.accept()), { b: '2', removed: [] });
});

t.test('asking again for a name gets it again', async (t) => {
  const { table, connect } = await setup(t);
  table.apply([resource('a', '1')]);
  const client = connect();
  for (let i = 0; i < 2; i++) {
    client.send({ typeUrl: TYPE, resourceNamesSubscribe: ['a'] });
    t.same(summary(await client.accept()), { a: '1', removed: [] });
  }
});

t.test(
  'subscribing to everything and taking it back at once means nothing yet, and keeps what the client came with',
  async (t) => {
    const { table, connect } = await setup(t);
    table.apply([resource('a', '1'), resource('b', '1')]);
    const client = connect();
    client.send({
      typeUrl: TYPE,
      resourceNamesSubscribe: ['*'],
      resourceNamesUnsubscribe: ['*'],
      initialResourceVersions: { a: 'old', gone: '1' },
    });
    t.same(summary(await client.accept()), { a: '1', removed: ['gone'] });
    table.apply([resource('a', '2'), resource('b', '2')]);
    t.same(summary(await client.accept()), { a: '2', removed: [] });
  },
);

t.test('a returning on-demand client is told what changed, what is gone and what is unknown', async (t) => {
  const { table, connect } = await setup(t);
  table.apply([resource('uid-1', '1', ['ip-1']), resource('uid-2', '2', ['ip-2'])]);
  const client = connect();
  client.send({
    typeUrl: TYPE,
    resourceNamesSubscribe: ['ip-1', 'ip-2', 'ip-3'],
    initialResourceVersions: { 'uid-1': table.resource('uid-1')?.version ?? '', 'uid-2': 'old', 'uid-3': '3' },
  });
  t.same(summary(await client.accept()), { 'uid-2': '2', removed: ['ip-3', 'uid-3'] });
});

t.test('wildcard can be given up for names, and names for the wildcard', async (t) => {
  const { table, connect } = await setup(t);
  table.apply([resource('a', '1'), resource('b', '1')]);
  const client = connect();
  client.send({ typeUrl: TYPE, resourceNamesSubscribe: ['a'] });
  t.same(summary(await client.accept()), { a: '1', removed: [] });
  client.send({ typeUrl: TYPE, resourceNamesSubscribe: ['*'] });
  t.same(summary(await client.accept()), { b: '1', removed: [] });
  client.send({ typeUrl: TYPE, resourceNamesUnsubscribe: ['*'] });
  t.same(summary(await client.accept()), { a: '1', removed: [] });
  table.apply([resource('a', '2'), resource('b', '2')]);
  t.same(summary(await client.accept()), { a: '2', removed: [] });
});

t.test('a refusal is counted and shown, and the refused version is not sent again', async (t) => {
  const registry = createRegistry();
  const { table, server, connect } = await setup(t, { metrics: adsServerMetrics(registry) });
  table.apply([resource('bad', '1')]);
  const client = connect();
  client.send({ typeUrl: TYPE, node: { id: 'node-7' } });
  const { nonce } = await client.next();
  client.send({ typeUrl: TYPE, responseNonce: nonce, errorDetail: { code: 3, message: 'bad: no good' } });
  // Asking for something else on the same stream comes after the refusal, so its answer proves that it was read.
  client.send({ typeUrl: OTHER });
  await client.accept();
  table.apply([resource('marker', '1')]);
  const second = await client.next();
  t.same(summary(second), { marker: '1', removed: [] });
  t.match(server.ads.streams(), [
    { nodeId: 'node-7', types: [{ lastRefusal: { nonce, message: 'bad: no good' }, acceptedNonce: '' }, {}] },
  ]);
  t.match(await registry.render(), 'pilot_total_xds_rejects{type="things"} 1');
  t.match(await registry.render(), 'pilot_xds_pushes{type="things"} 2');
  t.match(await registry.render(), 'pilot_xds 1');
  client.send({ typeUrl: TYPE, responseNonce: second.nonce });
  table.apply([resource('marker', '2')]);
  await client.next();
  t.match(server.ads.streams(), [{ types: [{ acceptedNonce: second.nonce }, {}] }]);
});

t.test('types travel in the order of the sources when one turn changes several', async (t) => {
  const { table, other, connect } = await setup(t);
  const client = connect();
  client.send({ typeUrl: TYPE });
  await client.accept();
  client.send({ typeUrl: OTHER });
  await client.accept();
  table.apply([resource('refers-to-policy', '1')]);
  other.apply([resource('policy', '1')]);
  t.equal((await client.accept()).typeUrl, OTHER);
  t.equal((await client.accept()).typeUrl, TYPE);
});

t.test('transactions of one turn arrive as one response', async (t) => {
  const { table, connect } = await setup(t);
  const client = connect();
  client.send({ typeUrl: TYPE });
  await client.accept();
  table.apply([resource('a', '1'), resource('b', '1')]);
  table.apply([resource('a', '2')], ['b']);
  t.same(summary(await client.accept()), { a: '2', removed: [] }, 'b came and went unseen');
});

t.test('a slow client is sent the newest state next, not every state', async (t) => {
  const registry = createRegistry();
  const { table, connect } = await setup(t, { metrics: adsServerMetrics(registry) });
  const big = 'x'.repeat(4_000_000);
  const fast = connect();
  const slow = connect();
  for (const client of [fast, slow]) {
    client.send({ typeUrl: TYPE });
    await client.accept();
  }
  slow.pause();
  // Far more than all windows and buffers on the way hold, so that the slow stream is stuck from here on.
  for (let round = 1; round <= 40; round++) {
    table.apply(
      [resource('big', `${round}${big}`), resource('count', String(round)), resource(`of-${round}`, '1')],
      [`of-${round - 1}`],
    );
    let seen = '';
    while (seen !== String(round)) seen = contents(await fast.accept()).count ?? seen;
  }
  slow.resume();
  let last: ForeignResponse | undefined;
  while (last === undefined || contents(last).count !== '40') last = await slow.accept();
  const held = new Set<string>();
  for (const { resources, removedResources } of slow.received) {
    for (const { name } of resources) held.add(name);
    for (const name of removedResources) held.delete(name);
  }
  t.same([...held].sort(), ['big', 'count', 'of-40']);
  t.ok(slow.received.length <= 22, `${slow.received.length} responses for 40 states`);
  t.equal(fast.received.length, 41);
});

t.test('a type that is not served, and a client that proves nothing, end the stream', async (t) => {
  const registry = createRegistry();
  const { connect } = await setup(t, {
    metrics: adsServerMetrics(registry),
    authenticate: async (caller) => {
      if (caller.header('authorization') !== 'Bearer good') throw new Error('no token');
      return undefined;
    },
  });
  const good = connect({ authorization: 'Bearer good' });
  good.send({ typeUrl: 'type.googleapis.com/test.Unknown' });
  await t.rejects(good.next(), { code: 3, details: /test.Unknown" is not served here/ });
  const bad = connect({ authorization: 'Bearer bad' });
  bad.send({ typeUrl: TYPE });
  await t.rejects(bad.next(), { code: 16, details: 'request authenticate failure' });
  t.match(await registry.render(), 'pilot_xds_authentication_failures_total 1');
});

t.test('a caller that cannot be judged now is told to come again, and not counted as a stranger', async (t) => {
  const registry = createRegistry();
  const { connect } = await setup(t, {
    metrics: adsServerMetrics(registry),
    authenticate: () => Promise.reject(new RpcError(StatusCode.UNAVAILABLE, 'tokens cannot be verified now')),
  });
  const client = connect();
  client.send({ typeUrl: TYPE });
  await t.rejects(client.next(), { code: 14, details: 'tokens cannot be verified now' });
  t.notMatch(await registry.render(), 'pilot_xds_authentication_failures_total 1');
});

t.test('more names than the limit end the stream', async (t) => {
  const { connect } = await setup(t, { maxNames: 3 });
  const client = connect();
  client.send({ typeUrl: TYPE, resourceNamesSubscribe: ['a', 'b', 'c', 'd'] });
  await t.rejects(client.next(), { code: 8, details: /more than 3 names/ });
});

t.test('streams that end leave nothing behind', async (t) => {
  const { table, server, connect } = await setup(t);
  const client = connect();
  client.send({ typeUrl: TYPE });
  await client.accept();
  t.equal(server.ads.streams().length, 1);
  client.close();
  while (server.ads.streams().length > 0) await new Promise((resolve) => setImmediate(resolve));
  t.equal(table.apply([resource('a', '1')]), 1);
});

t.test('many that want a large answer at once all get it whole, and what changes after it', async (t) => {
  const { table, connect } = await setup(t);
  table.apply(Array.from({ length: 1000 }, (_, i) => resource(`r${i}`, '1')));
  const clients = Array.from({ length: 12 }, () => connect());
  for (const client of clients) client.send({ typeUrl: TYPE, resourceNamesSubscribe: ['*'] });
  // Two leave: one perhaps while it waits for its turn, one while it is served.
  clients[11]?.close();
  const first = await clients[0]?.accept();
  clients[1]?.close();
  t.equal(first?.resources.length, 1000);
  for (const client of clients.slice(2, 11)) t.equal((await client.accept()).resources.length, 1000);
  table.apply([resource('r0', '2')], ['r1']);
  for (const client of [...clients.slice(0, 1), ...clients.slice(2, 11)]) {
    t.same(summary(await client.accept()), { r0: '2', removed: ['r1'] });
  }
});
