import type { ConnectionInfo, Endpoint, Verdict } from './dataplane.js';
import type { Asker, Facts } from './fake-flow-table.js';

/** Where a verdict leads; undefined while a certificate is missing. */
export type Way = Endpoint | 'direct' | { refused: string } | undefined;

interface Owner {
  carryOut(verdict: Verdict): Way;
  ended(why: string): void;
}

/** A connection that exists only in a test. */
export class FakeConnection implements Asker {
  readonly id: number;
  readonly facts: Facts;
  state: 'waiting' | 'open' | 'closed' = 'waiting';
  /** The verdict in force, once there is one. */
  verdict: Verdict | undefined;
  endpoint: Endpoint | undefined;
  /** Resolves when it is open, or when it ends without ever having been. */
  readonly decided: Promise<'open' | 'refused'>;
  /** Resolves with the reason; empty when `end` was called. */
  readonly ended: Promise<string>;
  readonly #owner: Owner;
  readonly #openedAt: number;
  readonly #decide: (outcome: 'open' | 'refused') => void;
  readonly #end: (why: string) => void;

  constructor(id: number, facts: Facts, now: number, owner: Owner) {
    this.id = id;
    this.facts = facts;
    this.#openedAt = now;
    this.#owner = owner;
    ({ promise: this.decided, resolve: this.#decide } = Promise.withResolvers<'open' | 'refused'>());
    ({ promise: this.ended, resolve: this.#end } = Promise.withResolvers<string>());
  }

  /** As if the peers had closed it. */
  end(): void {
    this.close('');
  }

  settled(verdict: Verdict): void {
    const isUnreachable = verdict.action === 'deny' && verdict.status === 503;
    if (isUnreachable && this.state === 'open' && this.facts.direction === 'outbound') return;
    this.verdict = verdict;
    if (this.state === 'open' && verdict.action === 'deny') this.close(verdict.because);
    else if (this.state === 'waiting') this.retry();
  }

  /** Tries again what the verdict in force says, unless it was done. */
  retry(): void {
    if (this.verdict === undefined || this.state !== 'waiting') return;
    const way = this.#owner.carryOut(this.verdict);
    if (way === undefined) return;
    if (way !== 'direct' && 'refused' in way) {
      this.close(way.refused);
      return;
    }
    this.endpoint = way === 'direct' ? undefined : way;
    this.state = 'open';
    this.#decide('open');
  }

  close(why: string): void {
    if (this.state === 'closed') return;
    this.#decide(this.state === 'open' ? 'open' : 'refused');
    this.state = 'closed';
    this.#owner.ended(why);
    this.#end(why);
  }

  logLine(why: string): string {
    const { srcIp, dstIp, dstPort, direction } = this.facts;
    const constant = [this.verdict?.log, this.endpoint?.log].filter((part) => part !== undefined && part !== '');
    const members = JSON.parse(`{${constant.join(',')}}`);
    const addresses = { 'src.addr': `${srcIp}:0`, 'dst.addr': `${dstIp}:${dstPort}` };
    const outcome = why === '' ? {} : { error: why };
    return JSON.stringify({ ...addresses, ...members, direction, because: this.verdict?.because ?? '', ...outcome });
  }

  info(now: number): ConnectionInfo {
    const { pod, direction, srcIp, dstIp, dstPort, peerIdentity } = this.facts;
    return {
      id: this.id,
      pod,
      direction,
      srcIp,
      srcPort: 0,
      dstIp,
      dstPort,
      peerIdentity,
      endpoint: this.endpoint?.id ?? '',
      because: this.verdict?.because ?? '',
      state: this.state,
      bytesSent: 0,
      bytesReceived: 0,
      openMs: now - this.#openedAt,
    };
  }
}
