import { once } from 'node:events';
import { connect as connectTcp } from 'node:net';
import { connect, type TLSSocket } from 'node:tls';
import t from 'tap';
import { reviewOf, startWebhook, type TestWebhook } from '../../../support/webhook.js';

const GOOD = {
  apiVersion: 'security.istio.io/v1',
  kind: 'PeerAuthentication',
  metadata: { name: 'default', namespace: 'shop' },
  spec: { mtls: { mode: 'STRICT' } },
};
const BAD = { ...GOOD, spec: { mtls: { mode: 'strict' } } };

t.test('answers with the uid of the request, and why an object is refused', async (t) => {
  using webhook = await startWebhook();
  const good = await webhook.post(reviewOf(GOOD));
  t.equal(good.status, 200);
  t.strictSame(JSON.parse(good.body), {
    apiVersion: 'admission.k8s.io/v1',
    kind: 'AdmissionReview',
    response: { uid: '705ab4f5-6393-11e8-b7cc-42010a800002', allowed: true },
  });
  const bad = JSON.parse((await webhook.post(reviewOf(BAD))).body);
  t.strictSame(bad.response.status, {
    code: 400,
    reason: 'BadRequest',
    message: 'PeerAuthentication shop/default: spec.mtls.mode is "strict", none of UNSET, DISABLE, PERMISSIVE, STRICT',
  });
  const metrics = await webhook.metrics.render();
  t.match(metrics, 'galley_validation_passed{group="security.istio.io",resource="PeerAuthentication"} 1');
  t.match(metrics, 'galley_validation_failed{group="security.istio.io",resource="PeerAuthentication"} 1');
});

t.test('shows a new certificate as soon as there is one', async (t) => {
  using webhook = await startWebhook();
  const before = await webhook.post(reviewOf(GOOD));
  webhook.renew();
  const after = await webhook.post(reviewOf(GOOD));
  t.equal(after.status, 200);
  t.not(after.fingerprint, before.fingerprint);
});

t.test('what is no review is a mistake of the caller, and counted', async (t) => {
  using webhook = await startWebhook();
  const answers: readonly (readonly [body: unknown, why: RegExp])[] = [
    ['{', /no JSON/],
    ['', /no JSON/],
    ['null', /no AdmissionReview/],
    [{ kind: 'AdmissionReview', apiVersion: 'admission.k8s.io/v1beta1', request: {} }, /admission\.k8s\.io\/v1,/],
    [{ kind: 'AdmissionReview', apiVersion: 'admission.k8s.io/v1' }, /no request/],
    [{ kind: 'AdmissionReview', apiVersion: 'admission.k8s.io/v1', request: { uid: 7 } }, /no uid/],
  ];
  for (const [body, why] of answers) t.match(await webhook.post(body), { status: 400, body: why });
  t.match(await webhook.post('', { path: '/' }), { status: 404 });
  t.match(await webhook.post('', { method: 'PUT' }), { status: 405 });
  t.equal(await turnedAway(webhook, 'malformed'), answers.length);
});

t.test('labels of metrics are not made up by callers', async (t) => {
  using webhook = await startWebhook();
  for (const kind of ['A', 'B', 'C']) {
    await webhook.post(reviewOf({ apiVersion: 'x.example/v1', kind, metadata: { name: 'x' } }));
  }
  const metrics = await webhook.metrics.render();
  t.match(metrics, 'galley_validation_passed{group="other",resource="other"} 3');
  t.notMatch(metrics, 'x.example');
});

t.test('a review that is too large is turned away while it comes', async (t) => {
  using webhook = await startWebhook({ limits: { bodyBytes: 1_000 } });
  t.match(await webhook.post('x'.repeat(100_000)), { status: 413, body: /more than 1000 bytes/ });
  t.equal(await turnedAway(webhook, 'too-large'), 1);
  t.match(await webhook.post(reviewOf(GOOD)), { status: 200 }, 'and the next is judged');
});

t.test('bodies that nobody ends take a bounded room, and give it back', async (t) => {
  using webhook = await startWebhook({ limits: { heldBytes: 10_000, requestMs: 60_000 } });
  const slow = await unfinished(webhook, 9_000);
  await until(async () => (await webhook.post('x'.repeat(9_000))).status === 503);
  t.ok((await turnedAway(webhook, 'busy')) > 0);
  slow.destroy();
  await until(async () => (await webhook.post(reviewOf(GOOD))).status === 200);
});

t.test('whoever takes too long is cut off', async (t) => {
  using webhook = await startWebhook({ limits: { requestMs: 100 } });
  const slow = await unfinished(webhook, 10);
  slow.resume();
  await once(slow, 'close');
  t.pass('by the server');
});

t.test('one address cannot have all connections', async (t) => {
  using webhook = await startWebhook({ limits: { connections: 4, connectionsPerAddress: 2 } });
  const idle = [1, 2].map(() => connectTcp({ port: webhook.server.port, host: '127.0.0.1' }));
  await Promise.all(idle.map((socket) => once(socket, 'connect')));
  const third = connectTcp({ port: webhook.server.port, host: '127.0.0.1' });
  third.resume();
  await once(third, 'close');
  t.match(
    await webhook.post(reviewOf(GOOD)).catch(String),
    /\b(?:ECONNRESET|socket|disconnected)/,
    'this address is ours, too',
  );
  t.equal(await turnedAway(webhook, 'connections'), 2);
  const other = connectTcp({ port: webhook.server.port, host: '127.0.0.1', localAddress: '127.0.0.2' });
  await once(other, 'connect');
  for (const socket of [...idle, other]) socket.destroy();
  await until(async () => (await webhook.post(reviewOf(GOOD)).catch(() => undefined))?.status === 200);
});

/** A request whose body has begun and does not end. */
async function unfinished(webhook: TestWebhook, bytes: number): Promise<TLSSocket> {
  const socket = connect({ port: webhook.server.port, host: 'localhost', ca: webhook.root });
  socket.on('error', () => {});
  await once(socket, 'secureConnect');
  socket.write(
    `POST /validate HTTP/1.1\r\nhost: localhost\r\ncontent-length: ${bytes + 1}\r\n\r\n${'x'.repeat(bytes)}`,
  );
  return socket;
}

async function turnedAway(webhook: TestWebhook, reason: string): Promise<number> {
  const line = new RegExp(`^meltemi_webhook_turned_away_total\\{reason="${reason}"\\} (\\d+)$`, 'm');
  return Number(line.exec(await webhook.metrics.render())?.[1] ?? 0);
}

async function until(holds: () => Promise<boolean>): Promise<void> {
  while (!(await holds())) await new Promise((resolve) => setImmediate(resolve));
}
