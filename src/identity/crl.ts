import { type KeyObject, verify, X509Certificate } from 'node:crypto';
import {
  type Asn1,
  bitsOf,
  childrenOf,
  contextual,
  decode,
  encode,
  integer,
  objectIdOf,
  sequence,
  time,
} from './asn1.js';
import { authorityKeyIdentifier, extension, type Issuer } from './issue.js';
import { ObjectIds } from './object-ids.js';
import { fromPem, toPem } from './pem.js';
import { hashOf, signed } from './signer.js';

export interface CrlInput {
  /** Grows with each list of the same issuer. */
  readonly number: number;
  readonly thisUpdate: Date;
  readonly nextUpdate: Date;
  /** Serials in hex. */
  readonly revoked: readonly { readonly serial: string; readonly at: Date }[];
}

/** A list of certificates of this issuer that are no longer to be trusted, PEM. */
export function issueCrl(issuer: Issuer, { number, thisUpdate, nextUpdate, revoked }: CrlInput): string {
  const entries = revoked.map(({ serial, at }) => sequence(serialOf(serial), time(at)));
  const der = signed(issuer.privateKey, (algorithm) =>
    sequence(
      integer(1),
      algorithm,
      decode(issuer.certificate.subjectDer),
      time(thisUpdate),
      time(nextUpdate),
      // An empty list is left out, not sent empty.
      ...(entries.length === 0 ? [] : [sequence(...entries)]),
      contextual(0, [
        sequence(
          authorityKeyIdentifier(issuer.certificate.subjectKeyId),
          extension(ObjectIds.crlNumber, false, integer(number)),
        ),
      ]),
    ),
  );
  return toPem('X509 CRL', der);
}

/** As much of a list as it takes to see whose it is. */
export interface RevocationList {
  /** The issuer's name, DER. */
  readonly issuerDer: Buffer;
  isSignedBy(publicKey: KeyObject): boolean;
}

/** Throws when it is not one PEM list, version 2, signed in a way that CAs of the mesh may sign. */
export function parseCrl(pem: string): RevocationList {
  const [der] = fromPem('X509 CRL', pem);
  if (der === undefined) throw new Error('it is no PEM X509 CRL');
  const [body, algorithm, signature] = childrenOf(decode(der));
  if (body === undefined) throw new Error('it is empty');
  const [version, , issuer] = childrenOf(body);
  if (version === undefined || !encode(version).equals(encode(integer(1)))) throw new Error('it is not of version 2');
  const issuerDer = encode(sequence(...childrenOf(issuer)));
  const hash = hashOf(objectIdOf(childrenOf(algorithm)[0]));
  const [content, bits] = [encode(body), bitsOf(signature)];
  return { issuerDer, isSignedBy: (publicKey) => verify(hash, content, publicKey, bits) };
}

/**
 * Whether a list (DER) may name a certificate (DER): its serial is looked for as it is written in lists, so that one of
 * a megabyte takes no time. Of short serials, as some CAs give them, it may say so wrongly; of 16 random bytes never.
 */
export function mayName(list: Buffer, certificate: Uint8Array): boolean {
  const { serialNumber } = new X509Certificate(certificate);
  return list.includes(encode(serialOf(serialNumber)));
}

function serialOf(hex: string): Asn1 {
  return integer(Buffer.from(hex.padStart(hex.length + (hex.length % 2), '0'), 'hex'));
}
