/**
 * What is to be read of a kind in the API server's protobuf, by field number: name in JSON, and what it is. Anything that
 * is not named here is skipped without being looked at, which is why this costs a fraction of JSON.
 */
export interface Shape {
  readonly [field: number]: readonly [name: string, type: FieldType];
}

export type FieldType =
  | 'string'
  | 'bool'
  | 'int32'
  /** `metav1.Time`; becomes text as in JSON. */
  | 'time'
  /** `map<string, string>` */
  | 'map'
  /** A message. */
  | Shape
  /** A list of messages. */
  | readonly [Shape];

/** The same object as JSON would give, of the fields in `shape`; empty strings, `false` and 0 are left out. */
export function decode(bytes: Buffer, from: number, to: number, shape: Shape): Record<string, unknown> {
  const object: Record<string, unknown> = {};
  const at = new Cursor(bytes, from);
  while (at.offset < to) {
    const tag = at.varint();
    const field = shape[tag >>> 3];
    if ((tag & 7) === 0) {
      const value = at.varint();
      if (field !== undefined && value !== 0) object[field[0]] = field[1] === 'bool' ? true : value;
    } else if ((tag & 7) === 2) {
      const length = at.varint();
      const start = at.offset;
      at.offset += length;
      if (field !== undefined) read(object, field, bytes, start, start + length);
    } else {
      at.skip(tag & 7);
    }
  }
  if (at.offset !== to) throw new Error(`a message ends at ${at.offset} and not at ${to}`);
  return object;
}

function read(
  object: Record<string, unknown>,
  [name, type]: readonly [string, FieldType],
  bytes: Buffer,
  from: number,
  to: number,
): void {
  if (type === 'string') {
    if (from < to) object[name] = bytes.toString('utf8', from, to);
  } else if (type === 'map') {
    const { key = '', value = '' } = decode(bytes, from, to, MAP_ENTRY);
    object[name] ??= {};
    (object[name] as Record<string, unknown>)[key as string] = value;
  } else if (type === 'time') {
    const { seconds = 0 } = decode(bytes, from, to, TIME);
    object[name] = new Date((seconds as number) * 1000).toISOString();
  } else if (Array.isArray(type)) {
    object[name] ??= [];
    (object[name] as unknown[]).push(decode(bytes, from, to, type[0] as Shape));
  } else if (typeof type === 'object') {
    object[name] = decode(bytes, from, to, type as Shape);
  }
}

/** Reads numbers at a place that moves on. */
export class Cursor {
  constructor(
    readonly bytes: Buffer,
    public offset: number,
  ) {}

  /** Up to 2^53. Beyond the last byte: NaN. */
  varint(): number {
    let [value, scale] = [0, 1];
    for (;;) {
      const byte = this.bytes[this.offset++];
      if (byte === undefined) return Number.NaN;
      value += (byte & 0x7f) * scale;
      if (byte < 0x80) return value;
      scale *= 128;
    }
  }

  /** A value of fixed length. */
  skip(wireType: number): void {
    if (wireType !== 1 && wireType !== 5) throw new Error(`wire type ${wireType}`);
    this.offset += wireType === 1 ? 8 : 4;
  }
}

const MAP_ENTRY: Shape = { 1: ['key', 'string'], 2: ['value', 'string'] };
const TIME: Shape = { 1: ['seconds', 'int32'] };
