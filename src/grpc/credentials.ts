import { credentials, experimental, type ServerCredentials } from '@grpc/grpc-js';

/** PEM throughout. */
export interface ServerIdentity {
  /** Leaf first, then the intermediates. */
  readonly certificateChain: string;
  readonly privateKey: string;
}

/**
 * The TLS side of a server whose certificate is replaced while it runs: connections made before a change keep theirs,
 * so no stream is cut.
 */
export class LiveServerCredentials {
  readonly grpc: ServerCredentials;
  readonly #identityListeners = new Set<experimental.IdentityCertificateUpdateListener>();
  readonly #rootListeners = new Set<experimental.CaCertificateUpdateListener>();
  readonly #subscribers = new Set<(identity: ServerIdentity) => void>();
  #identity: ServerIdentity;
  #clientRoots: string | undefined;

  /**
   * With `clientRoots` a client certificate is asked for, and used when it verifies; without one a client is still
   * let in, as other credentials may speak for it.
   */
  constructor(identity: ServerIdentity, clientRoots?: string) {
    this.#identity = identity;
    this.#clientRoots = clientRoots;
    const provider: experimental.CertificateProvider = {
      addIdentityCertificateListener: (listener) => {
        this.#identityListeners.add(listener);
        // Later: the library counts a listener's first, immediate call as none, and would refuse every connection.
        queueMicrotask(() => listener(identityUpdate(this.#identity)));
      },
      removeIdentityCertificateListener: (listener) => this.#identityListeners.delete(listener),
      addCaCertificateListener: (listener) => {
        this.#rootListeners.add(listener);
        queueMicrotask(() => listener({ caCertificate: Buffer.from(this.#clientRoots ?? '') }));
      },
      removeCaCertificateListener: (listener) => this.#rootListeners.delete(listener),
    };
    const roots = clientRoots === undefined ? null : provider;
    this.grpc = experimental.createCertificateProviderServerCredentials(provider, roots, false);
  }

  /** What is shown to clients now. */
  get identity(): ServerIdentity {
    return this.#identity;
  }

  /** Hears of every replacement: for servers that are none of gRPC. Returns the way out. */
  subscribe(listener: (identity: ServerIdentity) => void): () => void {
    this.#subscribers.add(listener);
    return () => this.#subscribers.delete(listener);
  }

  /** Takes effect for connections made from now on. */
  replace(identity: ServerIdentity): void {
    this.#identity = identity;
    for (const listener of this.#subscribers) listener(identity);
    for (const listener of this.#identityListeners) listener(identityUpdate(identity));
  }

  /** Roots that client certificates must come from; only for credentials that were made with some. */
  replaceClientRoots(pem: string): void {
    this.#clientRoots = pem;
    for (const listener of this.#rootListeners) listener({ caCertificate: Buffer.from(pem) });
  }
}

/** How a client proves the server to itself, and itself to the server. */
export interface ChannelSecurity {
  /** PEM of one or more roots; nothing else is trusted. Undefined means plaintext. */
  readonly rootCerts?: string | undefined;
  /** A client certificate, for mutual TLS. */
  readonly identity?: ServerIdentity | undefined;
}

export function channelCredentials({ rootCerts, identity }: ChannelSecurity) {
  if (rootCerts === undefined) return credentials.createInsecure();
  return credentials.createSsl(
    Buffer.from(rootCerts),
    identity === undefined ? null : Buffer.from(identity.privateKey),
    identity === undefined ? null : Buffer.from(identity.certificateChain),
  );
}

function identityUpdate(identity: ServerIdentity): experimental.IdentityCertificateUpdate {
  return { certificate: Buffer.from(identity.certificateChain), privateKey: Buffer.from(identity.privateKey) };
}
