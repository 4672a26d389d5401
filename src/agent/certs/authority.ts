import { X509Certificate } from 'node:crypto';
import { IstioCertificateService } from '../../gen/istio/auth/ca_pb.js';
import { type Channel, openChannel } from '../../grpc/channel.js';
import { RpcError, StatusCode } from '../../grpc/status.js';
import { fromPem } from '../../identity/pem.js';
import { err, ok, type Result } from '../../lib/result.js';
import type { CertificateSource, SignedCertificate } from './certificates.js';

export interface AuthorityOptions {
  /** `host:port`. */
  readonly address: string;
  readonly serverName: string;
  readonly cluster: string;
  /** PEM of the roots to trust, read anew for each connection. */
  readonly rootCerts: () => Promise<string | undefined>;
  /** Bearer token, read anew for each request: it is rotated. */
  readonly token: () => Promise<string>;
  readonly ttlSeconds: number;
  readonly timeoutMs?: number;
}

/** `istio.v1.auth.IstioCertificateService` as a source of certificates. */
export class Authority implements CertificateSource {
  #channel: { readonly roots: string | undefined; readonly channel: Channel } | undefined;

  constructor(readonly options: AuthorityOptions) {}

  async request(identity: string, csrPem: string): Promise<Result<SignedCertificate>> {
    const { cluster, token, ttlSeconds, timeoutMs } = this.options;
    try {
      const channel = await this.#connection();
      const response = await channel.unary(
        IstioCertificateService.method.createCertificate,
        {
          csr: csrPem,
          validityDuration: BigInt(ttlSeconds),
          metadata: { ImpersonatedIdentity: identity },
        },
        {
          headers: { authorization: `Bearer ${await token()}`, clusterid: cluster },
          timeoutMs: timeoutMs ?? DEFAULT_TIMEOUT_MS,
        },
      );
      return readChain(identity, response.certChain);
    } catch (error) {
      // The next attempt shall connect at once, and not wait for a channel that gave up, or never gets through.
      if (error instanceof RpcError && ENDED.has(error.code)) this.close();
      return err(`${this.options.address} signed nothing for ${identity}: ${explain(error)}`);
    }
  }

  close(): void {
    this.#channel?.channel.close();
    this.#channel = undefined;
  }

  async #connection(): Promise<Channel> {
    const roots = await this.options.rootCerts();
    if (this.#channel !== undefined && this.#channel.roots === roots) return this.#channel.channel;
    this.#channel?.channel.close();
    const { address, serverName } = this.options;
    const channel = openChannel({ address, serverName: serverName === '' ? undefined : serverName, rootCerts: roots });
    this.#channel = { roots, channel };
    return channel;
  }
}

/** The chain to present: leaf and intermediates. A root at the end is left out, a peer has its own. */
function readChain(identity: string, pems: readonly string[]): Result<SignedCertificate> {
  const ders = fromPem('CERTIFICATE', pems.join('\n'));
  const [leafDer] = ders;
  if (leafDer === undefined) return err(`the answer for ${identity} holds no certificate`);
  const leaf = new X509Certificate(leafDer);
  if (!(leaf.subjectAltName ?? '').split(', ').includes(`URI:${identity}`)) {
    return err(`the certificate is for ${leaf.subjectAltName ?? 'nobody'}, not for ${identity}`);
  }
  const chain = ders.filter((der, index) => index === 0 || !isSelfSigned(der));
  return ok({
    chain,
    notBeforeMs: Date.parse(leaf.validFrom),
    notAfterMs: Date.parse(leaf.validTo),
    serial: leaf.serialNumber.toLowerCase(),
  });
}

function isSelfSigned(der: Uint8Array): boolean {
  const certificate = new X509Certificate(der);
  return certificate.subject === certificate.issuer && certificate.verify(certificate.publicKey);
}

function explain(error: unknown): string {
  if (!(error instanceof RpcError)) return error instanceof Error ? error.message : String(error);
  const hint = HINTS.get(error.code);
  return hint === undefined ? error.message : `${error.message} (${hint})`;
}

const HINTS: ReadonlyMap<StatusCode, string> = new Map([
  [StatusCode.UNAVAILABLE, 'is the control plane up, and is its root the one we trust?'],
  [StatusCode.UNAUTHENTICATED, 'is the token of this node valid?'],
  [StatusCode.PERMISSION_DENIED, 'is a pod of this identity on this node?'],
]);

/** What a channel ends with that is of no more use. */
const ENDED: ReadonlySet<StatusCode> = new Set([StatusCode.UNAVAILABLE, StatusCode.DEADLINE_EXCEEDED]);
const DEFAULT_TIMEOUT_MS = 10_000;
