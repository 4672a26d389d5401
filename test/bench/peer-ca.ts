/**
 * A certificate authority for a ztunnel of the bench: signs whatever it is asked for, on loopback. Usage:
 * peer-ca.js DIRECTORY PORT, with an `Authority` in the directory that has issued `ca` for localhost.
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { create } from '@bufbuild/protobuf';
import { IstioCertificateResponseSchema, IstioCertificateService } from '../../src/gen/istio/auth/ca_pb.js';
import { LiveServerCredentials } from '../../src/grpc/credentials.js';
import { createGrpcServer } from '../../src/grpc/server.js';
import { Authority } from './certificates.js';

const [directory = '.', port = '15012'] = process.argv.slice(2);
const authority = Authority.open(directory);
const read = (name: string) => readFileSync(join(directory, name), 'utf8');
const server = createGrpcServer();
server.unary(IstioCertificateService.method.createCertificate, async (request) => {
  const leaf = await authority.signRequest(request.csr);
  return create(IstioCertificateResponseSchema, { certChain: [leaf, read('root.pem')] });
});
const identity = { certificateChain: read('ca.pem'), privateKey: read('ca-key.pem') };
await server.listen({ ip: '127.0.0.1', port: Number(port) }, new LiveServerCredentials(identity));
