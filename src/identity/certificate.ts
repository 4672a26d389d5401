import { createHash, type KeyObject, X509Certificate } from 'node:crypto';
import { type Asn1, bitsOf, bytesOf, childrenOf, decode, encode, isContextual, objectIdOf, Type } from './asn1.js';
import { ObjectIds } from './object-ids.js';
import { toPem } from './pem.js';
import { decodeAlternativeNames } from './subject-alternative-name.js';

/** What the mesh wants to know of a certificate. */
export interface Certificate {
  readonly pem: string;
  readonly der: Buffer;
  readonly notBefore: Date;
  readonly notAfter: Date;
  /** Lower-case hex. */
  readonly serial: string;
  readonly uriSans: readonly string[];
  readonly dnsSans: readonly string[];
  readonly isCa: boolean;
  readonly publicKey: KeyObject;
  /** The subject's name, DER: what an issued certificate repeats as its issuer. */
  readonly subjectDer: Buffer;
  /** Key identifier, from the extension or, without one, made from the key. */
  readonly subjectKeyId: Buffer;
  /** SHA-256 of the DER, lower-case hex. */
  readonly fingerprint: string;
}

/** PEM of one certificate, or DER. Throws when it is neither. */
export function parseCertificate(input: string | Uint8Array): Certificate {
  const parsed = new X509Certificate(typeof input === 'string' ? input : Buffer.from(input));
  const der = Buffer.from(parsed.raw);
  const [body] = childrenOf(decode(der));
  const fields = childrenOf(body);
  // Version is optional and comes first; serial, algorithm, issuer, validity and subject follow it.
  const subject = fields[isContextual(fields[0], 0) ? 5 : 4];
  if (subject === undefined) throw new Error('the certificate has no subject field');
  const extensions = extensionsOf(fields);
  const names = extensions.get(ObjectIds.subjectAlternativeName);
  const { uris, dnsNames } = names === undefined ? { uris: [], dnsNames: [] } : decodeAlternativeNames(names);
  const keyId = extensions.get(ObjectIds.subjectKeyIdentifier);
  return {
    pem: toPem('CERTIFICATE', der),
    der,
    notBefore: parsed.validFromDate,
    notAfter: parsed.validToDate,
    serial: parsed.serialNumber.toLowerCase(),
    uriSans: uris,
    dnsSans: dnsNames,
    isCa: parsed.ca,
    publicKey: parsed.publicKey,
    subjectDer: encode(subject),
    subjectKeyId: keyId === undefined ? keyIdentifier(parsed.publicKey) : bytesOf(decode(keyId), Type.OCTETSTRING),
    fingerprint: createHash('sha256').update(der).digest('hex'),
  };
}

/**
 * Whether `certificate` leads by signatures through `intermediates` to one of `roots`, all of them CAs and valid at
 * `at`. For what we are about to hand out or take in; peers are verified by the engine.
 */
export function chainsTo(
  certificate: Certificate,
  intermediates: readonly Certificate[],
  roots: readonly Certificate[],
  at: Date,
): boolean {
  if (at < certificate.notBefore || at > certificate.notAfter) return false;
  const isIssuer = (issuer: Certificate): boolean =>
    issuer.isCa &&
    new X509Certificate(certificate.der).checkIssued(new X509Certificate(issuer.der)) &&
    new X509Certificate(certificate.der).verify(issuer.publicKey);
  if (roots.some((root) => root.fingerprint === certificate.fingerprint)) return true;
  if (roots.some((root) => isIssuer(root) && at >= root.notBefore && at <= root.notAfter)) return true;
  return intermediates.some(
    (each, index) => isIssuer(each) && chainsTo(each, intermediates.toSpliced(index, 1), roots, at),
  );
}

/** Whether it is its own issuer, as roots are. */
export function isSelfSigned({ der, publicKey }: Certificate): boolean {
  const certificate = new X509Certificate(der);
  return certificate.checkIssued(certificate) && certificate.verify(publicKey);
}

/** SHA-1 over the bits of the public key, the customary identifier. */
export function keyIdentifier(publicKey: KeyObject): Buffer {
  const spki = publicKey.export({ format: 'der', type: 'spki' });
  return createHash('sha1')
    .update(bitsOf(childrenOf(decode(spki))[1]))
    .digest();
}

function extensionsOf(fields: readonly Asn1[]): ReadonlyMap<string, Buffer> {
  const holder = fields.find((field) => isContextual(field, 3));
  if (holder === undefined || !Array.isArray(holder.value)) return new Map();
  return new Map(
    childrenOf(holder.value[0]).map((extension) => {
      const parts = childrenOf(extension);
      return [objectIdOf(parts[0]), bytesOf(parts.at(-1), Type.OCTETSTRING)];
    }),
  );
}
