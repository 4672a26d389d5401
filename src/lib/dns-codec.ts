import dnsPacket, { type Answer, type Packet, type RecordType } from 'dns-packet';
import { err, ok, type Result } from './result.js';

/**
 * DNS messages as bytes and as values. The only importer of dns-packet. Nothing here throws, whatever the bytes are:
 * bad input is an error value. `decodeQuery` and `encodeReply` are a server's pair, `encodeQuery` and `decodeReply` a
 * client's; all four bound the work that a hostile message can cause.
 */

/** A question as a server sees it. */
export interface DnsQuery {
  readonly id: number;
  readonly recursionDesired: boolean;
  /** As asked, letter case kept, no trailing dot; the root is `.`. */
  readonly name: string;
  /** Lower case, for look-ups. Undefined when a label holds bytes that no host name has (a dot, control or non-ASCII bytes). */
  readonly hostname: string | undefined;
  /** `A`, `AAAA`, … or `UNKNOWN_<number>`. */
  readonly type: string;
  /** `IN`, … or `UNKNOWN_<number>`. */
  readonly class: string;
  /** True when the asker sent an OPT record. */
  readonly edns: boolean;
  /** Largest UDP reply that the asker takes: 512 without EDNS, at most 4096. */
  readonly maxUdpBytes: number;
  /** The question section exactly as it came, to be echoed. */
  readonly question: Uint8Array;
}

/** Why a message is no query. With an id the asker deserves `rcode`; without one it deserves silence. */
export interface QueryError {
  readonly message: string;
  readonly id?: number;
  readonly rcode?: DnsRcode;
}

export type AddressRecord = {
  readonly name: string;
  readonly type: 'A' | 'AAAA';
  readonly ttl: number;
  readonly data: string;
};
export type AliasRecord = {
  readonly name: string;
  readonly type: 'CNAME' | 'PTR' | 'NS';
  readonly ttl: number;
  readonly data: string;
};
export type ServiceRecord = {
  readonly name: string;
  readonly type: 'SRV';
  readonly ttl: number;
  readonly data: { readonly priority: number; readonly weight: number; readonly port: number; readonly target: string };
};
export type DnsRecord = AddressRecord | AliasRecord | ServiceRecord;

export interface DnsReply {
  readonly rcode: DnsRcode;
  readonly records: readonly DnsRecord[];
  /** True when the answerer owns the name. */
  readonly authoritative: boolean;
}

/** A reply as a client sees it. Records of other types than `DnsRecord` are counted, not decoded. */
export interface DecodedReply {
  readonly id: number;
  readonly rcode: number;
  readonly truncated: boolean;
  readonly authoritative: boolean;
  readonly name: string;
  readonly type: string;
  readonly records: readonly DnsRecord[];
  readonly otherRecords: number;
}

/** Reads one query. Only opcode QUERY with exactly one question is one; responses are errors without an id. */
export function decodeQuery(bytes: Uint8Array): Result<DnsQuery, QueryError> {
  if (bytes.length < HEADER_BYTES) return err({ message: `a DNS message of ${bytes.length} bytes has no header` });
  const view = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const id = view.readUInt16BE(0);
  const flags = view.readUInt16BE(2);
  if (flags & QR) return err({ message: 'a response where a query belongs' });
  if ((flags >> 11) & 0xf) return err({ message: `opcode ${(flags >> 11) & 0xf}`, id, rcode: 'NOTIMP' });
  const malformed = (message: string) => err({ message, id, rcode: 'FORMERR' as const });
  if (view.readUInt16BE(4) !== 1) return malformed(`${view.readUInt16BE(4)} questions`);
  const extras = view.readUInt16BE(6) + view.readUInt16BE(8) + view.readUInt16BE(10);
  if (extras > MAX_QUERY_RECORDS) return malformed(`${extras} records in a query`);
  const question = readQuestion(view);
  if (question === undefined) return malformed('a question that does not decode');
  const packet = decode(view);
  const asked = packet?.questions?.[0];
  if (packet === undefined || asked === undefined) return malformed('a message that does not decode');
  const opt = packet.additionals?.find((record) => record.type === 'OPT');
  return ok({
    id,
    recursionDesired: (flags & RD) !== 0,
    name: asked.name,
    hostname: question.plain ? asked.name.toLowerCase() : undefined,
    type: asked.type,
    class: asked.class ?? 'IN',
    edns: opt !== undefined,
    maxUdpBytes: opt === undefined ? PLAIN_UDP_BYTES : clamp(opt.udpPayloadSize, PLAIN_UDP_BYTES, MAX_UDP_BYTES),
    question: question.bytes,
  });
}

/**
 * The reply to `query` in at most `maxBytes` (`query.maxUdpBytes` on UDP, 65535 on TCP). Records that do not fit are
 * left out and TC is set, so that the asker comes again over TCP.
 */
export function encodeReply(query: DnsQuery, reply: DnsReply, maxBytes: number): Uint8Array {
  const most = Math.min(reply.records.length, Math.floor(maxBytes / LEAST_RECORD_BYTES));
  for (let count = most; count > 0; count = Math.min(count - 1, Math.floor(count * 0.9))) {
    const bytes = encodeReplyWith(query, reply, count);
    if (bytes !== undefined && bytes.length <= maxBytes) return bytes;
  }
  return encodeReplyWith(query, reply, 0) ?? encodeError(query.id, 'SERVFAIL');
}

/** A reply without a question, for what could not be decoded. */
export function encodeError(id: number, rcode: DnsRcode): Uint8Array {
  const bytes = Buffer.alloc(HEADER_BYTES);
  bytes.writeUInt16BE(id, 0);
  bytes.writeUInt16BE(QR | rcodeNumber(rcode), 2);
  return bytes;
}

/** A recursive question of class IN. `udpPayloadBytes` adds EDNS. */
export function encodeQuery(id: number, name: string, type: RecordType, udpPayloadBytes?: number): Result<Uint8Array> {
  const packet: Packet = { type: 'query', id, flags: RD, questions: [{ name, type }] };
  if (udpPayloadBytes !== undefined) packet.additionals = [optRecord(udpPayloadBytes)];
  const bytes = name.split('.').some((label) => Buffer.byteLength(label) > MAX_LABEL_BYTES)
    ? undefined
    : encode(packet);
  return bytes === undefined ? err(`'${name}' is no DNS name`) : ok(bytes);
}

/** Reads one response with at most one question. */
export function decodeReply(bytes: Uint8Array): Result<DecodedReply> {
  if (bytes.length < HEADER_BYTES) return err(`a DNS message of ${bytes.length} bytes has no header`);
  const view = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const flags = view.readUInt16BE(2);
  if ((flags & QR) === 0) return err('a query where a response belongs');
  if (view.readUInt16BE(4) > 1) return err(`${view.readUInt16BE(4)} questions in a response`);
  const packet = decode(view);
  if (packet === undefined) return err('a response that does not decode');
  const records = (packet.answers ?? []).flatMap(toRecord);
  return ok({
    id: view.readUInt16BE(0),
    rcode: flags & 0xf,
    truncated: (flags & TC) !== 0,
    authoritative: (flags & AA) !== 0,
    name: packet.questions?.[0]?.name ?? '',
    type: packet.questions?.[0]?.type ?? '',
    records,
    otherRecords: (packet.answers?.length ?? 0) - records.length,
  });
}

export type DnsRcode = keyof typeof RCODES;

export function rcodeNumber(rcode: DnsRcode): number {
  return RCODES[rcode];
}

/**
 * The question section: a name without compression (nothing comes before it to point at), type, class. Undefined when
 * it is cut short or compressed. `plain` tells whether every label could be part of a host name.
 */
function readQuestion(view: Buffer): { bytes: Uint8Array; plain: boolean } | undefined {
  let offset = HEADER_BYTES;
  let plain = true;
  for (;;) {
    const length = view[offset];
    if (length === undefined || length > MAX_LABEL_BYTES || offset - HEADER_BYTES > MAX_NAME_BYTES) return undefined;
    offset += 1;
    if (length === 0) break;
    for (let i = offset; i < offset + length; i++) plain &&= isHostnameByte(view[i] ?? 0);
    offset += length;
  }
  const end = offset + 4;
  return end > view.length ? undefined : { bytes: Uint8Array.from(view.subarray(HEADER_BYTES, end)), plain };
}

function isHostnameByte(byte: number): boolean {
  return byte > 0x20 && byte < 0x7f && byte !== DOT;
}

function encodeReplyWith(query: DnsQuery, reply: DnsReply, count: number): Uint8Array | undefined {
  const truncated = count < reply.records.length ? TC : 0;
  const flags =
    (reply.authoritative ? AA : 0) | truncated | (query.recursionDesired ? RD : 0) | RA | rcodeNumber(reply.rcode);
  const packet: Packet = { type: 'response', id: query.id, flags, answers: reply.records.slice(0, count) as Answer[] };
  if (query.edns) packet.additionals = [optRecord(MAX_UDP_BYTES)];
  const bytes = encode(packet);
  if (bytes === undefined) return undefined;
  // The question goes in as it came: letter case and odd bytes are the asker's check against spoofing.
  bytes.writeUInt16BE(1, 4);
  return Buffer.concat([bytes.subarray(0, HEADER_BYTES), query.question, bytes.subarray(HEADER_BYTES)]);
}

function optRecord(udpPayloadSize: number): Answer {
  return {
    type: 'OPT',
    name: '.',
    udpPayloadSize,
    extendedRcode: 0,
    ednsVersion: 0,
    flags: 0,
    flag_do: false,
    options: [],
  };
}

function toRecord(answer: Answer): DnsRecord[] {
  switch (answer.type) {
    case 'A':
    case 'AAAA':
    case 'CNAME':
    case 'PTR':
    case 'NS':
      return [{ name: answer.name, type: answer.type, ttl: answer.ttl ?? 0, data: answer.data }];
    case 'SRV': {
      const { priority = 0, weight = 0, port, target } = answer.data;
      return [{ name: answer.name, type: 'SRV', ttl: answer.ttl ?? 0, data: { priority, weight, port, target } }];
    }
    default:
      return [];
  }
}

function decode(view: Buffer): Packet | undefined {
  try {
    return dnsPacket.decode(view);
  } catch {
    return undefined;
  }
}

function encode(packet: Packet): Buffer | undefined {
  try {
    return dnsPacket.encode(packet);
  } catch {
    return undefined;
  }
}

function clamp(value: number, min: number, max: number): number {
  return Math.min(max, Math.max(min, value));
}

const RCODES = { NOERROR: 0, FORMERR: 1, SERVFAIL: 2, NXDOMAIN: 3, NOTIMP: 4, REFUSED: 5 } as const;
const QR = 0x8000;
const AA = 0x0400;
const TC = 0x0200;
const RD = 0x0100;
const RA = 0x0080;
const HEADER_BYTES = 12;
const PLAIN_UDP_BYTES = 512;
const MAX_UDP_BYTES = 4096;
const MAX_LABEL_BYTES = 63;
const MAX_NAME_BYTES = 255;
const MAX_QUERY_RECORDS = 8;
/** A root name, type, class, ttl, length and an IPv4 address. */
const LEAST_RECORD_BYTES = 15;
const DOT = 0x2e;
