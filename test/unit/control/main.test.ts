import { generateKeyPairSync, sign } from 'node:crypto';
import { mkdirSync, mkdtempSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { request } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fromBinary } from '@bufbuild/protobuf';
import t, { type Test } from 'tap';
import { parseConfig } from '../../../src/control/config.js';
import { buildControlPlane, type ControlPlane } from '../../../src/control/main.js';
import { ADDRESS_TYPE, AUTHORIZATION_TYPE } from '../../../src/control/push/push.js';
import { IstioCertificateService } from '../../../src/gen/istio/auth/ca_pb.js';
import { AddressSchema } from '../../../src/gen/istio/workload/workload_pb.js';
import { openChannel } from '../../../src/grpc/channel.js';
import { StatusCode } from '../../../src/grpc/status.js';
import { parseCertificate } from '../../../src/identity/certificate.js';
import { buildCsr } from '../../../src/identity/csr.js';
import { ipFromBytes } from '../../../src/lib/ip.js';
import { setLogSink } from '../../../src/telemetry/log.js';
import { connectAds } from '../../../src/xds/client.js';
import type { Update } from '../../../src/xds/update.js';

const logged: string[] = [];
setLogSink((line) => logged.push(line));

t.test('an agent follows a directory through the control plane', { timeout: 60_000 }, async (t) => {
  const { manifests, put, controlPlane, socket, agent } = await setUp(t);
  put('web.yaml', pod('web', '10.1.0.1') + service('web', '10.96.0.1'));
  const early = agent();
  t.match(await get(socket, '/ready'), { status: 500, body: 'not ready, pending: source\n' });
  await controlPlane.run();
  t.match(await get(socket, '/ready'), { status: 200, body: 'ready\n' });

  const first = await early.next(ADDRESS_TYPE);
  t.same(
    new Map(first.changed.map(({ name, bytes }) => [name, address(bytes)])),
    new Map([
      ['Kubernetes//Pod/shop/web', '10.1.0.1 shop/web.shop.svc.cluster.local'],
      ['shop/web.shop.svc.cluster.local', '10.96.0.1'],
    ]),
    'an agent that came before the source was read is told the whole of it, not an empty mesh',
  );
  const policies = await early.next(AUTHORIZATION_TYPE);
  t.same(
    policies.changed.map(({ name }) => name),
    ['istio-system/istio_converted_static_strict'],
  );

  put('more.yaml', pod('two', '10.1.0.2') + strict);
  const second = await early.next(ADDRESS_TYPE);
  t.same(
    second.changed.map(({ name }) => name).sort(),
    ['Kubernetes//Pod/shop/two', 'Kubernetes//Pod/shop/web'],
    'one message: the new pod, and the old one for the policy that now holds for it',
  );

  put('more.yaml', 'kind: Pod\napiVersion: v1\nmetadata: {name: [1]}\n');
  put('third.yaml', pod('three', '10.1.0.3'));
  t.same(
    (await early.next(ADDRESS_TYPE)).changed.map(({ name }) => name),
    ['Kubernetes//Pod/shop/three'],
  );
  const status = JSON.parse((await get(socket, '/debug/status')).body) as Status;
  t.match(status.source.badFiles, [
    { path: join(manifests, 'more.yaml'), problems: [/Pod .*: metadata.name is a list/], kept: 2 },
  ]);
  t.ok(logged.some((line) => line.includes('its last good version stays in force')));
  t.match((await get(socket, '/metrics')).body, /meltemi_source_bad_files 1\n/);
  t.equal(status.agents.length, 1);

  put('audit.yaml', audit);
  put('four.yaml', pod('four', '10.1.0.4'));
  t.same(
    (await early.next(ADDRESS_TYPE)).changed.map(({ name }) => name),
    ['Kubernetes//Pod/shop/four'],
  );
  t.ok(
    logged.some((line) => line.includes('AuthorizationPolicy shop/audit') && line.includes('AUDIT is not supported')),
  );
  t.match((await get(socket, '/metrics')).body, /meltemi_mesh_warnings 1\n/);

  rmSync(join(manifests, 'four.yaml'));
  await early.next(ADDRESS_TYPE);
  rmSync(join(manifests, 'web.yaml'));
  const gone = await early.next(ADDRESS_TYPE);
  t.same([...gone.removed].sort(), ['Kubernetes//Pod/shop/web', 'shop/web.shop.svc.cluster.local']);
  const late = agent();
  t.equal((await late.next(ADDRESS_TYPE)).changed.length, 2);
  t.same(
    JSON.parse((await get(socket, '/debug/registryz')).body).workloads.map((w: { name: string }) => w.name),
    ['three', 'two'],
  );
});

t.test(
  'an agent with its node’s token gets the mesh and certificates for pods of that node',
  { timeout: 60_000 },
  async (t) => {
    const { put, controlPlane, agent, certificate, token, roots } = await setUp(t);
    put('pods.yaml', pod('here', '10.1.0.1', 'node-1') + pod('there', '10.1.0.2', 'node-2'));
    const own = agent({ token: token('node-1') });
    const early = certificate(token('node-1'), 'spiffe://cluster.local/ns/shop/sa/here');
    await controlPlane.run();
    t.equal((await own.next(ADDRESS_TYPE)).changed.length, 2);
    const chain = (await early).certChain;
    t.equal(parseCertificate(chain[0] ?? '').uriSans[0], 'spiffe://cluster.local/ns/shop/sa/here');
    t.equal(chain.at(-1), roots());

    for (const [who, identity] of [
      [token('node-1'), 'spiffe://cluster.local/ns/shop/sa/there'],
      [token('node-3'), 'spiffe://cluster.local/ns/shop/sa/here'],
      [`${token('node-1')}x`, 'spiffe://cluster.local/ns/shop/sa/here'],
    ] as const) {
      await t.rejects(certificate(who, identity), { code: StatusCode.UNAUTHENTICATED });
    }
    put('pods.yaml', pod('here', '10.1.0.1', 'node-2'));
    await own.next(ADDRESS_TYPE);
    await t.rejects(certificate(token('node-1'), 'spiffe://cluster.local/ns/shop/sa/here'), 'the pod has moved');
    t.ok(await certificate(token('node-2'), 'spiffe://cluster.local/ns/shop/sa/here'));

    const stranger = agent({ token: 'not-a-token' });
    await stranger.refused;
    t.ok(logged.some((line) => line.includes('stream refused')));
  },
);

t.test('says what it cannot have, and lets go of what it had', async (t) => {
  const { config, controlPlane } = await setUp(t);
  const port = controlPlane.ports.tls;
  await t.rejects(buildControlPlane({ ...config, listen: { ...config.listen, tls: { ip: '127.0.0.1', port } } }), {
    message: new RegExp(`cannot listen on 127.0.0.1:${port}`),
  });
  const issuers = [{ issuer: 'x', audience: 'y', publicKey: '/nowhere.pem' }];
  await t.rejects(buildControlPlane({ ...config, auth: { issuers, tokenReview: undefined } }), {
    message: /the public key of issuer x cannot be read from \/nowhere.pem/,
  });
});

interface Status {
  readonly source: { readonly badFiles: readonly unknown[] };
  readonly agents: readonly unknown[];
}

async function setUp(t: Test) {
  // Not a test directory of tap's: the path of a Unix socket must be short.
  const directory = mkdtempSync(join(tmpdir(), 'meltemi-'));
  t.teardown(() => rmSync(directory, { recursive: true }));
  const manifests = join(directory, 'manifests');
  const socket = join(directory, 'admin.sock');
  const keys = generateKeyPairSync('ec', { namedCurve: 'P-256' });
  mkdirSync(manifests);
  mkdirSync(join(directory, 'ca'));
  writeFileSync(join(directory, 'lab.pem'), keys.publicKey.export({ type: 'spki', format: 'pem' }));
  const parsed = parseConfig(
    JSON.stringify({
      source: { directory: manifests },
      listen: { tls: '127.0.0.1:0', plaintext: '127.0.0.1:0' },
      admin: { socket, port: 0 },
      ca: { directory: join(directory, 'ca') },
      auth: { tokenReview: undefined, issuers: [{ issuer: 'lab', publicKey: join(directory, 'lab.pem') }] },
    }),
  );
  if (!parsed.ok) throw new Error(parsed.error.join('\n'));
  const controlPlane: ControlPlane = await buildControlPlane(parsed.value);
  t.teardown(() => controlPlane.close());
  const put = (name: string, text: string) => {
    writeFileSync(join(manifests, `.${name}`), text);
    renameSync(join(manifests, `.${name}`), join(manifests, name));
  };
  const roots = () => readFileSync(join(directory, 'ca/root-cert.pem'), 'utf8');
  const token = (node: string) => {
    const claims = {
      iss: 'lab',
      aud: 'istio-ca',
      sub: 'system:serviceaccount:istio-system:meltemi-agent',
      node,
      exp: Date.now() / 1000 + 60,
    };
    const parts = [{ alg: 'ES256', typ: 'JWT' }, claims].map((part) =>
      Buffer.from(JSON.stringify(part)).toString('base64url'),
    );
    const signature = sign('sha256', Buffer.from(parts.join('.')), { key: keys.privateKey, dsaEncoding: 'ieee-p1363' });
    return [...parts, signature.toString('base64url')].join('.');
  };
  const certificate = async (bearer: string, spiffeId: string) => {
    const channel = openChannel({
      address: `127.0.0.1:${controlPlane.ports.tls}`,
      serverName: SERVER_NAME,
      rootCerts: roots(),
    });
    t.teardown(() => channel.close());
    const pair = generateKeyPairSync('ec', { namedCurve: 'P-256' });
    const csr = buildCsr({
      spiffeId,
      publicKeySpki: pair.publicKey.export({ type: 'spki', format: 'der' }),
      sign: (bytes) => sign('sha256', bytes, pair.privateKey),
    });
    const request = { csr, validityDuration: 60n, metadata: { ImpersonatedIdentity: spiffeId } };
    const headers = { authorization: `Bearer ${bearer}` };
    return channel.unary(IstioCertificateService.method.createCertificate, request, { headers });
  };
  /** Over TLS with a token, or in plaintext without. */
  const agent = ({ token }: { token?: string } = {}) => {
    const queues = new Map<string, { updates: Update[]; waiting: ((update: Update) => void)[] }>();
    const refused = Promise.withResolvers<void>();
    const queue = (typeUrl: string) => {
      const known = queues.get(typeUrl) ?? { updates: [], waiting: [] };
      queues.set(typeUrl, known);
      return known;
    };
    const onUpdate = (update: Update) => {
      const { updates, waiting } = queue(update.typeUrl);
      const first = waiting.shift();
      if (first === undefined) updates.push(update);
      else first(update);
      return [];
    };
    const { tls, plaintext } = controlPlane.ports;
    const client = connectAds({
      address: `127.0.0.1:${token === undefined ? plaintext : tls}`,
      serverName: SERVER_NAME,
      rootCerts: async () => (token === undefined ? undefined : roots()),
      headers: async () => (token === undefined ? {} : { authorization: `Bearer ${token}` }),
      node: { id: 'test' },
      types: [ADDRESS_TYPE, AUTHORIZATION_TYPE].map((typeUrl) => ({ typeUrl, mode: 'wildcard', onUpdate })),
      metrics: { message() {}, refused() {}, terminated: () => refused.resolve() },
    });
    t.teardown(() => client.close());
    return {
      refused: refused.promise,
      next: (typeUrl: string): Promise<Update> => {
        const { updates, waiting } = queue(typeUrl);
        const first = updates.shift();
        return first === undefined ? new Promise((resolve) => waiting.push(resolve)) : Promise.resolve(first);
      },
    };
  };
  return { config: parsed.value, manifests, put, controlPlane, socket, agent, certificate, token, roots };
}

function address(bytes: Uint8Array): string {
  const { type } = fromBinary(AddressSchema, bytes);
  if (type.case === 'service') return type.value.addresses.map((each) => ipFromBytes(each.address)).join();
  const ips = type.value?.addresses.map((each) => ipFromBytes(each)) ?? [];
  return [...ips, ...Object.keys(type.value?.services ?? {})].join(' ');
}

function get(socketPath: string, path: string): Promise<{ status: number; body: string }> {
  return new Promise((resolve, reject) => {
    const call = request({ socketPath, path }, (response) => {
      let body = '';
      response.setEncoding('utf8').on('data', (chunk: string) => {
        body += chunk;
      });
      response.on('end', () => resolve({ status: response.statusCode ?? 0, body }));
    });
    call.on('error', reject).end();
  });
}

function pod(name: string, ip: string, node = 'node-1'): string {
  return `---
apiVersion: v1
kind: Pod
metadata: { name: ${name}, namespace: shop, labels: { app: ${name} } }
spec: { nodeName: ${node}, serviceAccountName: ${name} }
status: { phase: Running, podIP: ${ip} }
`;
}

function service(name: string, ip: string): string {
  return `---
apiVersion: v1
kind: Service
metadata: { name: ${name}, namespace: shop }
spec: { clusterIP: ${ip}, selector: { app: ${name} }, ports: [{ port: 80 }] }
`;
}

const strict = `---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: { name: default, namespace: shop }
spec: { mtls: { mode: STRICT } }
`;

const audit = `
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: { name: audit, namespace: shop }
spec: { action: AUDIT }
`;

const SERVER_NAME = 'istiod.istio-system.svc';
