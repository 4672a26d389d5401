import { type KeyObject, verify } from 'node:crypto';
import type { Clock } from '../../lib/clock.js';
import { err, ok, type Result } from '../../lib/result.js';
import { jsonObject, unverifiedClaims } from './jwt.js';
import { isNodeName, parseServiceAccount } from './service-account.js';
import type { Principal, TokenVerifier } from './token-verifier.js';

/** Whose tokens are believed, for what, and by which key (EC P-256). */
export interface TrustedIssuer {
  readonly issuer: string;
  readonly audience: string;
  readonly publicKey: KeyObject;
}

export interface JwtVerifierOptions {
  readonly issuers: readonly TrustedIssuer[];
  /** Of the identities that tokens stand for. */
  readonly trustDomain: string;
  readonly clock: Clock;
}

/**
 * Believes JWTs that a known issuer signed with ES256, and nothing that calls itself otherwise: `iss` and `aud` must
 * match, `exp` must be there and to come, `sub` must name a service account, `node` is taken as it stands.
 */
export class JwtVerifier implements TokenVerifier {
  /** Throws when a key is not one for ES256: no token would ever be believed. */
  constructor(readonly options: JwtVerifierOptions) {
    for (const { issuer, publicKey } of options.issuers) {
      if (publicKey.type !== 'public' || publicKey.asymmetricKeyDetails?.namedCurve !== 'prime256v1') {
        throw new Error(`the key of issuer ${issuer} is not a public EC P-256 key`);
      }
    }
  }

  /** Whether a token says that it is by one of these issuers; whether it is shows when it is verified. */
  knowsIssuer(token: string): boolean {
    const { iss } = unverifiedClaims(token) ?? {};
    return this.options.issuers.some(({ issuer }) => issuer === iss);
  }

  async verify(token: string): Promise<Result<Principal>> {
    const parts = token.split('.');
    const [header, payload, signature] = parts;
    if (parts.length !== 3 || !header || !payload || !signature || !parts.every((part) => BASE64URL.test(part))) {
      return err('the token is no JWT');
    }
    const head = jsonObject(header);
    const claims = jsonObject(payload);
    if (head === undefined || claims === undefined) return err('the token is no JWT: its parts are not JSON objects');
    if (head.alg !== 'ES256') return err(`the token is signed with ${quote(head.alg)}, and only ES256 is accepted`);
    if (head.crit !== undefined) return err('the token demands extensions that are not understood');
    const issuer = this.options.issuers.find((each) => each.issuer === claims.iss);
    if (issuer === undefined) return err(`the token is by ${quote(claims.iss)}, who is not trusted`);
    const key = { key: issuer.publicKey, dsaEncoding: 'ieee-p1363' as const };
    if (!verify('sha256', Buffer.from(`${header}.${payload}`), key, Buffer.from(signature, 'base64url'))) {
      return err(`the token’s signature is not by ${quote(claims.iss)}`);
    }
    return this.#principal(claims, issuer);
  }

  #principal(claims: Record<string, unknown>, issuer: TrustedIssuer): Result<Principal> {
    const nowSeconds = this.options.clock.now() / 1000;
    const { aud, exp, nbf, sub, node } = claims;
    if (!(Array.isArray(aud) ? aud : [aud]).includes(issuer.audience)) {
      return err(`the token is for ${quote(aud)}, not for ${quote(issuer.audience)}`);
    }
    if (typeof exp !== 'number') return err('the token has no end (exp)');
    if (nowSeconds >= exp + LEEWAY_SECONDS) return err(`the token ended at ${instant(exp)}`);
    if (nbf !== undefined && (typeof nbf !== 'number' || nowSeconds < nbf - LEEWAY_SECONDS)) {
      return err(`the token is not valid before ${typeof nbf === 'number' ? instant(nbf) : quote(nbf)}`);
    }
    const account = parseServiceAccount(typeof sub === 'string' ? sub : '');
    if (account === undefined) return err(`the token’s subject ${quote(sub)} is no service account`);
    if (node !== undefined && (typeof node !== 'string' || !isNodeName(node))) {
      return err(`the token’s node ${quote(node)} is no node name`);
    }
    const identity = { trustDomain: this.options.trustDomain, ...account };
    return ok({ identity, node, untilMs: (exp + LEEWAY_SECONDS) * 1000 });
  }
}

function instant(seconds: number): string {
  const date = new Date(seconds * 1000);
  return Number.isNaN(date.getTime()) ? String(seconds) : date.toISOString();
}

function quote(value: unknown): string {
  return (JSON.stringify(value) ?? 'nobody').slice(0, 200);
}

const BASE64URL = /^[A-Za-z0-9_-]+$/;
/** Clocks of nodes differ a little. */
const LEEWAY_SECONDS = 30;
