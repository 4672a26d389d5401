import { createPublicKey, type KeyObject, randomBytes } from 'node:crypto';
import {
  type Asn1,
  bitString,
  boolean,
  contextual,
  decode,
  encode,
  integer,
  objectId,
  octetString,
  sequence,
  set,
  time,
  utf8String,
} from './asn1.js';
import { type Certificate, keyIdentifier, parseCertificate } from './certificate.js';
import { ObjectIds } from './object-ids.js';
import { signed } from './signer.js';
import { encodeAlternativeNames } from './subject-alternative-name.js';

/** A CA certificate and its key: what signs others. */
export interface Issuer {
  readonly certificate: Certificate;
  readonly privateKey: KeyObject;
}

export interface Validity {
  readonly notBefore: Date;
  readonly notAfter: Date;
}

export interface LeafInput extends Validity {
  readonly publicKey: KeyObject;
  readonly uriSans?: readonly string[];
  readonly dnsSans?: readonly string[];
  readonly ipSans?: readonly string[];
}

/** A certificate for both ends of TLS. The subject is empty, so the names are critical. */
export function issueLeaf(issuer: Issuer, input: LeafInput): Certificate {
  const { publicKey, uriSans = [], dnsSans = [], ipSans = [] } = input;
  const usage = publicKey.asymmetricKeyType === 'rsa' ? DIGITAL_SIGNATURE | KEY_ENCIPHERMENT : DIGITAL_SIGNATURE;
  return issue(issuer.privateKey, issuer.certificate.subjectDer, sequence(), publicKey, input, [
    extension(ObjectIds.keyUsage, true, keyUsage(usage)),
    extension(
      ObjectIds.extendedKeyUsage,
      false,
      sequence(objectId(ObjectIds.serverAuth), objectId(ObjectIds.clientAuth)),
    ),
    extension(ObjectIds.basicConstraints, true, sequence()),
    extension(ObjectIds.subjectKeyIdentifier, false, octetString(keyIdentifier(publicKey))),
    authorityKeyIdentifier(issuer.certificate.subjectKeyId),
    extension(
      ObjectIds.subjectAlternativeName,
      true,
      decode(encodeAlternativeNames({ uris: uriSans, dnsNames: dnsSans, ips: ipSans })),
    ),
  ]);
}

export interface CaInput extends Validity {
  readonly commonName: string;
  readonly organization: string;
}

/** A self-signed root. */
export function issueRoot(privateKey: KeyObject, input: CaInput): Certificate {
  const publicKey = createPublicKey(privateKey);
  const subject = distinguishedName(input);
  return issue(privateKey, encode(subject), subject, publicKey, input, caExtensions(publicKey, undefined));
}

/** A CA below another that signs leaves only. */
export function issueIntermediate(issuer: Issuer, publicKey: KeyObject, input: CaInput): Certificate {
  return issue(issuer.privateKey, issuer.certificate.subjectDer, distinguishedName(input), publicKey, input, [
    ...caExtensions(publicKey, 0),
    authorityKeyIdentifier(issuer.certificate.subjectKeyId),
  ]);
}

function issue(
  signer: KeyObject,
  issuerName: Buffer,
  subject: Asn1,
  publicKey: KeyObject,
  { notBefore, notAfter }: Validity,
  extensions: Asn1[],
): Certificate {
  const der = signed(signer, (algorithm) =>
    sequence(
      contextual(0, [integer(2)]),
      integer(serialNumber()),
      algorithm,
      decode(issuerName),
      sequence(time(notBefore), time(notAfter)),
      subject,
      decode(publicKey.export({ format: 'der', type: 'spki' })),
      contextual(3, [sequence(...extensions)]),
    ),
  );
  return parseCertificate(der);
}

function caExtensions(publicKey: KeyObject, pathLength: number | undefined): Asn1[] {
  const constraint = pathLength === undefined ? [] : [integer(pathLength)];
  return [
    extension(ObjectIds.basicConstraints, true, sequence(boolean(true), ...constraint)),
    extension(ObjectIds.keyUsage, true, keyUsage(CERTIFICATE_SIGN | CRL_SIGN)),
    extension(ObjectIds.subjectKeyIdentifier, false, octetString(keyIdentifier(publicKey))),
  ];
}

export function extension(id: string, critical: boolean, value: Asn1): Asn1 {
  return sequence(objectId(id), ...(critical ? [boolean(true)] : []), octetString(encode(value)));
}

export function authorityKeyIdentifier(keyId: Uint8Array): Asn1 {
  return extension(ObjectIds.authorityKeyIdentifier, false, sequence(contextual(0, keyId)));
}

function distinguishedName({ organization, commonName }: CaInput): Asn1 {
  return sequence(
    set(sequence(objectId(ObjectIds.organization), utf8String(organization))),
    set(sequence(objectId(ObjectIds.commonName), utf8String(commonName))),
  );
}

/** Named bits count from the left; DER drops the zeros on the right. */
function keyUsage(bits: number): Asn1 {
  let unused = 0;
  while (unused < 7 && ((bits >> unused) & 1) === 0) unused++;
  return bitString(Uint8Array.of(bits), unused);
}

/** 128 random bits, positive and never zero. */
function serialNumber(): Buffer {
  const bytes = randomBytes(16);
  bytes[0] = ((bytes[0] ?? 0) & 0x7f) | 0x40;
  return bytes;
}

const DIGITAL_SIGNATURE = 0x80;
const KEY_ENCIPHERMENT = 0x20;
const CERTIFICATE_SIGN = 0x04;
const CRL_SIGN = 0x02;
