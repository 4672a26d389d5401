import { readFileSync } from 'node:fs';
import { create } from '@bufbuild/protobuf';
import t, { type Test } from 'tap';
import { Authority } from '../../../../src/agent/certs/authority.js';
import {
  type IstioCertificateRequest,
  IstioCertificateResponseSchema,
  IstioCertificateService,
} from '../../../../src/gen/istio/auth/ca_pb.js';
import { type Caller, createGrpcServer } from '../../../../src/grpc/server.js';
import { RpcError, StatusCode } from '../../../../src/grpc/status.js';
import { TestCa } from '../../../support/certificates.js';

const A = 'spiffe://cluster.local/ns/default/sa/a';

type Answer = (request: IstioCertificateRequest, caller: Caller) => readonly string[];

async function setUp(t: Test, answer: Answer) {
  const server = createGrpcServer();
  server.unary(IstioCertificateService.method.createCertificate, async (request, caller) =>
    create(IstioCertificateResponseSchema, { certChain: [...answer(request as IstioCertificateRequest, caller)] }),
  );
  const port = await server.listen({ ip: '127.0.0.1', port: 0 });
  const authority = new Authority({
    address: `127.0.0.1:${port}`,
    serverName: '',
    cluster: 'Kubernetes',
    rootCerts: async () => undefined,
    token: async () => 'secret',
    ttlSeconds: 3600,
    timeoutMs: 5000,
  });
  t.teardown(async () => {
    authority.close();
    await server.close(0);
  });
  return { authority, server, port };
}

t.test('asks as a node asks, for the identity of a pod', async (t) => {
  using ca = new TestCa();
  const leaf = readFileSync(ca.issue({ uris: [A] }).cert, 'utf8');
  const root = readFileSync(ca.root, 'utf8');
  let asked: [IstioCertificateRequest, Caller] | undefined;
  const { authority } = await setUp(t, (request, caller) => {
    asked = [request, caller];
    return [leaf, root];
  });
  const signed = await authority.request(A, 'the csr');
  t.match(asked?.[0], { csr: 'the csr', validityDuration: 3600n, metadata: { ImpersonatedIdentity: A } });
  t.equal(signed.ok, true);
  if (!signed.ok) return;
  t.equal(signed.value.chain.length, 1, 'a peer has the root itself');
  t.ok(signed.value.notAfterMs > signed.value.notBeforeMs);
  t.match(signed.value.serial, /^[0-9a-f]+$/);
});

t.test('an answer for somebody else is refused', async (t) => {
  using ca = new TestCa();
  const leaf = readFileSync(ca.issue({ uris: ['spiffe://cluster.local/ns/default/sa/ab'] }).cert, 'utf8');
  const { authority } = await setUp(t, () => [leaf]);
  const signed = await authority.request(A, '');
  t.match(signed, { ok: false, error: /certificate is for .*sa\/ab, not for/ });
});

t.test('an answer without a certificate, and a refusal, are told with a hint', async (t) => {
  const empty = await setUp(t, () => []);
  t.match(await empty.authority.request(A, ''), { ok: false, error: /holds no certificate/ });
  const refusing = await setUp(t, () => {
    throw new RpcError(StatusCode.PERMISSION_DENIED, 'no such pod on node-1');
  });
  t.match(await refusing.authority.request(A, ''), {
    ok: false,
    error: /no such pod on node-1.*\(is a pod of this identity on this node\?\)/,
  });
});

t.test('a CA that comes back is found at once', async (t) => {
  using ca = new TestCa();
  const leaf = readFileSync(ca.issue({ uris: [A] }).cert, 'utf8');
  const { authority, server, port } = await setUp(t, () => [leaf]);
  t.equal((await authority.request(A, '')).ok, true);
  await server.close(0);
  t.match(await authority.request(A, ''), { ok: false, error: /is the control plane up/ });
  const again = createGrpcServer();
  again.unary(IstioCertificateService.method.createCertificate, async () =>
    create(IstioCertificateResponseSchema, { certChain: [leaf] }),
  );
  await again.listen({ ip: '127.0.0.1', port });
  t.teardown(() => again.close(0));
  t.equal((await authority.request(A, '')).ok, true);
});
