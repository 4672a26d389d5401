import type { Certificate } from '../../identity/certificate.js';
import type { Issuer } from '../../identity/issue.js';
import type { Result } from '../../lib/result.js';
import type { CaState, RotationPhase } from './rotation.js';

/** With what certificates are signed now, and what peers are to trust. Immutable: a change is a new one. */
export interface SigningMaterial {
  readonly issuer: Issuer;
  /** Presented behind a leaf: the issuer's certificate first, then whoever is above it, without roots. */
  readonly chain: readonly Certificate[];
  /** The trust bundle. The first root is the one that leads to the issuer. */
  readonly roots: readonly Certificate[];
}

/** Which part is another: `material` is `current`, `lists` is `revocationLists`. */
export type SourceChange = 'material' | 'lists';

/** Where the material comes from: a CA of our own, or one that an operator plugs in. */
export interface MaterialSource {
  readonly current: SigningMaterial;
  /** PEM of the revocation lists in force; may be empty. */
  readonly revocationLists: string;
  /** Called after a change. Returns how to stop. */
  subscribe(listener: (change: SourceChange) => void): () => void;
  /** Whether the next step of a rotation waits for holders of certificates from before the last one. */
  readonly isWaiting: boolean;
  /** Every holder has fetched a certificate since the last step: nothing holds back the next one. */
  stepWasSeen(): void;
  /** Replaces the intermediate at once. Error: why that is not possible. */
  rotateIntermediate(): Promise<Result<undefined>>;
  /** See `rotation.ts` for the steps. Error: why not now. */
  rotateRoot(step: RotationPhase, evenIfUnseen: boolean): Promise<Result<CaState['phase']>>;
  /** `serial` in hex. Error: why that is not possible. */
  revoke(serial: string): Promise<Result<undefined>>;
  /** For status pages; no keys in it. */
  describe(): object;
  close(): void;
}
