import { createPrivateKey, createPublicKey, generateKeyPairSync } from 'node:crypto';
import { isSelfSigned, parseCertificate } from '../../identity/certificate.js';
import { type Issuer, issueIntermediate, issueRoot } from '../../identity/issue.js';
import { err, ok, type Result } from '../../lib/result.js';
import type { SigningMaterial } from './signing-material.js';

/**
 * A self-signed CA as a state, and what may become of it. A root is replaced in three steps, so that at every moment
 * whatever any workload shows is trusted by all:
 *
 *     stable -add-> distributing -sign-> signing -drop-> stable
 *
 * `add` puts a new root into the bundle and signs nothing with it; `sign`, when everybody has the bundle, signs with
 * it and keeps the old one trusted; `drop`, when every certificate under it is replaced, ends the trust in the old.
 * Whoever fetches a certificate is given the bundle with it, so both conditions are the same one: everybody has
 * fetched a certificate since the step before.
 */
export type CaState =
  | { readonly phase: 'stable'; readonly root: KeyPair; readonly intermediate: KeyPair }
  | {
      readonly phase: 'distributing';
      readonly root: KeyPair;
      readonly intermediate: KeyPair;
      readonly next: KeyPair;
      readonly waitUntilMs: number;
    }
  | {
      readonly phase: 'signing';
      readonly root: KeyPair;
      readonly intermediate: KeyPair;
      /** PEM of the old root. Its key is gone: nothing more can be signed with it. */
      readonly former: string;
      /** When the last certificate from before this step ends; earlier, when it is known to be replaced. */
      readonly waitUntilMs: number;
    };

/** PEM of both. */
export interface KeyPair {
  readonly certificate: string;
  readonly privateKey: string;
}

export interface RotationContext {
  readonly nowMs: number;
  readonly trustDomain: string;
}

export const ROTATION_PHASES = ['add', 'sign', 'drop'] as const;
export type RotationPhase = (typeof ROTATION_PHASES)[number];

export function newCa(context: RotationContext): CaState {
  const root = makeRoot(context);
  return { phase: 'stable', root, intermediate: makeIntermediate(root, context) };
}

/** A CA under a root that somebody else has made. Throws when it is no root, or the key is not its own. */
export function importedCa(root: KeyPair, context: RotationContext): CaState {
  const { certificate, privateKey } = issuerOf(root);
  if (!certificate.isCa) throw new Error('ca-cert.pem is not a CA');
  if (!certificate.publicKey.equals(createPublicKey(privateKey))) {
    throw new Error('ca-key.pem is not the key of ca-cert.pem');
  }
  if (!isSelfSigned(certificate)) throw new Error('ca-cert.pem is no root');
  if (context.nowMs >= certificate.notAfter.getTime()) throw new Error('ca-cert.pem has ended');
  return { phase: 'stable', root, intermediate: makeIntermediate(root, context) };
}

export function withNewIntermediate(state: CaState, context: RotationContext): CaState {
  return { ...state, intermediate: makeIntermediate(state.root, context) };
}

/** The next state, or why the step is not possible now. */
export function rotated(
  state: CaState,
  step: RotationPhase,
  context: RotationContext & { readonly waitUntilMs: number },
): Result<CaState> {
  if (step === 'add' && state.phase === 'stable') {
    return ok({ ...state, phase: 'distributing', next: makeRoot(context), waitUntilMs: context.waitUntilMs });
  }
  if (step === 'sign' && state.phase === 'distributing') {
    return ok({
      phase: 'signing',
      root: state.next,
      intermediate: makeIntermediate(state.next, context),
      former: state.root.certificate,
      waitUntilMs: context.waitUntilMs,
    });
  }
  if (step === 'drop' && state.phase === 'signing') {
    return ok({ phase: 'stable', root: state.root, intermediate: state.intermediate });
  }
  return err(`the rotation is in phase ${state.phase}, where the next step is ${NEXT_STEP[state.phase]}, not ${step}`);
}

export function materialOf(state: CaState): SigningMaterial {
  const issuer = issuerOf(state.intermediate);
  const others =
    state.phase === 'distributing' ? [state.next.certificate] : state.phase === 'signing' ? [state.former] : [];
  return {
    issuer,
    chain: [issuer.certificate],
    roots: [state.root.certificate, ...others].map((pem) => parseCertificate(pem)),
  };
}

export const NEXT_STEP: Readonly<Record<CaState['phase'], RotationPhase>> = {
  stable: 'add',
  distributing: 'sign',
  signing: 'drop',
};

function issuerOf({ certificate, privateKey }: KeyPair): Issuer {
  return { certificate: parseCertificate(certificate), privateKey: createPrivateKey(privateKey) };
}

function makeRoot({ nowMs, trustDomain }: RotationContext): KeyPair {
  const { privateKey } = generateKeyPairSync('ec', { namedCurve: 'P-384' });
  const certificate = issueRoot(privateKey, {
    // The name tells roots apart for those who find issuers by name.
    commonName: `Meltemi root ${new Date(nowMs).toISOString()}`,
    organization: trustDomain,
    notBefore: new Date(nowMs - BACK_DATE_MS),
    notAfter: new Date(nowMs + ROOT_LIFETIME_MS),
  });
  return { certificate: certificate.pem, privateKey: privateKey.export({ format: 'pem', type: 'pkcs8' }).toString() };
}

function makeIntermediate(root: KeyPair, { nowMs, trustDomain }: RotationContext): KeyPair {
  const issuer = issuerOf(root);
  const keys = generateKeyPairSync('ec', { namedCurve: 'P-256' });
  const certificate = issueIntermediate(issuer, keys.publicKey, {
    commonName: `Meltemi intermediate ${new Date(nowMs).toISOString()}`,
    organization: trustDomain,
    notBefore: new Date(nowMs - BACK_DATE_MS),
    notAfter: new Date(Math.min(nowMs + INTERMEDIATE_LIFETIME_MS, issuer.certificate.notAfter.getTime())),
  });
  return {
    certificate: certificate.pem,
    privateKey: keys.privateKey.export({ format: 'pem', type: 'pkcs8' }).toString(),
  };
}

/** Clocks of nodes differ a little: what is signed now is valid since a moment ago. */
export const BACK_DATE_MS = 2 * 60_000;
const DAY_MS = 24 * 3600_000;
const ROOT_LIFETIME_MS = 3650 * DAY_MS;
/** Replaced at half of it, so that the longest leaf (90 days) always fits below. */
const INTERMEDIATE_LIFETIME_MS = 365 * DAY_MS;
