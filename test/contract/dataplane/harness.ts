/** What the suite needs of an implementation, and how it answers offers. */
import type { Dataplane, EndpointGroup, Offer, Verdict, Work } from '../../../src/agent/dataplane/dataplane.js';

/** A connection as its client sees it. */
export interface Client {
  /** Whether bytes can pass. Refused ones may look accepted at first: this waits for certainty. */
  readonly decided: Promise<'open' | 'refused'>;
  /** Resolves when it is over. */
  readonly ended: Promise<unknown>;
  end(): void;
}

export interface Harness extends AsyncDisposable {
  readonly dataplane: Dataplane;
  /** Adds the one pod, `POD`. */
  addPod(): Promise<void>;
  /** An outbound connection of that pod to one of HOSTS and port 8000 or 8001. */
  connect(host: string, port: number): Client;
  /** Where plaintext connections are answered. */
  readonly server: { readonly ip: string; readonly port: number };
}

export type HarnessOptions = { maxPendingPerPod?: number; maxFlowsPerPod?: number; auditOneIn?: number };
export type OpenHarness = (options?: HarnessOptions) => Promise<Harness>;

/** Takes what comes up and keeps it, so that a test can wait for it. */
export class Desk {
  readonly offers: Offer[] = [];
  readonly wanted: string[] = [];
  readonly notices: Work['notices'] = [];
  readonly #dataplane: Dataplane;
  #log = '';
  #waiting: { until: () => boolean; resolve: () => void }[] = [];

  constructor(dataplane: Dataplane) {
    this.#dataplane = dataplane;
    dataplane.onWork(() => this.#take());
  }

  /** The n-th offer so far, as soon as there is one. */
  async offer(n: number): Promise<Offer> {
    await this.until(() => this.offers.length >= n);
    const offer = this.offers[n - 1];
    if (offer === undefined) throw new Error('not reached');
    return offer;
  }

  /** Lines of the access log so far. */
  get log(): Record<string, unknown>[] {
    return this.#log
      .split('\n')
      .filter((line) => line !== '')
      .map((line) => JSON.parse(line));
  }

  answer(...verdicts: readonly Verdict[]): void {
    this.#dataplane.answer(verdicts);
  }

  /** Looked at whenever something has come up. */
  until(condition: () => boolean): Promise<void> {
    if (condition()) return Promise.resolve();
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#waiting.push({ until: condition, resolve });
    return promise;
  }

  #take(): void {
    const { offers, wantedCertificates, accessLog, notices } = this.#dataplane.take();
    this.offers.push(...offers);
    this.wanted.push(...wantedCertificates);
    this.notices.push(...notices);
    this.#log += new TextDecoder().decode(accessLog);
    const ready = this.#waiting.filter(({ until }) => until());
    this.#waiting = this.#waiting.filter((each) => !ready.includes(each));
    for (const { resolve } of ready) resolve();
  }
}

/** A verdict that lets the connection through to `server`, read nothing and looked at nothing. */
export function direct(offer: Offer, server: Harness['server'], more: Partial<Verdict> = {}): Verdict {
  return {
    offerId: offer.id,
    version: 1,
    action: 'direct',
    targetIp: server.ip,
    targetPort: server.port,
    group: '',
    status: 503,
    because: 'test',
    objects: [],
    reads: [],
    fields: 0,
    baggage: '',
    forwardedHost: '',
    labels: 'reporter="source"',
    log: '"src.workload":"client"',
    responseFlags: '-',
    ...more,
  };
}

export function plaintextGroup(id: string, server: Harness['server'], tunnelIp = ''): EndpointGroup {
  const endpoint = {
    id: 'endpoint',
    ...server,
    tunnelIp,
    tunnelPort: tunnelIp === '' ? 0 : 15008,
    authority: '',
    identities: ['spiffe://cluster.local/ns/default/sa/server'],
    weight: 1,
    rank: 0,
    healthy: true,
    labels: '',
    log: '',
  };
  return { id, endpoints: [endpoint] };
}

export const POD = 'Kubernetes//Pod/default/client';
export const POD_IDENTITY = 'spiffe://cluster.local/ns/default/sa/client';
export const HOSTS = ['10.99.0.1', '10.99.0.2', '10.99.0.3'] as const;
