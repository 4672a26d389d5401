import { execFileSync } from 'node:child_process';
import { generateKeyPairSync, type KeyObject, sign } from 'node:crypto';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { connect, createServer, type TLSSocket } from 'node:tls';
import t, { type Test } from 'tap';
import { IstioCertificateService } from '../../../src/gen/istio/auth/ca_pb.js';
import { openChannel } from '../../../src/grpc/channel.js';
import { createGrpcServer } from '../../../src/grpc/server.js';
import { parseCertificate } from '../../../src/identity/certificate.js';
import { buildCsr } from '../../../src/identity/csr.js';
import { type Clock, systemClock } from '../../../src/lib/clock.js';
import { ManualClock } from '../../../src/lib/manual-clock.js';
import { setLevel, setLogSink } from '../../../src/telemetry/log.js';
import { createRegistry } from '../../../src/telemetry/metrics.js';
import { connectAds } from '../../../src/xds/client.js';
import { ResourceTable } from '../../../src/xds/resource-table.js';
import { createAdsServer } from '../../../src/xds/server.js';
import { adsServerMetrics } from '../../../src/xds/server-metrics.js';
import { resource } from '../../support/ads-server.js';
import { signJwt } from '../../support/jwt.js';
import { createCa } from '../../support/running-ca.js';

const logged: string[] = [];
setLogSink((line) => logged.push(line));
setLevel('info');

const NAME = 'meltemi.istio-system.svc';
const CART = 'spiffe://cluster.local/ns/shop/sa/cart';
const DB = 'spiffe://cluster.local/ns/shop/sa/db';
const method = IstioCertificateService.method.createCertificate;

/** A control plane's TLS listener with the CA and an ADS table on it; pods: cart on node-1, db on node-2. */
async function setup(t: Test, clock: Clock = systemClock) {
  const directory = t.testdir({});
  const issuer = generateKeyPairSync('ec', { namedCurve: 'P-256' });
  writeFileSync(join(directory, 'jwt.pem'), issuer.publicKey.export({ format: 'pem', type: 'spki' }));
  const registry = createRegistry();
  const ca = await createCa({
    directory: join(directory, 'ca'),
    cacerts: undefined,
    workloadTtlSeconds: 86_400,
    trustDomain: 'cluster.local',
    rootNamespace: 'istio-system',
    issuers: [{ issuer: 'lab', audience: 'istio-ca', publicKey: join(directory, 'jwt.pem') }],
    identitiesOfNode: (node) => new Set(node === 'node-1' ? [CART] : node === 'node-2' ? [DB] : []),
    registry,
    clock,
  });
  const table = new ResourceTable('type.googleapis.com/test.Thing');
  const server = createGrpcServer();
  ca.addTo(server);
  createAdsServer([table], { authenticate: ca.authenticate, clock, metrics: adsServerMetrics(registry) }).addTo(server);
  const port = await server.listen({ ip: '127.0.0.1', port: 0 }, ca.credentials);
  t.teardown(async () => {
    ca.close();
    await server.close(0);
  });
  const roots = () => readFileSync(join(directory, 'ca/root-cert.pem'), 'utf8');
  const token = (changes: object = {}) =>
    signJwt(issuer.privateKey, {
      iss: 'lab',
      aud: 'istio-ca',
      sub: 'system:serviceaccount:istio-system:meltemi-agent',
      node: 'node-1',
      exp: clock.now() / 1000 + 3600,
      ...changes,
    });
  const ask = async (request: {
    csr?: string;
    impersonate?: string | undefined;
    ttl?: number;
    authorization?: string;
    metadata?: Record<string, string | number>;
  }): Promise<string[]> => {
    const channel = openChannel({ address: `127.0.0.1:${port}`, serverName: NAME, rootCerts: roots() });
    try {
      const { csr = newCsr(CART).csr, impersonate = CART, ttl = 0, authorization = `Bearer ${token()}` } = request;
      const metadata = request.metadata ?? { ImpersonatedIdentity: impersonate };
      const headers = authorization === '' ? {} : { authorization };
      return (
        await channel.unary(method, { csr, validityDuration: BigInt(ttl), metadata }, { headers, timeoutMs: 5000 })
      ).certChain;
    } finally {
      channel.close();
    }
  };
  const issue = async (identity: string, node: string) => {
    const { csr, privateKey } = newCsr(identity);
    return { privateKey, chain: await ask({ csr, impersonate: identity, authorization: `Bearer ${token({ node })}` }) };
  };
  return { ca, port, table, roots, token, ask, issue, registry, directory };
}

function newCsr(spiffeId: string, signer?: KeyObject): { csr: string; privateKey: KeyObject } {
  const keys = generateKeyPairSync('ec', { namedCurve: 'P-256' });
  const publicKeySpki = keys.publicKey.export({ format: 'der', type: 'spki' });
  const csr = buildCsr({ spiffeId, publicKeySpki, sign: (bytes) => sign('sha256', bytes, signer ?? keys.privateKey) });
  return { csr, privateKey: keys.privateKey };
}

interface Holder {
  readonly privateKey: KeyObject;
  readonly chain: readonly string[];
}

/** A mutual TLS handshake of two holders, both trusting `roots`; resolves with the server's view of the client. */
async function handshake(client: Holder, server: Holder, roots: string): Promise<string> {
  const side = ({ privateKey, chain }: Holder) => ({
    key: privateKey.export({ format: 'pem', type: 'pkcs8' }),
    cert: chain.slice(0, -1).join(''),
    ca: roots,
    minVersion: 'TLSv1.3' as const,
  });
  const listener = createServer({ ...side(server), requestCert: true, rejectUnauthorized: true });
  try {
    return await new Promise<string>((resolve, reject) => {
      listener.on('secureConnection', (socket: TLSSocket) => {
        resolve(socket.getPeerCertificate().subjectaltname ?? '');
        socket.destroy();
      });
      listener.on('tlsClientError', reject);
      listener.listen(0, '127.0.0.1', () => {
        const { port } = listener.address() as { port: number };
        const socket = connect({ ...side(client), host: '127.0.0.1', port, checkServerIdentity: () => undefined });
        socket.on('error', reject);
        socket.on('secureConnect', () => socket.resume());
      });
    });
  } finally {
    listener.close();
  }
}

t.test('an agent gets a certificate for a pod of its node, and two pods speak mutual TLS with theirs', async (t) => {
  const it = await setup(t);
  const cart = await it.issue(CART, 'node-1');
  const db = await it.issue(DB, 'node-2');
  t.equal(cart.chain.length, 3);
  t.equal(cart.chain.at(-1), it.roots());
  t.equal(await handshake(cart, db, it.roots()), `URI:${CART}`);
  t.equal(await handshake(db, cart, it.roots()), `URI:${DB}`);
  const text = await it.registry.render();
  t.match(text, 'citadel_server_csr_count 2');
  t.match(text, 'citadel_server_success_cert_issuance_count 2');
  t.match(text, /citadel_server_root_cert_expiry_seconds 31\d{7}/);
});

t.test('an agent that names nobody gets its own identity', async (t) => {
  const it = await setup(t);
  const own = 'spiffe://cluster.local/ns/istio-system/sa/meltemi-agent';
  const [leaf] = await it.ask({ csr: newCsr(own).csr, metadata: {} });
  t.same(parseCertificate(leaf ?? '').uriSans, [own]);
});

t.test('requests by openssl with RSA and P-384 keys are signed, too', async (t) => {
  const it = await setup(t);
  for (const key of [['rsa:2048'], ['ec', '-pkeyopt', 'ec_paramgen_curve:P-384']]) {
    const args = ['req', '-new', '-newkey', ...key, '-nodes', '-keyout', join(it.directory, 'k'), '-subj', '/O=any'];
    const csr = execFileSync('openssl', args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] });
    const [leaf] = await it.ask({ csr });
    t.same(parseCertificate(leaf ?? '').uriSans, [CART], 'the identity is what was authorised, whatever the CSR says');
  }
});

t.test('every failure looks the same to the caller, and is logged with its reason and counted', async (t) => {
  const it = await setup(t);
  const stranger = generateKeyPairSync('ec', { namedCurve: 'P-256' });
  const now = Date.now() / 1000;
  const bearer = (changes: object) => `Bearer ${it.token(changes)}`;
  const cases: [Parameters<typeof it.ask>[0], RegExp, string][] = [
    [{ authorization: '' }, /no authorization header/, 'authentication'],
    [{ authorization: 'Bearer nonsense' }, /no JWT/, 'authentication'],
    [{ authorization: bearer({ exp: now - 60 }) }, /the token ended/, 'authentication'],
    [{ authorization: bearer({ aud: 'else' }) }, /not for \\"istio-ca\\"/, 'authentication'],
    [{ authorization: `Bearer ${signJwt(stranger.privateKey, { iss: 'lab' })}` }, /signature/, 'authentication'],
    [{ authorization: `Bearer ${'x'.repeat(9000)}` }, /characters long/, 'authentication'],
    [{ authorization: bearer({ node: 'node-2' }) }, /no live pod on node node-2/, 'authentication'],
    [{ authorization: bearer({ sub: 'system:serviceaccount:shop:cart' }) }, /no node agent/, 'authentication'],
    [{ impersonate: 'cart' }, /is not spiffe/, 'authentication'],
    [{ metadata: { ImpersonatedIdentity: 7 } }, /is no text/, 'identity'],
    [{ csr: newCsr(DB).csr }, /the CSR is for .*db/, 'identity'],
    [{ csr: newCsr(CART, stranger.privateKey).csr }, /signature of the CSR/, 'csr'],
    [{ csr: 'x'.repeat(100_000) }, /100000 characters/, 'csr'],
    [{ csr: '' }, /no CERTIFICATE REQUEST/, 'csr'],
    [{ ttl: 91 * 86_400 }, /not 0 to 7776000 s/, 'signing'],
    [{ ttl: -5 }, /not 0 to 7776000 s/, 'signing'],
  ];
  for (const [request, reason, kind] of cases) {
    logged.length = 0;
    await t.rejects(it.ask(request), { code: 16, message: 'request authenticate failure' });
    const line = logged.find((each) => each.includes('certificate refused')) ?? '';
    t.match(line, reason);
    t.match(JSON.parse(line).kind, kind);
  }
  t.notMatch(logged.join(''), /eyJ/, 'no token reaches the log');
  const text = await it.registry.render();
  t.match(text, 'citadel_server_authentication_failure_count 9');
  t.match(text, 'citadel_server_csr_parsing_err_count 3');
  t.match(text, 'citadel_server_id_extraction_err_count 2');
  t.match(text, 'citadel_server_csr_sign_err_count 2');
  t.match(text, 'citadel_server_csr_count 16');
});

t.test('a rotation of the root under load breaks no handshake, and in the end the old root is refused', async (t) => {
  const it = await setup(t);
  let cart = await it.issue(CART, 'node-1');
  let db = await it.issue(DB, 'node-2');
  const [oldCart, oldRoots] = [cart, it.roots()];
  let count = 0;
  const load = async (roots: string[]): Promise<void> => {
    for (const each of roots) {
      for (const [a, b] of [
        [cart, db],
        [db, cart],
      ] as const) {
        await handshake(a, b, each);
        count++;
      }
    }
  };
  await load([it.roots()]);
  await it.ca.authority.rotateRoot('add');
  await load([oldRoots, it.roots()]);
  cart = await it.issue(CART, 'node-1');
  await load([oldRoots, it.roots()]);
  t.match(await it.ca.authority.rotateRoot('sign'), { ok: false }, 'the other node has not got the bundle yet');
  db = await it.issue(DB, 'node-2');
  await load([oldRoots, it.roots()]);
  const both = it.roots();
  t.match(await it.ca.authority.rotateRoot('sign'), { ok: true });
  await load([both, it.roots()]);
  cart = await it.issue(CART, 'node-1');
  await load([both, it.roots()]);
  db = await it.issue(DB, 'node-2');
  await load([both, it.roots()]);
  t.match(await it.ca.authority.rotateRoot('drop'), { ok: true });
  await load([both, it.roots()]);
  t.equal(count, 30);
  await t.rejects(handshake(oldCart, db, it.roots()), 'the old root is refused');
  await t.rejects(
    it.ask({}).then(() => handshake(cart, db, oldRoots)),
    'and whoever has only the old one trusts nobody',
  );
});

t.test('a stream ends with its token, and the agent comes back with the new one', async (t) => {
  // Half an hour behind, so that the server's certificate is valid for a real TLS client now and after the token's end.
  const clock = new ManualClock(Date.now() - 1800_000);
  const it = await setup(t, clock);
  const tokens = [it.token({ exp: clock.now() / 1000 + 600 }), it.token({ exp: clock.now() / 1000 + 3600 })];
  const terminations: string[] = [];
  const connected: boolean[] = [];
  const waiting: (() => void)[] = [];
  const client = connectAds({
    address: `127.0.0.1:${it.port}`,
    serverName: NAME,
    rootCerts: async () => it.roots(),
    headers: async () => ({ authorization: `Bearer ${tokens.length > 1 ? tokens.shift() : tokens[0]}` }),
    node: { id: 'node-1' },
    types: [{ typeUrl: it.table.typeUrl, mode: 'wildcard', onUpdate: () => [] }],
    metrics: { message() {}, refused() {}, terminated: (reason) => terminations.push(reason) },
    onConnected: (is) => {
      connected.push(is);
      for (const resolve of waiting.splice(0)) resolve();
    },
  });
  t.teardown(() => client.close());
  const until = async (states: readonly boolean[]): Promise<void> => {
    while (connected.length < states.length) await new Promise<void>((resolve) => waiting.push(resolve));
    t.same(connected, states);
  };
  await until([true]);
  clock.advance(600_000);
  t.same(terminations, [], 'clocks of nodes differ a little');
  logged.length = 0;
  clock.advance(30_000);
  await until([true, false, true]);
  t.same(terminations, ['error']);
  t.match(logged.join(''), /UNAUTHENTICATED|the token has ended/);
  const text = await it.registry.render();
  t.match(text, 'meltemi_xds_expired_streams_total 1');
  t.match(text, 'pilot_xds_authentication_failures_total 0');
  t.match(text, /^pilot_xds 1$/m);
});

t.test('the server’s own certificate is renewed while streams go on', async (t) => {
  // Half a day behind, so that certificates made now and after the renewal are valid for a real TLS client.
  const clock = new ManualClock(Date.now() - 12 * 3600_000);
  const it = await setup(t, clock);
  const names: string[] = [];
  const waiting: (() => void)[] = [];
  const terminations: string[] = [];
  it.table.apply([resource('a', '1')]);
  const client = connectAds({
    address: `127.0.0.1:${it.port}`,
    serverName: NAME,
    rootCerts: async () => it.roots(),
    headers: async () => ({ authorization: `Bearer ${it.token({ exp: clock.now() / 1000 + 2 * 86_400 })}` }),
    node: { id: 'node-1' },
    types: [
      {
        typeUrl: it.table.typeUrl,
        mode: 'wildcard',
        onUpdate: ({ changed }) => {
          names.push(...changed.map(({ name }) => name));
          for (const resolve of waiting.splice(0)) resolve();
          return [];
        },
      },
    ],
    metrics: { message() {}, refused() {}, terminated: (reason) => terminations.push(reason) },
  });
  t.teardown(() => client.close());
  const until = async (name: string): Promise<void> => {
    while (!names.includes(name)) await new Promise<void>((resolve) => waiting.push(resolve));
  };
  const serial = () =>
    new Promise<string>((resolve, reject) => {
      const socket = connect(
        { host: '127.0.0.1', port: it.port, servername: NAME, ca: it.roots(), ALPNProtocols: ['h2'] },
        () => {
          resolve(socket.getPeerCertificate().serialNumber);
          socket.destroy();
        },
      );
      socket.on('error', reject);
    });
  await until('a');
  const first = await serial();
  t.equal(await serial(), first);
  clock.advance(12 * 3600_000);
  const second = await serial();
  t.not(second, first, 'renewed at half of its life');
  await it.ca.authority.rotateRoot('add');
  await it.ca.authority.rotateRoot('sign');
  t.not(await serial(), second, 'and when the CA changes');
  it.table.apply([resource('b', '1')]);
  await until('b');
  t.same(terminations, []);
});
