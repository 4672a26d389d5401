import ipaddr from 'ipaddr.js';

/** IP addresses as text in canonical form (v4-mapped v6 is v4). The only importer of ipaddr.js. */

/** Canonical text of an address, or undefined when `text` is none. */
export function canonicalIp(text: string): string | undefined {
  if (CANONICAL_IPV4.test(text)) return text;
  if (!ipaddr.isValid(text) || (!text.includes(':') && !ipaddr.IPv4.isValidFourPartDecimal(text))) return undefined;
  return ipaddr.process(text).toString();
}

export function isIpv6(ip: string): boolean {
  return ip.includes(':');
}

/** 4 or 16 bytes, network byte order. Undefined when `text` is no address. */
export function ipToBytes(text: string): Uint8Array | undefined {
  if (CANONICAL_IPV4.test(text)) return Uint8Array.from(text.split('.'), Number);
  const canonical = canonicalIp(text);
  return canonical === undefined ? undefined : Uint8Array.from(ipaddr.parse(canonical).toByteArray());
}

/** Canonical text of 4 or 16 bytes; undefined for any other length. */
export function ipFromBytes(bytes: Uint8Array): string | undefined {
  if (bytes.length === 4) return `${bytes[0]}.${bytes[1]}.${bytes[2]}.${bytes[3]}`;
  if (bytes.length !== 16) return undefined;
  return ipaddr.process(ipaddr.fromByteArray([...bytes]).toString()).toString();
}

/** A CIDR block or a single address (full length). */
export interface Prefix {
  /** Canonical address with the host bits cleared. */
  readonly ip: string;
  readonly length: number;
}

/** Undefined when `text` is neither an address nor a CIDR block. */
export function parsePrefix(text: string): Prefix | undefined {
  const slash = text.indexOf('/');
  const ip = canonicalIp(slash < 0 ? text : text.slice(0, slash));
  if (ip === undefined) return undefined;
  const max = isIpv6(ip) ? 128 : 32;
  const digits = slash < 0 ? String(max) : text.slice(slash + 1);
  if (!/^\d{1,3}$/.test(digits)) return undefined;
  return makePrefix(ip, Number(digits));
}

/** Clears the host bits. Undefined when the length does not fit the family. */
export function makePrefix(ip: string, length: number): Prefix | undefined {
  const bytes = ipToBytes(ip);
  if (bytes === undefined || !Number.isInteger(length) || length < 0 || length > bytes.length * 8) return undefined;
  const masked = bytes.map((byte, i) => byte & (0xff00 >> Math.min(8, Math.max(0, length - i * 8))) & 0xff);
  const text = ipFromBytes(masked);
  return text === undefined ? undefined : { ip: text, length };
}

export function prefixContains(prefix: Prefix, ip: string): boolean {
  if (isIpv6(prefix.ip) !== isIpv6(ip)) return false;
  return makePrefix(ip, prefix.length)?.ip === prefix.ip;
}

export function formatPrefix(prefix: Prefix): string {
  return `${prefix.ip}/${prefix.length}`;
}

/** `1.2.3.4:80` or `[fd00::1]:80`. */
export function formatHostPort(host: string, port: number): string {
  return isIpv6(host) ? `[${host}]:${port}` : `${host}:${port}`;
}

/** Splits `host:port` and `[v6]:port`. Undefined when there is no valid port or host. */
export function parseHostPort(text: string): { host: string; port: number } | undefined {
  const match = /^(?:\[([0-9a-fA-F:.]+)\]|([^\s:[\]/]+)):(\d{1,5})$/.exec(text);
  const port = Number(match?.[3]);
  const host = match?.[1] ?? match?.[2];
  if (host === undefined || port < 1 || port > 65535) return undefined;
  return { host: canonicalIp(host) ?? host, port };
}

/** Most addresses are this, and need nothing else. */
const CANONICAL_IPV4 = /^(?:(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)\.){3}(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)$/;
