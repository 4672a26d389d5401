import { Cursor, decode, type Shape } from './protobuf-shape.js';

/**
 * Takes a list in the API server's protobuf apart as it arrives: `k8s\0`, then a `runtime.Unknown` whose field 2 is the
 * list, whose field 1 is its metadata and field 2 an item.
 */
export class ProtobufSplitter {
  #rest: Buffer = NOTHING;
  /** Before the envelope's magic, in the envelope, in the list. */
  #within: 'nothing' | 'envelope' | 'list' = 'nothing';
  /** Of the list, from the start; and of what has been read. */
  #endOfList = 0;
  #consumed = 0;
  resourceVersion = '';

  constructor(
    readonly shape: Shape,
    readonly each: (object: Record<string, unknown>) => void,
  ) {}

  /** Throws what it is that makes no sense. */
  push(chunk: Buffer): void {
    const bytes = this.#rest.length === 0 ? chunk : Buffer.concat([this.#rest, chunk]);
    let from = 0;
    if (this.#within === 'nothing') {
      if (bytes.length < MAGIC.length) {
        this.#rest = bytes;
        return;
      }
      if (!bytes.subarray(0, MAGIC.length).equals(MAGIC))
        throw new Error('it does not start as the API server’s protobuf');
      this.#within = 'envelope';
      from = MAGIC.length;
    }
    for (let next = this.#field(bytes, from); next > from; next = this.#field(bytes, from)) from = next;
    this.#rest = bytes.subarray(from);
    this.#consumed += from;
  }

  /** Throws when it broke off. */
  end(): void {
    if (this.#within !== 'list' || this.#consumed < this.#endOfList || this.#rest.length > 0)
      throw new Error('it is not complete');
  }

  /** Reads one field if all of it is there. Returns where the next one starts. */
  #field(bytes: Buffer, from: number): number {
    const at = new Cursor(bytes, from);
    const tag = at.varint();
    const length = at.varint();
    if (Number.isNaN(length)) return from;
    if ((tag & 7) !== 2) return (tag & 7) === 0 ? at.offset : from;
    if (this.#within === 'envelope' && tag >>> 3 === 2) {
      this.#within = 'list';
      this.#endOfList = this.#consumed + at.offset + length;
      return at.offset;
    }
    const end = at.offset + length;
    if (end > bytes.length) return from;
    if (this.#within === 'list' && tag >>> 3 === 1) {
      const { resourceVersion = '' } = decode(bytes, at.offset, end, LIST_META);
      if (this.resourceVersion === '') this.resourceVersion = resourceVersion as string;
    } else if (this.#within === 'list' && tag >>> 3 === 2) {
      this.each(decode(bytes, at.offset, end, this.shape));
    }
    return end;
  }
}

const NOTHING = Buffer.alloc(0);
const MAGIC = Buffer.from('k8s\0');
const LIST_META: Shape = { 2: ['resourceVersion', 'string'] };
