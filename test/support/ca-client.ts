import { generateKeyPairSync, sign } from 'node:crypto';
import { IstioCertificateService } from '../../src/gen/istio/auth/ca_pb.js';
import { type Channel, openChannel } from '../../src/grpc/channel.js';
import { buildCsr } from '../../src/identity/csr.js';

export interface CaAddress {
  /** `host:port`. */
  readonly address: string;
  /** PEM. */
  readonly rootCerts: string;
  /** Default: as in the install namespace `istio-system`. */
  readonly serverName?: string;
}

/** A connection to a control plane, as an agent makes one. */
export function caChannel({ address, rootCerts, serverName = 'meltemi.istio-system.svc' }: CaAddress): Channel {
  return openChannel({ address, serverName, rootCerts });
}

/**
 * Asks for a certificate as an agent does, with a new key. `impersonated` is empty for the token’s own identity.
 * Resolves with the chain, the bundle last. Rejects with an RpcError.
 */
export async function askForCertificate(
  channel: Channel,
  token: string,
  identity: string,
  impersonated = identity,
): Promise<readonly string[]> {
  const { publicKey, privateKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
  const csr = buildCsr({
    spiffeId: identity,
    publicKeySpki: publicKey.export({ format: 'der', type: 'spki' }),
    sign: (bytes) => sign('sha256', bytes, privateKey),
  });
  const { certChain } = await channel.unary(
    IstioCertificateService.method.createCertificate,
    { csr, validityDuration: 0n, metadata: { ImpersonatedIdentity: impersonated } },
    { headers: { authorization: `Bearer ${token}` }, timeoutMs: 10_000 },
  );
  return certChain;
}
