import type { Certificate } from '../../identity/certificate.js';
import type { Issuer } from '../../identity/issue.js';

/** With what certificates are signed now, and what peers are to trust. Immutable: a change is a new one. */
export interface SigningMaterial {
  readonly issuer: Issuer;
  /** Presented behind a leaf: the issuer's certificate first, then whoever is above it, without roots. */
  readonly chain: readonly Certificate[];
  /** The trust bundle. The first root is the one that leads to the issuer. */
  readonly roots: readonly Certificate[];
}

/** Where the material comes from: our own state on disk, or files that an operator plugs in. */
export interface MaterialSource {
  readonly current: SigningMaterial;
  /** Called after `current` has changed. Returns how to stop. */
  subscribe(listener: () => void): () => void;
  /** PEM of the revocation lists in force; may be empty. */
  readonly revocationLists: string;
  /** For status pages; no keys in it. */
  describe(): object;
  close(): void;
}
