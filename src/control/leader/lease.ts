import type { ApiObject } from '../../kube/api.js';

/** What a Lease says. */
export interface LeaseRecord {
  /** Empty when nobody holds it. */
  readonly holder: string;
  readonly durationMs: number;
  /** How often it has changed hands. */
  readonly transitions: number;
  /** When the holder took it, and when it last said that it lives; for people, by the holder's clock. */
  readonly acquired: string;
  readonly renewed: string;
}

/** A record, and when this process first saw this version of it, by its own clock. */
export interface Observed {
  readonly record: LeaseRecord;
  readonly sinceMs: number;
}

export type LeaseDecision =
  | { readonly action: 'acquire' | 'renew'; readonly because: string }
  | { readonly action: 'wait'; readonly forMs: number; readonly because: string };

/**
 * What to do about a lease, `undefined` when there is none. Clocks of different machines are never compared: a holder
 * counts as gone when its record has not changed for its whole duration by our own clock, and a holder stops `deadlineMs`
 * after it sent the last renewal by its own. So there are never two as long as no clock runs faster than another by
 * more than duration/deadline.
 */
export function decide(observed: Observed | undefined, self: string, nowMs: number): LeaseDecision {
  if (observed === undefined) return { action: 'acquire', because: 'there is no lease' };
  const { record, sinceMs } = observed;
  if (record.holder === self) return { action: 'renew', because: 'it is ours' };
  if (record.holder === '') return { action: 'acquire', because: 'nobody holds it' };
  const leftMs = sinceMs + record.durationMs - nowMs;
  if (leftMs > 0) return { action: 'wait', forMs: leftMs, because: `${record.holder} holds it` };
  return { action: 'acquire', because: `${record.holder} has not renewed it for ${record.durationMs} ms` };
}

/** A Lease that cannot be read counts as held by nobody: whoever writes next makes it whole. */
export function readLease({ spec }: ApiObject): LeaseRecord {
  const fields = (typeof spec === 'object' && spec !== null ? spec : {}) as Readonly<Record<string, unknown>>;
  const text = (name: string): string => (typeof fields[name] === 'string' ? fields[name] : '');
  const count = (name: string): number => (typeof fields[name] === 'number' ? fields[name] : 0);
  return {
    holder: text('holderIdentity'),
    durationMs: count('leaseDurationSeconds') * 1000,
    transitions: count('leaseTransitions'),
    acquired: text('acquireTime'),
    renewed: text('renewTime'),
  };
}

/** Times in microseconds, as the API wants them. */
export function leaseSpec({ holder, durationMs, transitions, acquired, renewed }: LeaseRecord): object {
  return {
    holderIdentity: holder,
    leaseDurationSeconds: Math.ceil(durationMs / 1000),
    leaseTransitions: transitions,
    ...(acquired === '' ? {} : { acquireTime: acquired }),
    ...(renewed === '' ? {} : { renewTime: renewed }),
  };
}

export function microTime(date: Date): string {
  return date.toISOString().replace('Z', '000Z');
}
