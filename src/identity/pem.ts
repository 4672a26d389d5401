/** PEM text: blocks of base64 between BEGIN and END lines. */

export type PemLabel = 'CERTIFICATE' | 'CERTIFICATE REQUEST' | 'X509 CRL';

export function toPem(label: PemLabel, der: Uint8Array): string {
  const base64 = Buffer.from(der.buffer, der.byteOffset, der.byteLength).toString('base64');
  return `-----BEGIN ${label}-----\n${base64.replace(/.{64}(?=.)/g, '$&\n')}\n-----END ${label}-----\n`;
}

/** DER of every block with this label, in order. Other blocks and text between them are passed over. */
export function fromPem(label: PemLabel, text: string): Buffer[] {
  return splitPem(label, text).map((block) => Buffer.from(block.replace(/-----[^-]+-----/g, ''), 'base64'));
}

/** Every block with this label as PEM of its own, in order. */
export function splitPem(label: PemLabel, text: string): string[] {
  const block = new RegExp(`-----BEGIN ${label}-----[A-Za-z0-9+/=\\s]+-----END ${label}-----`, 'g');
  return [...text.matchAll(block)].map(([match]) => `${match.replace(/\r\n/g, '\n')}\n`);
}
