import { createServer } from 'node:net';
import t, { type Test } from 'tap';
import { ManualClock } from '../../../src/lib/manual-clock.js';
import { setLevel } from '../../../src/telemetry/log.js';
import { type AdsClientOptions, connectAds, type Termination } from '../../../src/xds/client.js';
import { ResourceTable } from '../../../src/xds/resource-table.js';
import type { Update } from '../../../src/xds/update.js';
import { resource, startAdsServer } from '../../support/ads-server.js';

setLevel('silent');

const THINGS = 'type.googleapis.com/test.Thing';
const ON_DEMAND = 'type.googleapis.com/test.OnDemand';

/** A client of ours, whose handler refuses every resource with content `bad` and keeps the rest by name. */
function startClient(t: Test, port: number, extra: Partial<AdsClientOptions> = {}) {
  const clock = new ManualClock();
  const updates: Update[] = [];
  const held = new Map<string, string>();
  const terminations: Termination[] = [];
  const counted = { messages: 0, bytes: 0, refused: 0 };
  const waiting: { when: () => boolean; resolve: () => void }[] = [];
  const wake = (): void => {
    for (const each of waiting.filter(({ when }) => when())) {
      waiting.splice(waiting.indexOf(each), 1);
      each.resolve();
    }
  };
  let connected = false;
  const onUpdate = (update: Update) => {
    updates.push(update);
    const refused = [];
    for (const { name, bytes } of update.changed) {
      const content = Buffer.from(bytes).toString();
      if (content === 'throw') throw new Error('a bug');
      if (content === 'bad') refused.push({ name, reason: 'is bad' });
      else held.set(name, content);
    }
    for (const name of update.removed) held.delete(name);
    setImmediate(wake);
    return refused;
  };
  const client = connectAds({
    address: `127.0.0.1:${port}`,
    rootCerts: async () => undefined,
    node: { id: 'node-1' },
    types: [
      { typeUrl: THINGS, mode: 'wildcard', onUpdate },
      { typeUrl: ON_DEMAND, mode: 'onDemand', onUpdate },
    ],
    clock,
    random: () => 0.5,
    metrics: {
      message(_type, bytes) {
        counted.messages++;
        counted.bytes += bytes;
      },
      refused(_type, resources) {
        counted.refused += resources;
      },
      terminated(reason) {
        terminations.push(reason);
        setImmediate(wake);
      },
    },
    onConnected(now) {
      connected = now;
      setImmediate(wake);
    },
    ...extra,
  });
  t.teardown(() => client.close());
  return {
    client,
    clock,
    updates,
    held,
    terminations,
    counted,
    isConnected: () => connected,
    until: (when: () => boolean) =>
      when() ? Promise.resolve() : new Promise<void>((resolve) => waiting.push({ when, resolve })),
  };
}

async function setup(t: Test) {
  const things = new ResourceTable(THINGS, 'things');
  const onDemand = new ResourceTable(ON_DEMAND, 'on-demand');
  const server = await startAdsServer([things, onDemand]);
  t.teardown(() => server.close());
  return { things, onDemand, server };
}

const object = (map: ReadonlyMap<string, string>) => Object.fromEntries(map);

t.test('everything of a wildcard type arrives, then changes, and the client says when it is in step', async (t) => {
  const { things, server } = await setup(t);
  things.apply([resource('a', '1'), resource('b', '1')]);
  let synced = 0;
  const it = startClient(t, server.port, { onSynced: () => synced++ });
  t.equal(it.client.status().synced, false);
  await it.until(() => it.held.size === 2);
  t.same(object(it.held), { a: '1', b: '1' });
  t.equal(synced, 1);
  things.apply([resource('c', '1')], ['a']);
  await it.until(() => it.held.has('c'));
  t.same(object(it.held), { b: '1', c: '1' });
  t.equal(synced, 1);
  t.match(it.client.status(), { connected: true, synced: true, types: [{ typeUrl: THINGS, resources: 2 }, {}] });
  t.match(it.counted, { messages: 2, refused: 0 });
  t.ok(it.counted.bytes > 0);
});

t.test('one refusal names every bad resource, the good of the same response count, the last good stays', async (t) => {
  const { things, server } = await setup(t);
  things.apply([resource('a', '1'), resource('b', '1')]);
  const it = startClient(t, server.port);
  await it.until(() => it.held.size === 2);
  things.apply([resource('a', 'bad'), resource('b', '2'), resource('c', 'bad')]);
  await it.until(() => it.held.get('b') === '2');
  things.apply([resource('d', '1')]);
  await it.until(() => it.held.has('d'));
  t.same(object(it.held), { a: '1', b: '2', d: '1' });
  t.equal(it.counted.refused, 2);
  t.match(server.ads.streams(), [
    { types: [{ lastRefusal: { message: '2 of 3 resources refused: a: is bad; c: is bad' } }] },
  ]);
});

t.test('a handler that throws refuses the response and the stream lives on', async (t) => {
  const { things, server } = await setup(t);
  things.apply([resource('a', 'throw')]);
  const it = startClient(t, server.port);
  await it.until(() => it.updates.length === 1 || it.counted.refused === 1);
  things.apply([resource('a', '2')]);
  await it.until(() => it.held.get('a') === '2');
  t.match(server.ads.streams(), [{ types: [{ lastRefusal: { message: /a: cannot be applied: Error: a bug/ } }] }]);
});

t.test('names are asked for later, by alias too, and unknown ones are reported as removed', async (t) => {
  const { onDemand, server } = await setup(t);
  onDemand.apply([resource('uid-1', '1', ['ip-1']), resource('uid-2', '2', ['ip-2'])]);
  const it = startClient(t, server.port);
  await it.until(it.isConnected);
  it.client.subscribe(ON_DEMAND, ['ip-1']);
  it.client.subscribe(ON_DEMAND, ['nowhere']);
  await it.until(() => it.held.has('uid-1'));
  t.match(it.updates.at(-1), { changed: [{ name: 'uid-1', aliases: ['ip-1'] }], removed: ['nowhere'] });
  it.client.subscribe(ON_DEMAND, ['uid-2']);
  await it.until(() => it.held.has('uid-2'));
  it.client.unsubscribe(ON_DEMAND, ['ip-1']);
  t.same(object(it.held), { 'uid-2': '2' }, 'what only that name asked for is removed at once');
  onDemand.apply([resource('uid-1', '3', ['ip-1']), resource('uid-2', '4', ['ip-2'])]);
  await it.until(() => it.held.get('uid-2') === '4');
  t.same(object(it.held), { 'uid-2': '4' });
});

t.test('after a restart of the server only differences travel', async (t) => {
  const { things, onDemand, server } = await setup(t);
  const same = Array.from({ length: 500 }, (_, i) => resource(`same-${i}`, `${i}`));
  things.apply([...same, resource('changes', '1'), resource('goes', '1'), resource('refused', '1')]);
  onDemand.apply([resource('uid-1', '1', ['ip-1']), resource('uid-2', '1', ['ip-2'])]);
  const it = startClient(t, server.port);
  await it.until(() => it.held.size === 503);
  it.client.subscribe(ON_DEMAND, ['ip-1', 'ip-2', 'ip-3']);
  await it.until(() => it.held.size === 505);
  things.apply([resource('refused', 'bad')]);
  await it.until(() => it.counted.refused === 1);

  await server.close();
  await it.until(() => it.terminations.length === 1);
  t.equal(it.isConnected(), false);
  t.match(it.client.status(), { connected: false, synced: true, lastError: /.+/ });
  it.client.subscribe(ON_DEMAND, ['ip-4']);
  it.client.unsubscribe(ON_DEMAND, ['ip-2']);
  const reborn = [new ResourceTable(THINGS), new ResourceTable(ON_DEMAND)] as const;
  reborn[0].apply([...same, resource('changes', '2'), resource('comes', '1'), resource('refused', 'bad')]);
  reborn[1].apply([
    resource('uid-1', '1', ['ip-1']),
    resource('uid-2', '1', ['ip-2']),
    resource('uid-4', '1', ['ip-4']),
  ]);
  const again = await startAdsServer(reborn, { port: server.port });
  t.teardown(() => again.close());
  const before = it.updates.length;
  it.clock.advance(200);
  await it.until(() => it.held.has('uid-4') && it.held.has('comes'));

  t.match(it.terminations, ['reconnect']);
  const [first, second] = it.updates.slice(before);
  t.same(
    first?.changed.map(({ name }) => name).sort(),
    ['changes', 'comes', 'refused'],
    'what was refused comes again',
  );
  t.same(first?.removed, ['goes']);
  t.same(
    second?.changed.map(({ name }) => name),
    ['uid-4'],
  );
  t.same(second?.removed, ['ip-3']);
  t.equal(it.held.get('refused'), '1');
});

t.test('attempts back off while nobody answers, and credentials are asked for at each', async (t) => {
  const closed = createServer();
  const port = await new Promise<number>((resolve) =>
    closed.listen(0, '127.0.0.1', () => resolve((closed.address() as { port: number }).port)),
  );
  await new Promise((resolve) => closed.close(resolve));
  let asked = 0;
  const it = startClient(t, port, {
    rootCerts: async () => {
      asked++;
      if (asked === 2) throw new Error('root-cert.pem: no such file');
      return undefined;
    },
  });
  const delays = [150, 300, 600];
  for (const [index, delay] of delays.entries()) {
    await it.until(() => it.terminations.length === index + 1);
    t.equal(asked, index + 1);
    it.clock.advance(delay - 1);
    t.equal(asked, index + 1, 'not before the delay is over');
    it.clock.advance(1);
    t.equal(asked, index + 2);
  }
  await it.until(() => it.terminations.length === 4);
  t.same(new Set(it.terminations), new Set(['connection_error']));
});

t.test('a client that was closed does not come back', async (t) => {
  const { things, server } = await setup(t);
  things.apply([resource('a', '1')]);
  const it = startClient(t, server.port);
  await it.until(() => it.held.has('a'));
  it.client.close();
  while (server.ads.streams().length > 0) await new Promise((resolve) => setImmediate(resolve));
  t.equal(it.clock.pending, 0);
});
