/**
 * Takes a list in JSON apart as it arrives, so that it never stands in memory whole: hands on each element of the lists
 * that are fields of the outermost object, and keeps what is around them. Looks at nothing but brackets and quotes.
 */
export class ListSplitter {
  #rest: Buffer = NOTHING;
  readonly #around: string[] = [];
  #depth = 0;
  #inString = false;
  /** Whether the next byte follows a backslash in a string. */
  #isEscaped = false;
  /** Between the brackets of a list that is a field of the outermost object. */
  #inList = false;

  /** `each` is called with the text of one element. */
  constructor(readonly each: (element: string) => void) {}

  push(chunk: Buffer): void {
    const bytes = this.#rest.length === 0 ? chunk : Buffer.concat([this.#rest, chunk]);
    let from = 0;
    for (let at = this.#rest.length; at < bytes.length; at++) {
      if (this.#inString) {
        at = this.#endOfString(bytes, at);
        continue;
      }
      switch (bytes[at]) {
        case QUOTE:
          this.#inString = true;
          break;
        case OPEN_BRACE:
          if (this.#inList && this.#depth === 2) from = at;
          this.#depth++;
          break;
        case OPEN_BRACKET:
          if (++this.#depth !== 2 || this.#inList) break;
          this.#inList = true;
          this.#around.push(bytes.toString('utf8', from, at + 1));
          from = at + 1;
          break;
        case CLOSE_BRACE:
          if (--this.#depth !== 2 || !this.#inList) break;
          this.each(bytes.toString('utf8', from, at + 1));
          from = at + 1;
          break;
        case CLOSE_BRACKET:
          if (--this.#depth !== 1 || !this.#inList) break;
          this.#inList = false;
          from = at;
          break;
      }
    }
    this.#rest = bytes.subarray(from);
  }

  /** The list without its elements, as text. */
  end(): string {
    return this.#around.join('') + this.#rest.toString('utf8');
  }

  /** Where the string that one is in ends; beyond the last byte when that is yet to come. */
  #endOfString(bytes: Buffer, from: number): number {
    let at = this.#isEscaped ? from + 1 : from;
    this.#isEscaped = false;
    for (; at < bytes.length; at++) {
      const byte = bytes[at];
      if (byte === QUOTE) {
        this.#inString = false;
        return at;
      }
      if (byte === BACKSLASH) at++;
    }
    this.#isEscaped = at > bytes.length;
    return at;
  }
}

const NOTHING = Buffer.alloc(0);
const QUOTE = 0x22;
const BACKSLASH = 0x5c;
const OPEN_BRACKET = 0x5b;
const CLOSE_BRACKET = 0x5d;
const OPEN_BRACE = 0x7b;
const CLOSE_BRACE = 0x7d;
