/** HTTP/2 frames as hex, well-formed and otherwise, written down by hand from RFC 9113. */

export const PREFACE = Buffer.from('PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n').toString('hex');
export const Frame = {
  data: 0,
  headers: 1,
  priority: 2,
  rstStream: 3,
  settings: 4,
  pushPromise: 5,
  ping: 6,
  goaway: 7,
  windowUpdate: 8,
  continuation: 9,
} as const;
export const END_STREAM = 1;
export const ACK = 1;
export const END_HEADERS = 4;
export const PADDED = 8;

/** One frame. `length` overrides the true length of the payload in the header. */
export function frame(type: number, flags: number, stream: number, payload = '', length = payload.length / 2): string {
  const header = Buffer.alloc(9);
  header.writeUIntBE(length, 0, 3);
  header.writeUInt8(type, 3);
  header.writeUInt8(flags, 4);
  header.writeUInt32BE(stream, 5);
  return header.toString('hex') + payload;
}

/** A header block of a CONNECT, without Huffman coding and without the dynamic table. */
export function connectBlock(authority: string): string {
  return literal(':method', 'CONNECT') + literal(':authority', authority);
}

export function literal(name: string, value: string): string {
  return `00${text(name)}${text(value)}`;
}

/** Types in the order in which they occur in the peer's bytes; stops at what is no whole frame. */
export function frameTypes(hex: string): number[] {
  const bytes = Buffer.from(hex, 'hex');
  const types: number[] = [];
  for (let at = 0; at + 9 <= bytes.length; at += 9 + bytes.readUIntBE(at, 3)) types.push(bytes[at + 3] ?? -1);
  return types;
}

function text(value: string): string {
  if (value.length > 126) throw new Error('one length byte is enough here');
  return value.length.toString(16).padStart(2, '0') + Buffer.from(value).toString('hex');
}
