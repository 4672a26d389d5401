import { create } from '@bufbuild/protobuf';
import {
  type IstioCertificateRequest,
  IstioCertificateResponseSchema,
  IstioCertificateService,
} from '../../gen/istio/auth/ca_pb.js';
import type { Caller, GrpcServer } from '../../grpc/server.js';
import { RpcError, StatusCode } from '../../grpc/status.js';
import { parseCsr } from '../../identity/csr.js';
import { err, ok, type Result } from '../../lib/result.js';
import { formatSpiffeId } from '../../model/spiffe-id.js';
import type { Logger } from '../../telemetry/log.js';
import type { Authority } from './authority.js';
import type { CaMetrics, RefusalKind } from './ca-metrics.js';
import { authorizedIdentity, type NodeRule } from './node-authorizer.js';
import { bearerToken, type Principal, type TokenVerifier } from './token-verifier.js';

export interface CaServiceOptions {
  readonly authority: Authority;
  readonly verifier: TokenVerifier;
  readonly rule: NodeRule;
  readonly metrics: CaMetrics;
  readonly log: Logger;
}

/** `istio.v1.auth.IstioCertificateService`. Serve it over TLS only: callers send their tokens. */
export function createCaService(options: CaServiceOptions): { addTo(server: GrpcServer): void } {
  const { metrics, log } = options;
  return {
    addTo(server) {
      server.unary(IstioCertificateService.method.createCertificate, async (request, caller) => {
        metrics.requested();
        const answer = await createCertificate(request, caller, options);
        if (answer.ok) {
          metrics.issued();
          return answer.value;
        }
        // The caller learns only that it failed; whoever runs the mesh learns why.
        metrics.refused(answer.error.kind);
        log.warn({ peer: caller.peer, kind: answer.error.kind, reason: answer.error.reason }, 'certificate refused');
        throw new RpcError(StatusCode.UNAUTHENTICATED, 'request authenticate failure');
      });
    },
  };
}

/** Lets in whoever a verifier believes, for as long as it does. Rejects with the reason. */
export function authenticatedBy(verifier: TokenVerifier): (caller: Caller) => Promise<{ readonly untilMs: number }> {
  return async (caller) => {
    const principal = await authenticate(caller, verifier);
    if (!principal.ok) throw new Error(principal.error);
    return { untilMs: principal.value.untilMs };
  };
}

async function createCertificate(
  request: IstioCertificateRequest,
  caller: Caller,
  { authority, verifier, rule, log }: CaServiceOptions,
) {
  const principal = await authenticate(caller, verifier);
  if (!principal.ok) return refusal('authentication', principal.error);
  const impersonated = impersonatedIdentity(request);
  if (!impersonated.ok) return refusal('identity', impersonated.error);
  const identity = await authorizedIdentity(principal.value, impersonated.value, rule);
  if (!identity.ok) return refusal('authentication', identity.error);
  const csr = parseCsr(request.csr);
  if (!csr.ok) return refusal('csr', csr.error);
  const other = csr.value.names.uris.find((uri) => uri !== identity.value);
  if (other !== undefined) return refusal('identity', `the CSR is for ${other}, the request for ${identity.value}`);
  const { node = '' } = principal.value;
  const issued = authority.issue({
    publicKey: csr.value.publicKey,
    uriSans: [identity.value],
    ttlSeconds: Number(request.validityDuration),
    holder: `${formatSpiffeId(principal.value.identity)} ${node} ${identity.value}`,
  });
  if (!issued.ok) return refusal('signing', issued.error);
  const { serial, notAfter } = issued.value.certificate;
  log.info({ identity: identity.value, node, serial, notAfter }, 'certificate issued');
  return ok(create(IstioCertificateResponseSchema, { certChain: [...issued.value.chain] }));
}

async function authenticate(caller: Caller, verifier: TokenVerifier): Promise<Result<Principal>> {
  const token = bearerToken(caller.header('authorization'));
  return token.ok ? verifier.verify(token.value) : token;
}

/** Absent and empty mean: the caller's own. */
function impersonatedIdentity({ metadata }: IstioCertificateRequest): Result<string | undefined> {
  const value = metadata?.ImpersonatedIdentity;
  if (value === undefined || value === '') return ok(undefined);
  return typeof value === 'string' ? ok(value) : err('ImpersonatedIdentity is no text');
}

function refusal(kind: RefusalKind, reason: string) {
  return err({ kind, reason });
}
