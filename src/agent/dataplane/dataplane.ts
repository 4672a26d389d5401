/**
 * The border between the agent, which decides, and the engine, which moves bytes. One screen, flat values only, so
 * that the engine could run as a process of its own. `native.ts` implements it with the Rust addon, `fake.ts` in
 * memory; both pass test/contract/dataplane.
 *
 * Nothing crosses per byte. Per connection at most one Offer goes up (only on a flow-table miss) and one Verdict down;
 * reports leave the engine as rendered access-log lines, in batches. An expected failure is a value, a throw is a bug.
 */
export interface Dataplane {
  /** Opens the pod's listeners inside its network namespace (or adopts inherited ones). Adding a pod twice is a no-op. */
  addPod(pod: DataplanePod): Promise<PodResult>;
  /** Closes the pod's listeners and, at once, its connections (reported with `why`). Unknown uids are ignored. */
  removePod(uid: string, why: string): void;

  /** Called (on the event loop, coalesced) when `take()` has something. At most one call is under way. */
  onWork(callback: () => void): void;
  /** Everything that has come up since the last call. Bounded by `maxOffers` (default 256); more follow by `onWork`. */
  take(): Work;
  /** Answers to offers, in any order. Unknown or already answered ids are ignored. */
  answer(verdicts: readonly Verdict[]): void;

  /** Creates or replaces endpoint groups in place; flows that name them stay valid. */
  putGroups(groups: readonly EndpointGroup[]): void;
  removeGroups(ids: readonly string[]): void;
  /**
   * The snapshot is now `version`; flows that read one of `reads` are dropped and the live connections under them are
   * judged again. A verdict with a lower version that read one of them is refused and offered again.
   */
  invalidate(version: number, reads: readonly Read[]): void;

  /** Makes an ECDSA P-256 key that never leaves the engine. */
  createKey(): KeyHandle;
  /** ECDSA-SHA256 over `bytes`, DER-encoded signature. Undefined when the key is unknown. */
  sign(keyId: number, bytes: Uint8Array): Uint8Array | undefined;
  /** Swaps the certificate of a SPIFFE identity live; tunnels made under the old one take no new streams. */
  installCertificate(certificate: InstalledCertificate): BorderResult;
  /** Forgets identity and key; its tunnels take no new streams. */
  removeCertificate(identity: string): void;
  /** Replaces all trust anchors. A bad anchor leaves the former set in force. */
  setTrust(anchors: readonly TrustAnchor[]): BorderResult;
  /** Replaces the revocation lists (DER); live tunnels of revoked peers are closed. Bad input keeps the former ones. */
  setRevocations(crls: readonly Uint8Array[]): BorderResult;

  /** Prometheus text (no `# EOF`) of all series the engine keeps, rendered at the call. */
  metrics(): string;
  /** Live connections, newest last, at most `limit`. */
  connections(limit: number): ConnectionInfo[];
  /** Current sizes: for readiness, tests and config dump. */
  stats(): EngineStats;

  /**
   * Offers all listeners over SCM_RIGHTS to successors that connect to the Unix socket `path`. Resolves when one of a
   * higher generation has them and serves: from then on nothing is accepted here, and tunnels take no new streams.
   */
  offerHandover(path: string, generation: number): Promise<OfferResult>;
  /** To be called after `offerHandover`: resolves when that successor is gone; false when this engine is closed. */
  successorGone(): Promise<boolean>;
  /** Accepts again, from the listeners that were kept. */
  resumeAccepting(): void;
  /** Whether an engine, this one or another, offers its listeners at `path`. */
  isOffered(path: string): boolean;
  /**
   * Takes listeners from a predecessor at `path`, which goes on accepting; later `addPod` calls adopt them by uid. No
   * predecessor is no error.
   */
  takeHandover(path: string, generation: number): Promise<HandoverResult>;
  /** Relieves the predecessor, if there is one. An error when it is gone or did not wait. */
  completeHandover(): Promise<BorderResult>;
  /** Closes inherited listeners that no pod has adopted. */
  forgetInherited(): void;
  /** Stops accepting, lets connections end until `deadlineMs`, then closes the rest with reason `drain`. */
  drain(deadlineMs: number): Promise<number>;
  close(): void;
}

export interface EngineOptions {
  /** Epoll loops. Default: cores / 2, at least 1. */
  threads: number;
  /** Adaptive spin before parking, microseconds; 0 turns it off (a CPU-limited cgroup). */
  spinUs: number;
  /** TCP_CONGESTION on the engine's sockets; empty leaves the host's choice. */
  congestionControl: string;
  /** Socket mark of everything the engine dials. */
  mark: number;
  outboundPort: number;
  inboundPlainPort: number;
  inboundHbonePort: number;
  connectTimeoutMs: number;
  handshakeTimeoutMs: number;
  /** How long a connection waits for a verdict or for its certificate. */
  decisionTimeoutMs: number;
  /** Idle tunnels are released after this. */
  poolIdleMs: number;
  /** An endpoint that failed to connect is set aside for this long. */
  setAsideMs: number;
  maxStreamsPerTunnel: number;
  /** Flow entries and pending offers of one pod. */
  maxFlowsPerPod: number;
  maxPendingPerPod: number;
  maxConnectionsPerPod: number;
  /** Bytes kept while a tunnel or verdict is on its way, per connection. */
  maxHeldBytes: number;
  /** One cache hit in N is decided again and compared; 0 never. */
  auditOneIn: number;
  /** Rendered access log lines waiting for the event loop; more are counted and dropped. */
  maxLogBytes: number;
  /** Records sealed under one key before a KeyUpdate. At most 2^24. */
  rekeyAfterRecords: number;
  accessLog: boolean;
}

export interface DataplanePod {
  uid: string;
  name: string;
  namespace: string;
  /** SPIFFE id of the pod; its certificate is installed separately. */
  identity: string;
  /** Path of the network namespace (`/proc/PID/ns/net` or `/run/netns/NAME`). */
  netns: string;
  /** The pod's own addresses. */
  addresses: string[];
}

export type Direction = 'outbound' | 'inbound' | 'inbound-plaintext';

/** A question: the facts of one connection. Fields beyond `id`, `pod`, `direction` count as read only when `fields` says so. */
export interface Offer {
  id: number;
  pod: string;
  direction: Direction;
  /** Original destination (outbound, plaintext), or the tunnel's local address (inbound). */
  dstIp: string;
  dstPort: number;
  srcIp: string;
  /** Verified SPIFFE id of the peer; empty where there is none. */
  peerIdentity: string;
  /** CONNECT authority as sent: `ip:port` or `hostname:port`; empty unless inbound. */
  authority: string;
  /** Set for a live connection that is judged again. */
  rejudge: boolean;
}

/** Bits of `Verdict.fields`: which offer fields the decision looked at. The flow is cached under exactly these. */
export const OfferField = {
  dstIp: 1,
  dstPort: 2,
  srcIp: 4,
  peerIdentity: 8,
  authority: 16,
} as const;

/**
 * A lookup that a decision made, also when it found nothing. `prefix` marks a longest-prefix lookup: its key is an
 * IP address, and it is invalidated by any prefix (`10.0.0.0/8`, in `Read.key` of `invalidate`) that contains it.
 */
export interface Read {
  table: string;
  key: string;
  prefix: boolean;
}

/**
 * direct   plaintext to `targetIp:targetPort` (outbound), or deliver to it (inbound, both kinds)
 * tunnel   an endpoint of `group`; each endpoint says whether it is tunnelled or plaintext
 * deny     refused: RST (outbound, plaintext), CONNECT status `status` (inbound); live connections under it are closed,
 *          but for established outbound ones when `status` is 503: they have their endpoint
 */
export type Action = 'direct' | 'group' | 'deny';

export interface Verdict {
  offerId: number;
  version: number;
  action: Action;
  targetIp: string;
  targetPort: number;
  group: string;
  /** HTTP status of a refused CONNECT: 400, 401, or 503 where there is no way. */
  status: number;
  /** Stable reason code, for example `policy-deny` or `service-endpoint`. */
  because: string;
  /** Names of the objects that decided, for example `policy/ns/name`. */
  objects: string[];
  reads: Read[];
  fields: number;
  /** Value of the `baggage` and of `forwarded`'s `host=`; empty leaves the header (part) out. Outbound only. */
  baggage: string;
  forwardedHost: string;
  /** Rendered once: Prometheus label pairs without braces (`a="b",c="d"`), the part that the endpoint does not decide. */
  labels: string;
  /** Rendered once: JSON members without braces (`"src.workload":"x"`) of each access-log line under this flow. */
  log: string;
  /** Value of the `response_flags` label when refused; `-` otherwise. */
  responseFlags: string;
}

export interface EndpointGroup {
  id: string;
  endpoints: Endpoint[];
}

export interface Endpoint {
  /** Workload uid, for logs and set-aside. */
  id: string;
  /** What the CONNECT names, or where plaintext goes. */
  ip: string;
  port: number;
  /** Where the tunnel ends; empty means plaintext straight to ip:port. */
  tunnelIp: string;
  tunnelPort: number;
  /** CONNECT authority; empty means `ip:port`. */
  authority: string;
  /** SPIFFE ids of which the peer must present one. */
  identities: string[];
  /** Relative weight, at least 1. */
  weight: number;
  /** Lower is nearer; a higher rank is used only when no endpoint of a lower one is available. */
  rank: number;
  healthy: boolean;
  labels: string;
  log: string;
}

export interface Work {
  offers: Offer[];
  /** Identities for which a connection waits and no certificate is installed. */
  wantedCertificates: string[];
  /** Newline-separated JSON access-log lines; empty when there are none. */
  accessLog: Uint8Array;
  /** Engine messages worth a log line (audit mismatch, refused handshake …), bounded. */
  notices: Notice[];
}

export interface Notice {
  level: 'info' | 'warn' | 'error';
  code: string;
  message: string;
}

export interface KeyHandle {
  keyId: number;
  /** SubjectPublicKeyInfo, DER. */
  publicKey: Uint8Array;
}

export interface InstalledCertificate {
  identity: string;
  keyId: number;
  /** DER, leaf first. */
  chain: Uint8Array[];
}

export interface TrustAnchor {
  /** Trust domain whose identities these roots may vouch for, for example `cluster.local`. */
  trustDomain: string;
  /** DER certificates. */
  roots: Uint8Array[];
}

export interface BorderResult {
  ok: boolean;
  /** Empty when ok; else a sentence with the object and the likely cause. */
  error: string;
}

export interface PodResult extends BorderResult {
  /** True when the listeners came from a predecessor. */
  inherited: boolean;
}

export interface OfferResult extends BorderResult {
  /** The successor runs in the same network namespace as this process. */
  sharesNetwork: boolean;
}

export interface HandoverResult extends BorderResult {
  /** Uids of pods whose listeners were taken. */
  pods: string[];
}

export interface ConnectionInfo {
  id: number;
  pod: string;
  direction: Direction;
  srcIp: string;
  srcPort: number;
  dstIp: string;
  dstPort: number;
  peerIdentity: string;
  endpoint: string;
  because: string;
  /** connecting, open, half-closed … */
  state: string;
  bytesSent: number;
  bytesReceived: number;
  openMs: number;
}

export interface EngineStats {
  version: number;
  pods: number;
  connections: number;
  tunnels: number;
  flows: number;
  pendingOffers: number;
  groups: number;
  cacheHits: number;
  cacheMisses: number;
  auditMismatches: number;
}
