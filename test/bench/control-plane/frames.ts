/** What a light client wants to know of a delta discovery response, found without decoding the rest. */
export interface SeenResponse {
  readonly typeUrl: string;
  readonly nonce: string;
  /** Name and version. */
  readonly changed: readonly (readonly [name: string, version: string])[];
  readonly removed: readonly string[];
}

export function scanResponse(bytes: Buffer): SeenResponse {
  const changed: [string, string][] = [];
  const removed: string[] = [];
  let [typeUrl, nonce] = ['', ''];
  for (const [field, start, end] of fieldsOf(bytes, 0, bytes.length)) {
    if (field === 2) changed.push(scanResource(bytes, start, end));
    else if (field === 4) typeUrl = bytes.toString('utf8', start, end);
    else if (field === 5) nonce = bytes.toString('utf8', start, end);
    else if (field === 6) removed.push(bytes.toString('utf8', start, end));
  }
  return { typeUrl, nonce, changed, removed };
}

function scanResource(bytes: Buffer, from: number, to: number): [string, string] {
  let [name, version] = ['', ''];
  for (const [field, start, end] of fieldsOf(bytes, from, to)) {
    if (field === 3) name = bytes.toString('utf8', start, end);
    else if (field === 1) version = bytes.toString('latin1', start, end);
  }
  return [name, version];
}

/** The length-delimited fields of a message; all that is asked for here is of that kind. */
function* fieldsOf(bytes: Buffer, from: number, to: number): Generator<readonly [number, number, number]> {
  let at = from;
  const varint = (): number => {
    let [value, shift] = [0, 1];
    for (;;) {
      const byte = bytes[at++] ?? 0;
      value += (byte & 0x7f) * shift;
      if (byte < 0x80) return value;
      shift *= 128;
    }
  };
  while (at < to) {
    const tag = varint();
    if ((tag & 7) === 2) {
      const length = varint();
      yield [tag >>> 3, at, at + length];
      at += length;
    } else if ((tag & 7) === 0) varint();
    else throw new Error(`a field of wire type ${tag & 7} at ${at}`);
  }
}
