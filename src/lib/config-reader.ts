/**
 * Reads a plain object (of a configuration file) field by field and collects everything that is wrong with it: a field
 * of the wrong kind, a missing one, and, at the end, keys that nobody asked for.
 */
export class ConfigReader {
  readonly #fields: Readonly<Record<string, unknown>>;
  readonly #asked = new Set<string>();
  readonly problems: string[];

  constructor(
    value: unknown,
    readonly path = '',
    problems: string[] = [],
  ) {
    this.problems = problems;
    const isObject = typeof value === 'object' && value !== null && !Array.isArray(value);
    if (!isObject) problems.push(`${path === '' ? 'the file' : path} is no object`);
    this.#fields = isObject ? (value as Readonly<Record<string, unknown>>) : {};
  }

  /** Without a fallback the field must be there and not empty. */
  text(name: string, fallback?: string): string {
    const value = this.#take(name);
    if (value === undefined && fallback !== undefined) return fallback;
    if (typeof value === 'string' && (value !== '' || fallback !== undefined)) return value;
    this.#wrong(name, value, 'a string');
    return '';
  }

  number(name: string, fallback: number, min = 0, max = Number.MAX_SAFE_INTEGER): number {
    const value = this.#take(name);
    if (value === undefined) return fallback;
    if (typeof value === 'number' && Number.isFinite(value) && value >= min && value <= max) return value;
    this.#wrong(name, value, `a number from ${min} to ${max}`);
    return fallback;
  }

  port(name: string, fallback: number): number {
    const value = this.number(name, fallback, 0, 65535);
    if (!Number.isInteger(value)) this.#wrong(name, value, 'a port');
    return value;
  }

  flag(name: string, fallback: boolean): boolean {
    const value = this.#take(name);
    if (value === undefined) return fallback;
    if (typeof value === 'boolean') return value;
    this.#wrong(name, value, 'true or false');
    return fallback;
  }

  texts(name: string): readonly string[] {
    const value = this.#take(name);
    if (value === undefined) return [];
    if (Array.isArray(value) && value.every((each) => typeof each === 'string')) return value;
    this.#wrong(name, value, 'a list of strings');
    return [];
  }

  /** A nested object; its fields are all optional when it is missing. */
  object(name: string): ConfigReader {
    return new ConfigReader(this.#take(name) ?? {}, this.#at(name), this.problems);
  }

  /** A list of objects, each to be read and ended on its own. */
  objects(name: string): readonly ConfigReader[] {
    const value = this.#take(name) ?? [];
    if (!Array.isArray(value)) this.#wrong(name, value, 'a list of objects');
    const items: readonly unknown[] = Array.isArray(value) ? value : [];
    return items.map((each, i) => new ConfigReader(each, `${this.#at(name)}[${i}]`, this.problems));
  }

  /** The names of all fields, for an object whose keys are known elsewhere. */
  names(): string[] {
    return Object.keys(this.#fields);
  }

  /** Adds what is left over to `problems`. */
  end(): void {
    for (const name of Object.keys(this.#fields)) {
      if (this.#asked.has(name)) continue;
      this.problems.push(`${this.#at(name)} is no setting; there are ${[...this.#asked].sort().join(', ')}`);
    }
  }

  #take(name: string): unknown {
    this.#asked.add(name);
    return this.#fields[name] ?? undefined;
  }

  #wrong(name: string, value: unknown, wanted: string): void {
    const found = value === undefined ? 'missing' : JSON.stringify(value);
    this.problems.push(`${this.#at(name)} is ${found}, not ${wanted}`);
  }

  #at(name: string): string {
    return this.path === '' ? name : `${this.path}.${name}`;
  }
}
