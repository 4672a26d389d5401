/**
 * A table that keeps each row as the bytes it came in and decodes it when used: a mesh of 100,000 workloads costs their
 * bytes, not their object graphs. The last used rows stay decoded. Rows are immutable; a change is a new row.
 */
export class EncodedTable<T> {
  readonly #rows = new Map<string, Row>();
  readonly #decoded = new Map<string, T>();
  #chunk = new Uint8Array(0);
  #used = 0;
  #liveBytes = 0;
  #heldBytes = 0;

  constructor(
    readonly decode: (bytes: Uint8Array) => T,
    readonly decodedRows = 256,
  ) {}

  get size(): number {
    return this.#rows.size;
  }

  /** Bytes of rows, and bytes of the chunks that hold them. */
  get bytes(): { readonly live: number; readonly held: number } {
    return { live: this.#liveBytes, held: this.#heldBytes };
  }

  has(key: string): boolean {
    return this.#rows.has(key);
  }

  keys(): IterableIterator<string> {
    return this.#rows.keys();
  }

  /** The decoded row; shared, so not to be changed. */
  row(key: string): T | undefined {
    const cached = this.#decoded.get(key);
    if (cached !== undefined) return cached;
    const encoded = this.encoded(key);
    if (encoded === undefined) return undefined;
    const value = this.decode(encoded);
    if (this.#decoded.size >= this.decodedRows) this.#decoded.clear();
    this.#decoded.set(key, value);
    return value;
  }

  /** A view, valid until the next change of the table. */
  encoded(key: string): Uint8Array | undefined {
    const row = this.#rows.get(key);
    return row?.chunk.subarray(row.offset, row.offset + row.length);
  }

  /** Copies `bytes`. */
  set(key: string, bytes: Uint8Array): void {
    this.delete(key);
    this.#rows.set(key, this.#store(bytes));
    this.#liveBytes += bytes.length;
    if (this.#heldBytes > 2 * this.#liveBytes + 4 * CHUNK_BYTES) this.#compact();
  }

  delete(key: string): boolean {
    const row = this.#rows.get(key);
    if (row === undefined) return false;
    this.#rows.delete(key);
    this.#decoded.delete(key);
    this.#liveBytes -= row.length;
    return true;
  }

  #store(bytes: Uint8Array): Row {
    if (this.#used + bytes.length > this.#chunk.length) {
      this.#chunk = new Uint8Array(Math.max(CHUNK_BYTES, bytes.length));
      this.#used = 0;
      this.#heldBytes += this.#chunk.length;
    }
    this.#chunk.set(bytes, this.#used);
    const row = { chunk: this.#chunk, offset: this.#used, length: bytes.length };
    this.#used += bytes.length;
    return row;
  }

  /** Moves all rows into fresh chunks; the former are garbage then. */
  #compact(): void {
    this.#chunk = new Uint8Array(0);
    this.#used = 0;
    this.#heldBytes = 0;
    for (const [key, row] of this.#rows) {
      this.#rows.set(key, this.#store(row.chunk.subarray(row.offset, row.offset + row.length)));
    }
  }
}

interface Row {
  readonly chunk: Uint8Array;
  readonly offset: number;
  readonly length: number;
}

const CHUNK_BYTES = 128 * 1024;
