import { createPublicKey, type KeyObject, verify } from 'node:crypto';
import { err, ok, type Result } from '../lib/result.js';
import {
  type Asn1,
  bitString,
  bitsOf,
  boolean,
  bytesOf,
  childrenOf,
  contextual,
  decode,
  encode,
  integer,
  isContextual,
  objectId,
  objectIdOf,
  octetString,
  sequence,
  set,
  Type,
} from './asn1.js';
import { ObjectIds } from './object-ids.js';
import { fromPem, toPem } from './pem.js';
import { type AlternativeNames, decodeAlternativeNames, encodeAlternativeNames } from './subject-alternative-name.js';

export interface CsrInput {
  /** The identity asked for, as it will stand in the certificate. */
  readonly spiffeId: string;
  /** SubjectPublicKeyInfo of an EC P-256 key, DER. */
  readonly publicKeySpki: Uint8Array;
  /** ECDSA with SHA-256 over the bytes, DER-encoded. The key itself may live elsewhere. */
  readonly sign: (bytes: Uint8Array) => Uint8Array;
}

/** A certificate signing request, PEM: an empty subject and the identity as a critical URI name. */
export function buildCsr({ spiffeId, publicKeySpki, sign }: CsrInput): string {
  const names = encodeAlternativeNames({ uris: [spiffeId], dnsNames: [], ips: [] });
  const extension = sequence(objectId(ObjectIds.subjectAlternativeName), boolean(true), octetString(names));
  const info = sequence(
    integer(0),
    sequence(),
    decode(publicKeySpki),
    contextual(0, [sequence(objectId(ObjectIds.extensionRequest), set(sequence(extension)))]),
  );
  const signature = bitString(sign(encode(info)));
  return toPem('CERTIFICATE REQUEST', encode(sequence(info, sequence(objectId(ObjectIds.ecdsaWithSha256)), signature)));
}

/** A request whose signature was verified: its sender holds the private key. */
export interface Csr {
  readonly publicKey: KeyObject;
  /** DER, as it was signed. */
  readonly publicKeySpki: Buffer;
  readonly names: AlternativeNames;
}

/**
 * Reads a request of an unknown sender: one PEM block, canonical DER, a key that is strong enough (EC P-256 or P-384,
 * RSA of 2048 bits or more), a signature that verifies. Whether the names are due to the sender is for the caller to
 * say. Error: what is wrong, in a sentence.
 */
export function parseCsr(pem: string): Result<Csr> {
  if (pem.length > MAX_CSR_PEM_LENGTH) {
    return err(`the CSR is ${pem.length} characters long, more than ${MAX_CSR_PEM_LENGTH}`);
  }
  const [der, ...more] = fromPem('CERTIFICATE REQUEST', pem);
  if (der === undefined) return err('there is no CERTIFICATE REQUEST block in the CSR');
  if (more.length > 0) return err(`there are ${more.length + 1} CERTIFICATE REQUEST blocks in the CSR, not one`);
  try {
    return readCsr(der);
  } catch (error) {
    return err(`the CSR cannot be read: ${error instanceof Error ? error.message : error}`);
  }
}

function readCsr(der: Buffer): Result<Csr> {
  const [info, algorithm, signature, ...rest] = childrenOf(decode(der));
  const [version, , spki, attributes] = childrenOf(info);
  if (info === undefined || spki === undefined || rest.length > 0) return err('the CSR has the wrong shape');
  if (bytesOf(version, Type.INTEGER).toString('hex') !== '00') return err('the CSR is not of version 1');
  const publicKeySpki = encode(spki);
  const publicKey = createPublicKey({ key: publicKeySpki, format: 'der', type: 'spki' });
  const fault = keyFault(publicKey);
  if (fault !== undefined) return err(fault);
  const scheme = SIGNATURE_SCHEMES.get(objectIdOf(childrenOf(algorithm)[0]));
  if (scheme === undefined) return err('the CSR is signed with an algorithm that is not accepted');
  if (publicKey.asymmetricKeyType !== scheme.key) return err('the CSR is signed with an algorithm of another key type');
  if (!verify(scheme.hash, encode(info), publicKey, bitsOf(signature))) {
    return err('the signature of the CSR does not verify with its own key');
  }
  return ok({ publicKey, publicKeySpki, names: requestedNames(attributes) });
}

/** Looked at before any arithmetic with the key: odd keys can be costly ones. */
function keyFault(key: KeyObject): string | undefined {
  const { namedCurve, modulusLength = 0 } = key.asymmetricKeyDetails ?? {};
  if (key.asymmetricKeyType === 'ec') {
    return ['prime256v1', 'secp384r1'].includes(namedCurve ?? '')
      ? undefined
      : `the key of the CSR is on curve ${namedCurve ?? 'of its own'}, not on P-256 or P-384`;
  }
  if (key.asymmetricKeyType !== 'rsa') return `the key of the CSR is of type ${key.asymmetricKeyType}, not EC or RSA`;
  return modulusLength >= MIN_RSA_BITS && modulusLength <= MAX_RSA_BITS
    ? undefined
    : `the RSA key of the CSR has ${modulusLength} bits, not ${MIN_RSA_BITS} to ${MAX_RSA_BITS}`;
}

function requestedNames(attributes: Asn1 | undefined): AlternativeNames {
  const none: AlternativeNames = { uris: [], dnsNames: [], ips: [] };
  if (attributes === undefined || !isContextual(attributes, 0) || !Array.isArray(attributes.value)) return none;
  for (const attribute of attributes.value) {
    const [id, values] = childrenOf(attribute);
    if (objectIdOf(id) !== ObjectIds.extensionRequest) continue;
    for (const extension of childrenOf(childrenOf(values, Type.SET)[0])) {
      const parts = childrenOf(extension);
      if (objectIdOf(parts[0]) === ObjectIds.subjectAlternativeName) {
        return decodeAlternativeNames(bytesOf(parts.at(-1), Type.OCTETSTRING));
      }
    }
  }
  return none;
}

const SIGNATURE_SCHEMES: ReadonlyMap<string, { readonly key: 'ec' | 'rsa'; readonly hash: string }> = new Map([
  [ObjectIds.ecdsaWithSha256, { key: 'ec', hash: 'sha256' }],
  [ObjectIds.ecdsaWithSha384, { key: 'ec', hash: 'sha384' }],
  [ObjectIds.ecdsaWithSha512, { key: 'ec', hash: 'sha512' }],
  [ObjectIds.sha256WithRsa, { key: 'rsa', hash: 'sha256' }],
  [ObjectIds.sha384WithRsa, { key: 'rsa', hash: 'sha384' }],
  [ObjectIds.sha512WithRsa, { key: 'rsa', hash: 'sha512' }],
]);

/** An RSA-4096 request is under 2 KB. */
const MAX_CSR_PEM_LENGTH = 16 * 1024;
const MIN_RSA_BITS = 2048;
const MAX_RSA_BITS = 8192;
