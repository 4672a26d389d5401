import { pino } from 'pino';

/** Structured logging, one JSON object a line on standard error. The only importer of pino. */

export type LogLevel = 'trace' | 'debug' | 'info' | 'warn' | 'error' | 'fatal' | 'silent';

/** `log.info('started')` or `log.info({ port }, 'listening')`. Field names are ours, never a user's. */
export interface LogMethod {
  (message: string): void;
  (fields: object, message: string): void;
}

/** A scope's voice. Children carry more fields and follow the level of their scope, also when it changes later. */
export interface Logger {
  readonly trace: LogMethod;
  readonly debug: LogMethod;
  readonly info: LogMethod;
  readonly warn: LogMethod;
  readonly error: LogMethod;
  readonly fatal: LogMethod;
  /** For fields that cost something to make. */
  enabled(level: LogLevel): boolean;
  child(fields: object): Logger;
}

/** The logger of a scope (a room or a part of it: `xds`, `ca`, `enroll`). Same scope, same level. */
export function logger(scope: string): Logger {
  return new ScopedLogger(root.child({ scope }), scopeLevel(scope));
}

/** Sets the level of one scope, or of every scope present and future. Error: an unknown level, named. */
export function setLevel(level: string, scope?: string): void {
  if (!isLogLevel(level)) throw new Error(`log level ${JSON.stringify(level)} is none of ${LEVELS.join(', ')}`);
  if (scope !== undefined) {
    scopeLevel(scope).level = level;
    return;
  }
  defaultLevel = level;
  for (const each of scopes.values()) each.level = level;
}

/** Level of each scope that exists; `default` is that of scopes yet to come. */
export function levels(): Readonly<Record<string, LogLevel>> {
  return Object.fromEntries([['default', defaultLevel], ...[...scopes].map(([name, { level }]) => [name, level])]);
}

export function isLogLevel(text: string): text is LogLevel {
  return (LEVELS as readonly string[]).includes(text);
}

/** Sends every line elsewhere, for a process that logs to a file, and for tests that read their log. */
export function setLogSink(write: (line: string) => void): void {
  sink = write;
}

class ScopedLogger implements Logger {
  readonly trace = this.#method('trace');
  readonly debug = this.#method('debug');
  readonly info = this.#method('info');
  readonly warn = this.#method('warn');
  readonly error = this.#method('error');
  readonly fatal = this.#method('fatal');

  constructor(
    readonly inner: pino.Logger,
    readonly scope: { level: LogLevel },
  ) {}

  enabled(level: LogLevel): boolean {
    return LEVELS.indexOf(level) >= LEVELS.indexOf(this.scope.level);
  }

  child(fields: object): Logger {
    return new ScopedLogger(this.inner.child(fields), this.scope);
  }

  #method(level: Exclude<LogLevel, 'silent'>): LogMethod {
    return (fieldsOrMessage: object | string, message?: string) => {
      if (!this.enabled(level)) return;
      if (typeof fieldsOrMessage === 'string') this.inner[level](fieldsOrMessage);
      else this.inner[level](fieldsOrMessage, message);
    };
  }
}

function scopeLevel(scope: string): { level: LogLevel } {
  const known = scopes.get(scope);
  if (known !== undefined) return known;
  const made = { level: defaultLevel };
  scopes.set(scope, made);
  return made;
}

const LEVELS = ['trace', 'debug', 'info', 'warn', 'error', 'fatal', 'silent'] as const;

let defaultLevel: LogLevel = 'info';
const scopes = new Map<string, { level: LogLevel }>();

const standardError = pino.destination({ dest: 2, sync: true });
let sink = (line: string): void => {
  standardError.write(line);
};

const root = pino(
  {
    // The scopes decide; pino itself lets everything through.
    level: 'trace',
    base: null,
    timestamp: pino.stdTimeFunctions.isoTime,
    formatters: { level: (label) => ({ level: label }) },
    serializers: { error: pino.stdSerializers.err },
    redact: { paths: ['token', 'authorization', 'key', '*.token', '*.authorization'], censor: '[redacted]' },
  },
  { write: (line) => sink(line) },
);
