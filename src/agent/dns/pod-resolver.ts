import type { Clock } from '../../lib/clock.js';
import { type DnsQuery, decodeQuery, encodeError, encodeReply } from '../../lib/dns-codec.js';
import { answer, type DnsClient } from './answer.js';
import type { AskLabels, DnsCounters } from './dns-metrics.js';
import type { DnsTable } from './dns-table.js';

/**
 * Bytes in, bytes out, for one pod: decode, decide, encode; or pass on to the pod's nameservers. Undefined means
 * silence, for what is no query at all. Never throws; a failure is SERVFAIL.
 */
export class PodResolver {
  #inFlight = 0;

  constructor(
    readonly client: DnsClient,
    readonly deps: PodResolverDeps,
  ) {}

  async resolve(bytes: Uint8Array, protocol: 'udp' | 'tcp'): Promise<Uint8Array | undefined> {
    const { table, counters, random } = this.deps;
    const decoded = decodeQuery(bytes);
    if (!decoded.ok) {
      counters.malformed();
      const { id, rcode } = decoded.error;
      return id === undefined || rcode === undefined ? undefined : encodeError(id, rcode);
    }
    const query = decoded.value;
    const ask: AskLabels = { type: query.type, protocol };
    const maxBytes = protocol === 'udp' ? query.maxUdpBytes : MAX_TCP_BYTES;
    counters.request(ask);
    const decision = answer(query, this.client, table, random);
    if (decision.kind === 'upstream') {
      return (await this.#ask(bytes, query, ask)) ?? encodeReply(query, SERVFAIL, maxBytes);
    }
    return encodeReply(query, { rcode: 'NOERROR', authoritative: true, records: decision.records }, maxBytes);
  }

  async #ask(bytes: Uint8Array, query: DnsQuery, ask: AskLabels): Promise<Uint8Array | undefined> {
    const { counters, clock, upstream } = this.deps;
    if (this.#inFlight >= MAX_IN_FLIGHT) {
      counters.overLimit();
      return undefined;
    }
    this.#inFlight += 1;
    counters.upstream(ask);
    const started = clock.now();
    const reply = await upstream(bytes, query, ask.protocol).catch(() => undefined);
    this.#inFlight -= 1;
    counters.upstreamDone(ask, (clock.now() - started) / 1000, reply === undefined);
    return reply;
  }
}

export interface PodResolverDeps {
  readonly table: DnsTable;
  readonly counters: DnsCounters;
  readonly clock: Clock;
  readonly random: () => number;
  /** Asks the pod's nameservers; undefined when none answered. */
  readonly upstream: (bytes: Uint8Array, query: DnsQuery, protocol: 'udp' | 'tcp') => Promise<Uint8Array | undefined>;
}

const SERVFAIL = { rcode: 'SERVFAIL', authoritative: false, records: [] } as const;
const MAX_TCP_BYTES = 65535;
/** Queries of one pod that wait for a nameserver; more are refused and counted. */
const MAX_IN_FLIGHT = 256;
