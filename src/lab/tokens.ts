import { generateKeyPairSync, type KeyObject, sign } from 'node:crypto';
import { mkdirSync, writeFileSync } from 'node:fs';
import { dirname } from 'node:path';
import type { Clock } from '../lib/clock.js';

/** Signs the bearer tokens of nodes and pods (JWT, ES256). The key lives as long as this object; only its public half is written. */
export class TokenIssuer {
  readonly #key: KeyObject;

  constructor(
    readonly issuer: string,
    readonly clock: Clock,
    publicKeyPath: string,
  ) {
    const { privateKey, publicKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
    this.#key = privateKey;
    mkdirSync(dirname(publicKeyPath), { recursive: true });
    writeFileSync(publicKeyPath, publicKey.export({ type: 'spki', format: 'pem' }));
  }

  /** Says that the bearer is the agent of `node`. */
  forNode(node: string): string {
    return this.#sign({ sub: 'system:serviceaccount:istio-system:meltemi-agent', node });
  }

  /** The service account token of a pod, with the claims that Kubernetes puts in. */
  forPod(namespace: string, serviceAccount: string, pod: { name: string; uid: string }): string {
    return this.#sign({
      sub: `system:serviceaccount:${namespace}:${serviceAccount}`,
      'kubernetes.io': { namespace, pod, serviceaccount: { name: serviceAccount } },
    });
  }

  #sign(claims: Readonly<Record<string, unknown>>): string {
    const now = Math.floor(this.clock.now() / 1000);
    const times = { iat: now, nbf: now, exp: now + TOKEN_TTL_SECONDS };
    const payload = { iss: this.issuer, aud: ['istio-ca'], ...times, ...claims };
    const body = [{ alg: 'ES256', typ: 'JWT' }, payload]
      .map((part) => Buffer.from(JSON.stringify(part)).toString('base64url'))
      .join('.');
    const signature = sign('sha256', Buffer.from(body), { key: this.#key, dsaEncoding: 'ieee-p1363' });
    return `${body}.${signature.toString('base64url')}`;
  }
}

export const TOKEN_TTL_SECONDS = 3600;
