import type { Clock } from '../../lib/clock.js';
import { type DnsRecord, decodeQuery, decodeReply, encodeQuery } from '../../lib/dns-codec.js';
import { canonicalIp } from '../../lib/ip.js';
import type { PodSockets } from '../dns/pod-sockets.js';
import { askUpstream, type Nameserver } from '../dns/upstream.js';

/** What DNS says of a host name: its addresses; that it has none; or nothing, because nobody answered. */
export type NameAnswer =
  | { readonly kind: 'addresses'; readonly ips: readonly string[]; readonly ttlSeconds: number }
  | { readonly kind: 'none'; readonly problem: string }
  | { readonly kind: 'failed'; readonly problem: string };

export interface Families {
  readonly ipv4: boolean;
  readonly ipv6: boolean;
}

export interface NameLookupDeps {
  /** Where the queries leave from. */
  readonly sockets: PodSockets;
  readonly clock: Clock;
  /** Asked before each look-up. */
  readonly nameservers: () => Promise<readonly Nameserver[]>;
}

/**
 * Asks the nameservers for the addresses of a name, which is taken as it is, without search domains; for both families
 * at once where both are wanted. Never rejects, and takes no longer than `askUpstream` does.
 */
export async function lookUpName(host: string, families: Families, deps: NameLookupDeps): Promise<NameAnswer> {
  const nameservers = await deps.nameservers().catch(() => []);
  if (nameservers.length === 0) return { kind: 'failed', problem: 'this node knows no nameserver' };
  const types = [...(families.ipv4 ? (['A'] as const) : []), ...(families.ipv6 ? (['AAAA'] as const) : [])];
  const answers = await Promise.all(types.map((type) => askFor(host, type, nameservers, deps)));
  const found = answers.filter((answer) => answer.kind === 'addresses');
  if (found.length > 0) {
    return {
      kind: 'addresses',
      ips: [...new Set(found.flatMap(({ ips }) => ips))].slice(0, MAX_ADDRESSES),
      ttlSeconds: Math.min(...found.map(({ ttlSeconds }) => ttlSeconds)),
    };
  }
  // That one family has nothing says little while nobody knows of the other.
  const failed = answers.find(({ kind }) => kind === 'failed');
  return failed ?? answers[0] ?? { kind: 'none', problem: 'no address family' };
}

async function askFor(
  host: string,
  type: 'A' | 'AAAA',
  nameservers: readonly Nameserver[],
  { sockets, clock }: NameLookupDeps,
): Promise<NameAnswer> {
  const bytes = encodeQuery(0, host, type, UDP_BYTES);
  const query = bytes.ok ? decodeQuery(bytes.value) : undefined;
  if (!bytes.ok || query === undefined || !query.ok) return { kind: 'none', problem: 'no DNS name' };
  // "tcp": a truncated answer is fetched again in full.
  const reply = await askUpstream(
    bytes.value,
    query.value,
    'tcp',
    { netns: '', nameservers },
    { sockets, clock, mark: 0 },
  );
  const decoded = reply === undefined ? undefined : decodeReply(reply);
  if (decoded === undefined) return { kind: 'failed', problem: 'no nameserver answered' };
  if (!decoded.ok) return { kind: 'failed', problem: 'an answer that does not decode' };
  const { rcode, records } = decoded.value;
  if (rcode === NXDOMAIN) return { kind: 'none', problem: 'NXDOMAIN' };
  if (rcode !== NOERROR) return { kind: 'failed', problem: RCODES[rcode] ?? `rcode ${rcode}` };
  return addressesIn(host, type, records);
}

/** Those at the end of the aliases that begin at the name. The shortest time to live along the way counts. */
function addressesIn(host: string, type: 'A' | 'AAAA', records: readonly DnsRecord[]): NameAnswer {
  let name = host.toLowerCase();
  let ttlSeconds = Number.POSITIVE_INFINITY;
  for (let hops = 0; hops <= MAX_ALIASES; hops++) {
    const own = records.filter((record) => record.name.toLowerCase() === name);
    const addresses = own.filter((record) => record.type === type);
    if (addresses.length > 0) {
      const ips = addresses.flatMap(({ data }) => canonicalIp(String(data)) ?? []).filter((ip) => !NOWHERE.has(ip));
      if (ips.length === 0) return { kind: 'none', problem: 'no address that anybody could have' };
      return { kind: 'addresses', ips, ttlSeconds: Math.min(ttlSeconds, ...addresses.map(({ ttl }) => ttl)) };
    }
    const alias = own.find((record) => record.type === 'CNAME');
    if (alias === undefined) break;
    name = String(alias.data).toLowerCase();
    ttlSeconds = Math.min(ttlSeconds, alias.ttl);
  }
  return { kind: 'none', problem: 'no address' };
}

/** Of both families together; a name with more is known by these. */
export const MAX_ADDRESSES = 32;
const MAX_ALIASES = 8;
const UDP_BYTES = 1232;
/** What block lists answer: a connection to it would reach whoever makes it. */
const NOWHERE: ReadonlySet<string> = new Set(['0.0.0.0', '::']);
const NOERROR = 0;
const NXDOMAIN = 3;
const RCODES: Readonly<Record<number, string>> = { 1: 'FORMERR', 2: 'SERVFAIL', 4: 'NOTIMP', 5: 'REFUSED' };
