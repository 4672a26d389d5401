import { createRequire } from 'node:module';
import type Forge from 'node-forge';

/** DER values by name, on top of forge's ASN.1. With x509's layouts beside it, the only importer of node-forge. */
/** Only these parts of forge: the whole (its TLS, PKCS and ciphers) costs a process 5 MB. */
const load = createRequire(import.meta.url);
const forge: Pick<typeof Forge, 'asn1' | 'util'> = {
  util: load('node-forge/lib/util.js') as typeof Forge.util,
  asn1: load('node-forge/lib/asn1.js') as typeof Forge.asn1,
};

export type Asn1 = Forge.asn1.Asn1;

export function sequence(...children: Asn1[]): Asn1 {
  return universal(Type.SEQUENCE, children);
}

export function set(...children: Asn1[]): Asn1 {
  return universal(Type.SET, children);
}

export function objectId(dotted: string): Asn1 {
  return universal(Type.OID, forge.asn1.oidToDer(dotted).getBytes());
}

/** A positive whole number, big-endian. */
export function integer(value: number | Uint8Array): Asn1 {
  if (typeof value === 'number') return universal(Type.INTEGER, forge.asn1.integerToDer(value).getBytes());
  const significant = value.subarray(
    Math.max(
      0,
      value.findIndex((byte) => byte !== 0),
    ),
  );
  const sign = (significant[0] ?? 0) >= 0x80 ? '\0' : '';
  return universal(Type.INTEGER, sign + binary(significant));
}

export function boolean(value: boolean): Asn1 {
  return universal(Type.BOOLEAN, value ? '\xff' : '\0');
}

export function nullValue(): Asn1 {
  return universal(Type.NULL, '');
}

export function octetString(bytes: Uint8Array): Asn1 {
  return universal(Type.OCTETSTRING, binary(bytes));
}

/** Whole bytes; `unusedBits` of the last one do not count. */
export function bitString(bytes: Uint8Array, unusedBits = 0): Asn1 {
  return universal(Type.BITSTRING, String.fromCharCode(unusedBits) + binary(bytes));
}

export function utf8String(text: string): Asn1 {
  return universal(Type.UTF8, forge.util.encodeUtf8(text));
}

/** UTCTime until 2049 and GeneralizedTime after, as X.509 wants it; whole seconds. */
export function time(at: Date): Asn1 {
  return at.getUTCFullYear() < 2050
    ? universal(Type.UTCTIME, forge.asn1.dateToUtcTime(at) as unknown as string)
    : universal(Type.GENERALIZEDTIME, forge.asn1.dateToGeneralizedTime(at) as unknown as string);
}

/** `[tag]`, around other values or, with bytes, instead of a type's own tag. */
export function contextual(tag: number, content: readonly Asn1[] | Uint8Array): Asn1 {
  const constructed = !(content instanceof Uint8Array);
  return forge.asn1.create(
    forge.asn1.Class.CONTEXT_SPECIFIC,
    tag as Forge.asn1.Type,
    constructed,
    constructed ? [...content] : binary(content),
  );
}

/** Throws on anything that is not exactly one canonical DER value. */
export function decode(der: Uint8Array): Asn1 {
  const text = binary(der);
  const options = { strict: true, parseAllBytes: true, decodeBitStrings: false };
  const value = forge.asn1.fromDer(text, options as unknown as boolean);
  if (forge.asn1.toDer(value).getBytes() !== text) throw new Error('not canonical DER');
  return value;
}

export function encode(value: Asn1): Buffer {
  return Buffer.from(forge.asn1.toDer(value).getBytes(), 'latin1');
}

/** The values inside a constructed one. Throws when it is of another type. */
export function childrenOf(value: Asn1 | undefined, type: number = Type.SEQUENCE): Asn1[] {
  if (!isOf(value, type, forge.asn1.Class.UNIVERSAL) || !Array.isArray(value.value)) {
    throw new Error(`expected ASN.1 type ${type}`);
  }
  return value.value;
}

/** The bytes of a primitive one. Throws when it is of another type. */
export function bytesOf(value: Asn1 | undefined, type: number): Buffer {
  return contentOf(value, type, forge.asn1.Class.UNIVERSAL);
}

/** The bytes of a primitive `[tag]`. Throws when it is anything else. */
export function contextualBytesOf(value: Asn1 | undefined, tag: number): Buffer {
  return contentOf(value, tag, forge.asn1.Class.CONTEXT_SPECIFIC);
}

export function objectIdOf(value: Asn1 | undefined): string {
  return forge.asn1.derToOid(forge.util.createBuffer(binary(bytesOf(value, Type.OID))));
}

/** The content of a bit string of whole bytes. */
export function bitsOf(value: Asn1 | undefined): Buffer {
  const bytes = bytesOf(value, Type.BITSTRING);
  if (bytes[0] !== 0) throw new Error('a bit string with unused bits');
  return bytes.subarray(1);
}

export function isContextual(value: Asn1 | undefined, tag: number): boolean {
  return isOf(value, tag, forge.asn1.Class.CONTEXT_SPECIFIC);
}

export const Type = forge.asn1.Type;

function contentOf(value: Asn1 | undefined, type: number, tagClass: Forge.asn1.Class): Buffer {
  if (!isOf(value, type, tagClass) || typeof value.value !== 'string') throw new Error(`expected ASN.1 type ${type}`);
  return Buffer.from(value.value, 'latin1');
}

/** The class belongs to the type: a private 16 is no SEQUENCE. */
function isOf(value: Asn1 | undefined, type: number, tagClass: Forge.asn1.Class): value is Asn1 {
  return value !== undefined && value.tagClass === tagClass && Number(value.type) === type;
}

function universal(type: Forge.asn1.Type, value: Asn1[] | string): Asn1 {
  return forge.asn1.create(forge.asn1.Class.UNIVERSAL, type, Array.isArray(value), value);
}

function binary(bytes: Uint8Array): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString('latin1');
}
