import { canonicalIp, ipFromBytes, ipToBytes } from '../lib/ip.js';
import {
  type Asn1,
  childrenOf,
  contextual,
  contextualBytesOf,
  decode,
  encode,
  isContextual,
  sequence,
} from './asn1.js';

/** The names a certificate speaks for. */
export interface AlternativeNames {
  readonly uris: readonly string[];
  readonly dnsNames: readonly string[];
  readonly ips: readonly string[];
}

/** The extension's value, DER. */
export function encodeAlternativeNames({ uris, dnsNames, ips }: AlternativeNames): Buffer {
  const ipNames = ips.map((ip) => {
    const bytes = ipToBytes(ip);
    if (bytes === undefined) throw new Error(`${JSON.stringify(ip)} is no IP address`);
    return contextual(IP_ADDRESS, bytes);
  });
  return encode(
    sequence(
      ...uris.map((uri) => contextual(URI, ascii(uri))),
      ...dnsNames.map((name) => contextual(DNS_NAME, ascii(name))),
      ...ipNames,
    ),
  );
}

/** Throws on names that are not ASCII and on shapes that are none; kinds other than these three are counted. */
export function decodeAlternativeNames(der: Uint8Array): AlternativeNames & { readonly others: number } {
  const names = { uris: [] as string[], dnsNames: [] as string[], ips: [] as string[], others: 0 };
  for (const each of childrenOf(decode(der))) {
    if (isContextual(each, URI)) names.uris.push(text(each, URI));
    else if (isContextual(each, DNS_NAME)) names.dnsNames.push(text(each, DNS_NAME));
    else if (isContextual(each, IP_ADDRESS)) names.ips.push(ipFromBytes(contextualBytesOf(each, IP_ADDRESS)) ?? '');
    else names.others++;
  }
  return { ...names, ips: names.ips.filter((ip) => canonicalIp(ip) !== undefined) };
}

function ascii(value: string): Buffer {
  if (!/^[\x21-\x7e]+$/.test(value)) throw new Error(`${JSON.stringify(value)} cannot stand in a certificate`);
  return Buffer.from(value, 'latin1');
}

function text(value: Asn1, tag: number): string {
  const read = contextualBytesOf(value, tag).toString('latin1');
  if (!/^[\x21-\x7e]+$/.test(read)) throw new Error('an alternative name that is not printable ASCII');
  return read;
}

const DNS_NAME = 2;
const URI = 6;
const IP_ADDRESS = 7;
