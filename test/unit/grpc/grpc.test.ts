import { generateKeyPairSync } from 'node:crypto';
import { type AddressInfo, createServer } from 'node:net';
import { create } from '@bufbuild/protobuf';
import t, { type Test } from 'tap';
import { AggregatedDiscoveryService } from '../../../src/gen/envoy/service/discovery/v3/ads_pb.js';
import { IstioCertificateResponseSchema, IstioCertificateService } from '../../../src/gen/istio/auth/ca_pb.js';
import { type ChannelOptions, openChannel } from '../../../src/grpc/channel.js';
import { LiveServerCredentials, type ServerIdentity } from '../../../src/grpc/credentials.js';
import { type Caller, createGrpcServer, type GrpcServer, type GrpcServerOptions } from '../../../src/grpc/server.js';
import { RpcError, StatusCode } from '../../../src/grpc/status.js';
import { parseCertificate } from '../../../src/identity/certificate.js';
import { type Issuer, issueLeaf, issueRoot } from '../../../src/identity/issue.js';

const unary = IstioCertificateService.method.createCertificate;
const bidi = AggregatedDiscoveryService.method.deltaAggregatedResources;
const validity = { notBefore: new Date(Date.now() - 60_000), notAfter: new Date(Date.now() + 3600_000) };

function authority(): Issuer {
  const { privateKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
  return { privateKey, certificate: issueRoot(privateKey, { ...validity, commonName: 'root', organization: 'test' }) };
}

function identity(issuer: Issuer, names: { uriSans?: string[]; dnsSans?: string[] }): ServerIdentity {
  const keys = generateKeyPairSync('ec', { namedCurve: 'P-256' });
  return {
    certificateChain: issueLeaf(issuer, { publicKey: keys.publicKey, ...names, ...validity }).pem,
    privateKey: keys.privateKey.export({ format: 'pem', type: 'pkcs8' }).toString(),
  };
}

async function serve(
  t: Test,
  add: (server: GrpcServer) => void,
  credentials?: LiveServerCredentials,
  options: GrpcServerOptions = {},
) {
  const server = createGrpcServer(options);
  add(server);
  const port = await server.listen({ ip: '127.0.0.1', port: 0 }, credentials);
  t.teardown(() => server.close(0));
  const open = (more: Partial<ChannelOptions> = {}) => {
    const channel = openChannel({ address: `127.0.0.1:${port}`, ...more });
    t.teardown(() => channel.close());
    return channel;
  };
  return { server, port, open };
}

t.test('a call carries message and headers, an RpcError its status, and a bug says nothing', async (t) => {
  const { open } = await serve(t, (server) =>
    server.unary(unary, async ({ csr }, caller) => {
      if (csr === 'refuse') throw new RpcError(StatusCode.PERMISSION_DENIED, 'not you');
      if (csr === 'bug') throw new Error('secret detail');
      return create(IstioCertificateResponseSchema, { certChain: [csr, caller.header('x-who') ?? 'nobody'] });
    }),
  );
  const channel = open();
  t.same((await channel.unary(unary, { csr: 'a' }, { headers: { 'x-who': 'me' } })).certChain, ['a', 'me']);
  t.same((await channel.unary(unary, { csr: 'a' })).certChain, ['a', 'nobody']);
  await t.rejects(channel.unary(unary, { csr: 'refuse' }), { code: StatusCode.PERMISSION_DENIED, message: 'not you' });
  await t.rejects(channel.unary(unary, { csr: 'bug' }), { code: StatusCode.INTERNAL, message: 'internal error' });
  t.equal(`${new RpcError(StatusCode.UNAVAILABLE, 'gone')}`, 'UNAVAILABLE: gone');
});

t.test('a call ends at its deadline, and at once when nobody listens', async (t) => {
  const { open, server } = await serve(t, (server) => server.unary(unary, () => new Promise(() => {})));
  await t.rejects(open().unary(unary, {}, { timeoutMs: 20 }), { code: StatusCode.DEADLINE_EXCEEDED });
  await server.close(0);
  await t.rejects(open().unary(unary, {}), { code: StatusCode.UNAVAILABLE });
});

t.test('a stream ends when the connection does not come about', async (t) => {
  // The library keeps an attempt under way until its peer, or the kernel, gives up.
  const silent = createServer((socket) => t.teardown(() => socket.destroy()));
  await new Promise<void>((resolve) => silent.listen(0, '127.0.0.1', resolve));
  t.teardown(() => silent.close());
  const { port } = silent.address() as AddressInfo;
  const channel = openChannel({ address: `127.0.0.1:${port}`, connectTimeoutMs: 20 });
  t.teardown(() => channel.close());
  const error = await new Promise((resolve) => channel.bidi(bidi).onClose(resolve));
  t.match(error, { code: StatusCode.UNAVAILABLE, message: 'no connection within 20 ms' });

  const { open } = await serve(t, (server) => server.bidi(bidi, (stream) => stream.onMessage(() => stream.end())));
  const stream = open({ connectTimeoutMs: 200 }).bidi(bidi);
  stream.onMessage(() => {});
  const closed = new Promise((resolve) => stream.onClose(resolve));
  const past = new Promise((resolve) => setTimeout(resolve, 250));
  t.equal(await Promise.race([closed, past]), undefined, 'one that has come about goes on');
  stream.send({});
  t.equal(await closed, undefined);
});

t.test('a request over the limit is refused', async (t) => {
  const { open } = await serve(t, (server) => server.unary(unary, async () => new Uint8Array()), undefined, {
    maxRequestBytes: 1000,
  });
  await t.rejects(open().unary(unary, { csr: 'x'.repeat(1001) }), { code: StatusCode.RESOURCE_EXHAUSTED });
});

t.test('a port that is taken is an error with its address', async (t) => {
  const { port } = await serve(t, () => {});
  await t.rejects(createGrpcServer().listen({ ip: '127.0.0.1', port }), {
    message: new RegExp(`cannot listen on 127.0.0.1:${port}`),
  });
});

t.test('only the right roots and the right name make a connection', async (t) => {
  const ca = authority();
  const credentials = new LiveServerCredentials(identity(ca, { dnsSans: ['good.svc'] }));
  const { open } = await serve(t, (server) => server.unary(unary, async () => new Uint8Array()), credentials);
  const rootCerts = ca.certificate.pem;
  t.same((await open({ rootCerts, serverName: 'good.svc' }).unary(unary, {})).certChain, []);
  const refused = { code: StatusCode.UNAVAILABLE };
  await t.rejects(open({ rootCerts, serverName: 'other.svc' }).unary(unary, {}), refused);
  await t.rejects(open({ rootCerts: authority().certificate.pem, serverName: 'good.svc' }).unary(unary, {}), refused);
  await t.rejects(open({ serverName: 'good.svc' }).unary(unary, {}), refused, 'plaintext to a TLS port');
});

t.test('a client certificate is known when it verifies, and not needed', async (t) => {
  const [ca, stranger] = [authority(), authority()];
  const credentials = new LiveServerCredentials(identity(ca, { dnsSans: ['good.svc'] }), ca.certificate.pem);
  const callers: Caller[] = [];
  const { open } = await serve(
    t,
    (server) =>
      server.unary(unary, async (_, caller) => {
        callers.push(caller);
        return new Uint8Array();
      }),
    credentials,
  );
  const spiffe = 'spiffe://cluster.local/ns/a/sa/b';
  const ask = (client?: ServerIdentity) =>
    open({ rootCerts: ca.certificate.pem, serverName: 'good.svc', identity: client }).unary(unary, {});
  await ask(identity(ca, { uriSans: [spiffe] }));
  await ask();
  await ask(identity(stranger, { uriSans: [spiffe] }));
  t.same(parseCertificate(callers[0]?.certificate ?? '').uriSans, [spiffe]);
  t.equal(callers[1]?.certificate, undefined);
  t.equal(callers[2]?.certificate, undefined, 'a certificate by a stranger proves nothing');
  credentials.replaceClientRoots(stranger.certificate.pem);
  await ask(identity(stranger, { uriSans: [spiffe] }));
  t.same(parseCertificate(callers[3]?.certificate ?? '').uriSans, [spiffe]);
});

t.test('streams end well, with a status, or by the client, and both ends learn of it once', async (t) => {
  const closed: string[] = [];
  const { open } = await serve(t, (server) =>
    server.bidi(bidi, (stream) => {
      stream.onMessage(({ typeUrl }) => {
        if (typeUrl === 'end') stream.end();
        else if (typeUrl === 'fail') stream.end(new RpcError(StatusCode.NOT_FOUND, 'no such thing'));
      });
      stream.onClose(() => closed.push('server'));
    }),
  );
  const channel = open();
  const run = (typeUrl: string, act?: (stream: ReturnType<typeof start>) => void) =>
    new Promise<RpcError | undefined>((resolve) => {
      const stream = start();
      stream.onMessage(() => {});
      stream.onClose(resolve);
      stream.send({ typeUrl });
      act?.(stream);
    });
  const start = () => channel.bidi(bidi);
  t.equal(await run('end'), undefined);
  t.match(await run('fail'), { code: StatusCode.NOT_FOUND, message: 'no such thing' });
  t.match(await run('wait', (stream) => setImmediate(() => stream.cancel())), { code: StatusCode.CANCELLED });
  while (closed.length < 3) await new Promise((resolve) => setImmediate(resolve));
  t.equal(closed.length, 3);
});
