import { generateKeyPairSync, type KeyObject, sign, X509Certificate } from 'node:crypto';
import { type Clock, systemClock } from '../../lib/clock.js';
import { canonicalIp } from '../../lib/ip.js';
import type {
  BorderResult,
  ConnectionInfo,
  Dataplane,
  DataplanePod,
  Endpoint,
  EndpointGroup,
  EngineOptions,
  EngineStats,
  HandoverResult,
  InstalledCertificate,
  KeyHandle,
  Notice,
  OfferResult,
  PodResult,
  Read,
  TrustAnchor,
  Verdict,
  Work,
} from './dataplane.js';
import { FakeConnection } from './fake-connection.js';
import { type Facts, FakeFlowTable } from './fake-flow-table.js';
import { DEFAULT_ENGINE_OPTIONS } from './options.js';

/**
 * A dataplane in memory, for tests of whoever decides: real flow-table semantics, real keys, and connections that are
 * only said to exist (`connect`). No sockets, no namespaces, no bytes.
 */
export class FakeDataplane implements Dataplane {
  readonly pods = new Map<string, DataplanePod>();
  readonly groups = new Map<string, EndpointGroup>();
  readonly certificates = new Map<string, InstalledCertificate>();
  trust: readonly TrustAnchor[] = [];
  revocations: readonly Uint8Array[] = [];
  readonly #options: EngineOptions;
  readonly #clock: Clock;
  readonly #flows: FakeFlowTable;
  readonly #keys = new Map<number, KeyObject>();
  readonly #connections = new Set<FakeConnection>();
  /** Connections that a pod's quota keeps in the backlog. */
  readonly #backlog: FakeConnection[] = [];
  readonly #wanted = new Set<string>();
  readonly #notices: Notice[] = [];
  readonly #opened = new Map<string, number>();
  readonly #inherited = new Set<string>();
  #log = '';
  #lastId = 0;
  #callback: (() => void) | undefined;
  #isWoken = false;
  #isAccepting = true;
  #predecessor: Offered | undefined;
  #successor: FakeDataplane | undefined;
  readonly closed = Promise.withResolvers<void>();

  constructor(options: Partial<EngineOptions> = {}, clock: Clock = systemClock) {
    this.#options = { ...DEFAULT_ENGINE_OPTIONS, ...options };
    this.#clock = clock;
    this.#flows = new FakeFlowTable(this.#options);
  }

  /** A connection of an added pod. Facts that are left out are those of an outbound one to 10.0.0.1:80. */
  connect(facts: Pick<Facts, 'pod'> & Partial<Facts>): FakeConnection {
    const whole: Facts = {
      direction: 'outbound',
      dstIp: '10.0.0.1',
      dstPort: 80,
      srcIp: '10.0.0.2',
      peerIdentity: '',
      authority: '',
      ...facts,
    };
    const connection: FakeConnection = new FakeConnection(++this.#lastId, whole, this.#clock.now(), {
      carryOut: (verdict) => this.#carryOut(connection, verdict),
      ended: (why) => this.#ended(connection, why),
    });
    if (!this.pods.has(whole.pod) || !this.#isAccepting) connection.close('nobody listens');
    else this.#ask(connection);
    this.#wake();
    return connection;
  }

  async addPod(pod: DataplanePod): Promise<PodResult> {
    const bad = pod.addresses.find((address) => canonicalIp(address) === undefined);
    if (bad !== undefined) {
      return { ok: false, error: `pod ${pod.uid}: its address '${bad}' is no IP address`, inherited: false };
    }
    if (!this.pods.has(pod.uid)) this.pods.set(pod.uid, pod);
    return { ok: true, error: '', inherited: this.#inherited.delete(pod.uid) };
  }

  removePod(uid: string, why: string): void {
    if (!this.pods.delete(uid)) return;
    for (const connection of [...this.#connections, ...this.#backlog]) {
      if (connection.facts.pod === uid) connection.close(why);
    }
    this.#flows.removePod(uid);
  }

  onWork(callback: () => void): void {
    this.#callback = callback;
  }

  take(maxOffers = 256): Work {
    this.#isWoken = false;
    const offers = this.#flows.takeOffers(maxOffers);
    const wantedCertificates = [...this.#wanted];
    const accessLog = new TextEncoder().encode(this.#log);
    this.#wanted.clear();
    this.#log = '';
    if (this.#flows.hasOffers()) this.#wake();
    return { offers, wantedCertificates, accessLog, notices: this.#notices.splice(0) };
  }

  answer(verdicts: readonly Verdict[]): void {
    for (const verdict of verdicts) {
      const wrong = malformed(verdict);
      if (wrong === undefined) this.#flows.answer(verdict);
      else this.#notices.push({ level: 'error', code: 'bad-verdict', message: `verdict ${verdict.offerId}: ${wrong}` });
    }
    for (const connection of this.#backlog.splice(0)) {
      this.#ask(connection);
    }
    this.#wake();
  }

  putGroups(groups: readonly EndpointGroup[]): void {
    for (const group of groups) this.groups.set(group.id, group);
  }

  removeGroups(ids: readonly string[]): void {
    for (const id of ids) this.groups.delete(id);
  }

  invalidate(version: number, reads: readonly Read[]): void {
    this.#flows.invalidate(version, reads);
    this.#wake();
  }

  createKey(): KeyHandle {
    const { privateKey, publicKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
    const keyId = this.#keys.size + 1;
    this.#keys.set(keyId, privateKey);
    return { keyId, publicKey: publicKey.export({ type: 'spki', format: 'der' }) };
  }

  sign(keyId: number, bytes: Uint8Array): Uint8Array | undefined {
    const key = this.#keys.get(keyId);
    return key && sign('sha256', bytes, key);
  }

  installCertificate(certificate: InstalledCertificate): BorderResult {
    const { identity, keyId, chain } = certificate;
    if (!this.#keys.has(keyId)) return failed(`${identity}: there is no key ${keyId}`);
    if (chain.length === 0) return failed(`${identity}: the chain is empty`);
    this.certificates.set(identity, certificate);
    for (const connection of this.#connections) connection.retry();
    return OK;
  }

  removeCertificate(identity: string): void {
    this.certificates.delete(identity);
  }

  setTrust(anchors: readonly TrustAnchor[]): BorderResult {
    for (const { trustDomain, roots } of anchors) {
      for (const root of roots) {
        if (!isCertificate(root)) return failed(`a root of ${trustDomain} is no certificate`);
      }
    }
    this.trust = anchors;
    return OK;
  }

  setRevocations(crls: readonly Uint8Array[]): BorderResult {
    if (crls.some((crl) => crl[0] !== DER_SEQUENCE)) return failed('a revocation list is none');
    this.revocations = crls;
    return OK;
  }

  metrics(): string {
    const lines = [...this.#opened].map(
      ([labels, count]) => `istio_tcp_connections_opened_total{${labels}} ${count}\n`,
    );
    return `# TYPE istio_tcp_connections_opened_total counter\n${lines.join('')}`;
  }

  connections(limit: number): ConnectionInfo[] {
    const live = [...this.#connections].map((connection) => connection.info(this.#clock.now()));
    return live.slice(Math.max(0, live.length - limit));
  }

  stats(): EngineStats {
    return {
      version: this.#flows.version,
      pods: this.pods.size,
      connections: this.#connections.size,
      tunnels: 0,
      flows: this.#flows.flows,
      pendingOffers: this.#flows.pending,
      groups: this.groups.size,
      cacheHits: this.#flows.hits,
      cacheMisses: this.#flows.misses,
      auditMismatches: 0,
    };
  }

  offerHandover(path: string, generation: number): Promise<OfferResult> {
    const { promise, resolve } = Promise.withResolvers<OfferResult>();
    const relieve = (successor: FakeDataplane) => {
      this.#isAccepting = false;
      this.#successor = successor;
      if (offered.get(path)?.owner === this) offered.delete(path);
      resolve({ ...OK, sharesNetwork: true });
    };
    const abandon = () => resolve({ ...failed('the engine was closed'), sharesNetwork: false });
    offered.set(path, { owner: this, generation, relieve, abandon });
    return promise;
  }

  async successorGone(): Promise<boolean> {
    const gone = this.#successor?.closed.promise.then(() => true) ?? Promise.resolve(true);
    return Promise.race([gone, this.closed.promise.then(() => false)]);
  }

  resumeAccepting(): void {
    this.#isAccepting = true;
  }

  isOffered(path: string): boolean {
    return offered.has(path);
  }

  async takeHandover(path: string, generation: number): Promise<HandoverResult> {
    const predecessor = offered.get(path);
    if (predecessor === undefined) return { ...OK, pods: [] };
    if (generation <= predecessor.generation) {
      return {
        ...failed(`generation ${generation} is not above the predecessor's, ${predecessor.generation}`),
        pods: [],
      };
    }
    this.#predecessor = predecessor;
    const pods = [...predecessor.owner.pods.keys()].sort();
    for (const uid of pods) this.#inherited.add(uid);
    return { ...OK, pods };
  }

  async completeHandover(): Promise<BorderResult> {
    this.#predecessor?.relieve(this);
    this.#predecessor = undefined;
    return OK;
  }

  forgetInherited(): void {
    this.#inherited.clear();
  }

  drain(deadlineMs: number): Promise<number> {
    this.#isAccepting = false;
    const { promise, resolve } = Promise.withResolvers<number>();
    const finish = () => {
      const left = [...this.#connections];
      for (const connection of left) connection.close('drain');
      resolve(left.length);
    };
    const cancel = this.#clock.schedule(deadlineMs, finish);
    void Promise.all([...this.#connections].map(({ ended }) => ended)).then(() => {
      cancel();
      finish();
    });
    return promise;
  }

  close(): void {
    this.#isAccepting = false;
    this.closed.resolve();
    for (const connection of [...this.#connections, ...this.#backlog]) connection.close('the engine is closed');
    for (const [path, { owner, abandon }] of offered) {
      if (owner !== this) continue;
      offered.delete(path);
      abandon();
    }
    this.#callback = undefined;
  }

  #ask(connection: FakeConnection): void {
    this.#connections.add(connection);
    if (this.#flows.ask(connection)) return;
    this.#connections.delete(connection);
    this.#backlog.push(connection);
  }

  /** Where a verdict leads, now. Undefined: it waits for a certificate. */
  #carryOut(connection: FakeConnection, verdict: Verdict): Endpoint | 'direct' | { refused: string } | undefined {
    if (verdict.action === 'deny') return { refused: verdict.because };
    if (verdict.action === 'direct') return this.#open(verdict, 'direct');
    const endpoint = choose(this.groups.get(verdict.group)?.endpoints ?? []);
    if (endpoint === undefined) return { refused: `no endpoint in group ${verdict.group}` };
    const identity = this.pods.get(connection.facts.pod)?.identity ?? '';
    if (endpoint.tunnelIp === '' || this.certificates.has(identity)) return this.#open(verdict, endpoint);
    this.#wanted.add(identity);
    this.#wake();
    return undefined;
  }

  #open<T>(verdict: Verdict, way: T): T {
    this.#opened.set(verdict.labels, (this.#opened.get(verdict.labels) ?? 0) + 1);
    return way;
  }

  #ended(connection: FakeConnection, why: string): void {
    this.#connections.delete(connection);
    const waiting = this.#backlog.indexOf(connection);
    if (waiting >= 0) this.#backlog.splice(waiting, 1);
    this.#flows.release(connection);
    if (!this.#options.accessLog) return;
    this.#log += `${connection.logLine(why)}\n`;
    this.#wake();
  }

  #wake(): void {
    const hasWork = this.#flows.hasOffers() || this.#wanted.size > 0 || this.#log !== '' || this.#notices.length > 0;
    if (this.#isWoken || !hasWork) return;
    this.#isWoken = true;
    queueMicrotask(() => this.#callback?.());
  }
}

interface Offered {
  readonly owner: FakeDataplane;
  readonly generation: number;
  relieve(successor: FakeDataplane): void;
  abandon(): void;
}

/** What engines of this process offer, by path. */
const offered = new Map<string, Offered>();

const OK: BorderResult = { ok: true, error: '' };
const DER_SEQUENCE = 0x30;

function failed(error: string): BorderResult {
  return { ok: false, error };
}

/** The first healthy endpoint of the lowest rank: a test wants to know which. */
function choose(endpoints: readonly Endpoint[]): Endpoint | undefined {
  return endpoints.filter(({ healthy }) => healthy).sort((a, b) => a.rank - b.rank)[0];
}

function malformed(verdict: Verdict): string | undefined {
  if (verdict.action === 'direct' && canonicalIp(verdict.targetIp) === undefined) {
    return `target '${verdict.targetIp}' is no IP address`;
  }
  if (verdict.action === 'group' && verdict.group === '') return 'no group is named';
  const bad = verdict.reads.find(({ prefix, key }) => prefix && canonicalIp(key) === undefined);
  return bad && `a prefix lookup in ${bad.table} records an address, not '${bad.key}'`;
}

function isCertificate(der: Uint8Array): boolean {
  try {
    return new X509Certificate(der).raw.length > 0;
  } catch {
    return false;
  }
}
