import { createPublicKey, type KeyObject, sign } from 'node:crypto';
import { type Asn1, bitString, encode, nullValue, objectId, sequence } from './asn1.js';
import { ObjectIds } from './object-ids.js';

/** Puts a body, the algorithm and the signature over the body together, as certificates and CRLs are made. */
export function signed(privateKey: KeyObject, body: (algorithm: Asn1) => Asn1): Buffer {
  const { objectIdOf, hash, parameters } = schemeOf(privateKey);
  const algorithm = (): Asn1 => sequence(objectId(objectIdOf), ...parameters());
  const content = body(algorithm());
  return encode(sequence(content, algorithm(), bitString(sign(hash, encode(content), privateKey))));
}

/** The hash of a signature algorithm. Throws on one that CAs of the mesh do not use. */
export function hashOf(algorithm: string): string {
  if (algorithm === ObjectIds.ecdsaWithSha256 || algorithm === ObjectIds.sha256WithRsa) return 'sha256';
  if (algorithm === ObjectIds.ecdsaWithSha384) return 'sha384';
  throw new Error(`signature algorithm ${algorithm} is not supported`);
}

/** EC P-256 and P-384 keys sign with the hash of their size, RSA keys (of a plugged-in CA) with SHA-256. */
function schemeOf(key: KeyObject): { objectIdOf: string; hash: string; parameters: () => Asn1[] } {
  const curve = createPublicKey(key).asymmetricKeyDetails?.namedCurve;
  if (curve === 'prime256v1') return { objectIdOf: ObjectIds.ecdsaWithSha256, hash: 'sha256', parameters: () => [] };
  if (curve === 'secp384r1') return { objectIdOf: ObjectIds.ecdsaWithSha384, hash: 'sha384', parameters: () => [] };
  if (key.asymmetricKeyType === 'rsa') {
    return { objectIdOf: ObjectIds.sha256WithRsa, hash: 'sha256', parameters: () => [nullValue()] };
  }
  throw new Error(`a CA key must be EC P-256, EC P-384 or RSA, not ${curve ?? key.asymmetricKeyType}`);
}
