import { canonicalIp, formatPrefix, parsePrefix } from '../../lib/ip.js';

/**
 * Reads the fields of an untyped object, each with its expected shape, and collects every mistake with its path
 * instead of stopping at the first. A field that is absent, null or wrong yields the empty value of its shape; the
 * caller looks at `problems` once, at the end. Fields nobody asks for are ignored, as the Kubernetes API does.
 */
export class Fields {
  constructor(
    readonly value: Readonly<Record<string, unknown>>,
    readonly path: string,
    readonly problems: string[],
  ) {}

  /** The object under `name`; an empty one when absent. */
  object(name: string): Fields {
    return this.optionalObject(name) ?? new Fields({}, this.pathOf(name), this.problems);
  }

  optionalObject(name: string): Fields | undefined {
    const value = this.#field(name);
    if (value === undefined) return undefined;
    if (isRecord(value)) return new Fields(value, this.pathOf(name), this.problems);
    this.problem(name, `is ${describe(value)} where an object is expected`);
    return undefined;
  }

  /** Each element of a list of objects, read by `read`. */
  objects<T>(name: string, read: (item: Fields) => T): readonly T[] {
    return this.#list(name).flatMap((item, i) => {
      if (isRecord(item)) return [read(new Fields(item, `${this.pathOf(name)}[${i}]`, this.problems))];
      this.problem(`${name}[${i}]`, `is ${describe(item)} where an object is expected`);
      return [];
    });
  }

  string(name: string): string {
    return this.optionalString(name) ?? '';
  }

  requiredString(name: string): string {
    const value = this.string(name);
    if (value === '' && !this.#isWrong(name)) this.problem(name, 'is missing');
    return value;
  }

  optionalString(name: string): string | undefined {
    const value = this.#field(name);
    if (value === undefined || typeof value === 'string') return value;
    this.problem(name, `is ${describe(value)} where a string is expected${quotesHint(value)}`);
    return undefined;
  }

  /** The first of `values` when absent. */
  oneOf<T extends string>(name: string, values: readonly [T, ...T[]]): T {
    const value = this.optionalString(name);
    if (value === undefined || value === '') return values[0];
    const known = values.find((each) => each === value);
    if (known === undefined) this.problem(name, `is ${describe(value)}, none of ${values.join(', ')}`);
    return known ?? values[0];
  }

  boolean(name: string): boolean {
    const value = this.#field(name) ?? false;
    if (typeof value === 'boolean') return value;
    this.problem(name, `is ${describe(value)} where true or false is expected`);
    return false;
  }

  optionalInteger(name: string, min: number, max: number): number | undefined {
    const value = this.#field(name);
    if (value === undefined) return undefined;
    if (typeof value === 'number' && Number.isInteger(value) && value >= min && value <= max) return value;
    this.problem(name, `is ${describe(value)} where a whole number from ${min} to ${max} is expected`);
    return undefined;
  }

  requiredPort(name: string): number {
    const port = this.optionalInteger(name, 1, MAX_PORT);
    if (port === undefined && !this.#isWrong(name)) this.problem(name, 'is missing');
    return port ?? 0;
  }

  strings(name: string): readonly string[] {
    return this.#list(name).flatMap((item, i) => {
      if (typeof item === 'string') return [item];
      this.problem(`${name}[${i}]`, `is ${describe(item)} where a string is expected${quotesHint(item)}`);
      return [];
    });
  }

  /** Labels and annotations: a map of strings. */
  stringMap(name: string): Readonly<Record<string, string>> {
    const map = this.optionalObject(name);
    if (map === undefined) return NOTHING;
    const { value } = map;
    let [isEmpty, isRight] = [true, true];
    for (const key in value) {
      isEmpty = false;
      if (typeof value[key] === 'string') continue;
      isRight = false;
      map.problem(key, `is ${describe(value[key])} where a string is expected${quotesHint(value[key])}`);
    }
    if (isEmpty) return NOTHING;
    const strings = isRight ? value : Object.fromEntries(Object.entries(value).filter(([, each]) => isString(each)));
    return strings as Readonly<Record<string, string>>;
  }

  /** Port numbers by name. */
  portMap(name: string): ReadonlyMap<string, number> {
    const map = this.optionalObject(name);
    const keys = map === undefined ? [] : Object.keys(map.value);
    return new Map(keys.map((key) => [key, map?.optionalInteger(key, 1, MAX_PORT) ?? 0]));
  }

  /** A canonical IP address; undefined when absent or empty. */
  optionalIp(name: string): string | undefined {
    const text = this.optionalString(name);
    if (text === undefined || text === '') return undefined;
    return this.ip(name, text);
  }

  /** The canonical form of `text`, which stands at `name`. */
  ip(name: string, text: string): string | undefined {
    const ip = canonicalIp(text);
    if (ip === undefined) this.problem(name, `is ${describe(text)}, which is no IP address`);
    return ip;
  }

  /** Canonical CIDR blocks; a single address becomes its full-length block. */
  prefixes(name: string): readonly string[] {
    return this.strings(name).flatMap((text, i) => {
      const prefix = parsePrefix(text);
      if (prefix === undefined) {
        this.problem(`${name}[${i}]`, `is ${describe(text)}, neither an IP address nor a CIDR block`);
        return [];
      }
      return [formatPrefix(prefix)];
    });
  }

  /** Milliseconds since the epoch; undefined when absent. */
  optionalTime(name: string): number | undefined {
    const value = this.#field(name);
    if (value === undefined) return undefined;
    const ms = typeof value === 'string' ? Date.parse(value) : Number.NaN;
    if (Number.isNaN(ms))
      this.problem(name, `is ${describe(value)} where a time like 2030-01-31T12:00:00Z is expected`);
    return Number.isNaN(ms) ? undefined : ms;
  }

  /** How many elements the list has; 0 when there is none. */
  count(name: string): number {
    const value = this.#field(name);
    return Array.isArray(value) ? value.length : 0;
  }

  has(name: string): boolean {
    return this.#field(name) !== undefined;
  }

  problem(name: string, what: string): void {
    this.say(`${this.pathOf(name)} ${what}`);
  }

  /** A problem in words of its own. Nobody reads more than the first thousand. */
  say(sentence: string): void {
    if (this.problems.length < MAX_PROBLEMS) this.problems.push(sentence);
  }

  pathOf(name: string): string {
    return this.path === '' ? name : `${this.path}.${name}`;
  }

  /** Null counts as absent; what every object inherits is no field. */
  #field(name: string): unknown {
    return Object.hasOwn(this.value, name) ? (this.value[name] ?? undefined) : undefined;
  }

  #list(name: string): readonly unknown[] {
    const value = this.#field(name);
    if (value === undefined) return [];
    if (!Array.isArray(value)) {
      this.problem(name, `is ${describe(value)} where a list is expected`);
      return [];
    }
    if (value.length > MAX_ELEMENTS) {
      this.problem(name, `has ${value.length} entries, more than ${MAX_ELEMENTS}`);
      return [];
    }
    // Enough is known: the rest would only take time.
    return this.problems.length < MAX_PROBLEMS ? (value as unknown[]) : [];
  }

  /** Asked right after the field was read. */
  #isWrong(name: string): boolean {
    return this.problems.at(-1)?.startsWith(`${this.pathOf(name)} `) === true;
  }
}

export function isRecord(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function isString(value: unknown): value is string {
  return typeof value === 'string';
}

function describe(value: unknown): string {
  if (Array.isArray(value)) return 'a list';
  if (isRecord(value)) return 'an object';
  if (value === null) return 'null';
  return JSON.stringify(typeof value === 'string' ? value.slice(0, MAX_QUOTED) : value);
}

/** YAML's favourite trap. */
function quotesHint(value: unknown): string {
  return typeof value === 'number' || typeof value === 'boolean' ? ` (write "${value}" in quotes)` : '';
}

const NOTHING: Readonly<Record<string, string>> = Object.freeze({});
const MAX_PORT = 65_535;
const MAX_QUOTED = 100;
const MAX_PROBLEMS = 1_000;
const MAX_ELEMENTS = 16_384;
