import type { Result } from '../../lib/result.js';
import type { SpiffeId } from '../../model/spiffe-id.js';

/** Who a caller has proved to be. */
export interface Principal {
  /** Its own identity. */
  readonly identity: SpiffeId;
  /** The node it runs on, when its proof is bound to a pod there. */
  readonly node: string | undefined;
  /** When the proof ends, ms since the epoch: nothing that rests on it may last longer. */
  readonly untilMs: number;
}

/**
 * Turns a bearer token into a principal. Error: why it is not believed, for our log and never for the caller. Rejects with
 * an `RpcError` (`UNAVAILABLE`) when that cannot be known now.
 */
export interface TokenVerifier {
  verify(token: string): Promise<Result<Principal>>;
}

/** The token in an `authorization` header. Error: there is none, or it is too long to look at. */
export function bearerToken(header: string | undefined): Result<string> {
  if (header === undefined) return { ok: false, error: 'the request carries no authorization header' };
  if (header.length > MAX_HEADER_LENGTH) {
    return { ok: false, error: `the authorization header is ${header.length} characters long` };
  }
  const token = /^Bearer ([\x21-\x7e]+)$/i.exec(header)?.[1];
  return token === undefined
    ? { ok: false, error: 'the authorization header holds no bearer token' }
    : { ok: true, value: token };
}

/** A service account token of a cluster is about 1 KB. */
const MAX_HEADER_LENGTH = 8 * 1024;
