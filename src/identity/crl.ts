import { contextual, decode, integer, sequence, time } from './asn1.js';
import { authorityKeyIdentifier, extension, type Issuer } from './issue.js';
import { ObjectIds } from './object-ids.js';
import { toPem } from './pem.js';
import { signed } from './signer.js';

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
  const entries = revoked.map(({ serial, at }) =>
    sequence(integer(Buffer.from(serial.padStart(serial.length + (serial.length % 2), '0'), 'hex')), time(at)),
  );
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
