import type { Fields } from './fields.js';

/** The lists of an AuthorizationPolicy: each element is held to what it stands for, and to not being empty. */

/** Strings with something in them. */
export function texts(fields: Fields, name: string): readonly string[] {
  return fields.strings(name).filter((text, i) => {
    if (text === '') fields.problem(`${name}[${i}]`, 'is empty: it would match nothing');
    return text !== '';
  });
}

/** `name`, or `namespace/name`. */
export function serviceAccounts(fields: Fields, name: string): readonly string[] {
  const accounts = texts(fields, name);
  if (accounts.length > MAX_SERVICE_ACCOUNTS) {
    fields.problem(name, `has ${accounts.length} entries, more than ${MAX_SERVICE_ACCOUNTS}`);
    return [];
  }
  accounts.forEach((account, i) => {
    if (account.includes('*'))
      fields.problem(`${name}[${i}]`, `is ${JSON.stringify(account)}: a * is not understood here`);
    else if (!SERVICE_ACCOUNT.test(account) || account.length > MAX_SERVICE_ACCOUNT_LENGTH)
      fields.problem(`${name}[${i}]`, `is ${quote(account)}, neither NAME nor NAMESPACE/NAME`);
  });
  return accounts;
}

/** With a `*` at the start or at the end at most, and no slash. */
export function trustDomains(fields: Fields, name: string): readonly string[] {
  const domains = patterns(fields, name);
  domains.forEach((domain, i) => {
    if (domain.includes('/')) fields.problem(`${name}[${i}]`, `is ${quote(domain)}: a trust domain has no slash`);
  });
  return domains;
}

/** Texts with one `*` at most, at the start or at the end. */
export function patterns(fields: Fields, name: string): readonly string[] {
  const all = texts(fields, name);
  all.forEach((text, i) => {
    if (text.slice(1, -1).includes('*') || (text.length > 1 && text.startsWith('*') && text.endsWith('*')))
      fields.problem(`${name}[${i}]`, `is ${quote(text)}: a * is understood at the start or at the end only`);
  });
  return all;
}

/** URL paths; of templates, `{*}` is one segment and `{**}`, which must be the last of them, any number. */
export function paths(fields: Fields, name: string): readonly string[] {
  const all = texts(fields, name);
  all.forEach((path, i) => {
    const why = pathProblem(path);
    if (why !== undefined) fields.problem(`${name}[${i}]`, `is ${quote(path)}: ${why}`);
  });
  return all;
}

function pathProblem(path: string): string | undefined {
  const segments = path.replace(/^\/+|\/+$/g, '').split('/');
  const isTemplate = path.includes('{*}') || path.includes('{**}');
  const rest = segments.indexOf('{**}');
  if (rest >= 0 && segments.slice(rest + 1).some((segment) => segment === '{*}' || segment === '{**}'))
    return '{**} must be the last template in it';
  for (const segment of segments) {
    if (segment === '{*}' || segment === '{**}') continue;
    if (/[{}]/.test(segment)) return 'braces are understood as a whole segment {*} or {**} only';
    if (isTemplate && !PATH_LITERAL.test(segment)) return `${quote(segment)} cannot stand in a template`;
  }
  return undefined;
}

/** Ports are written as strings here, and 0 is one. */
export function portTexts(fields: Fields, name: string): readonly number[] {
  return fields.strings(name).flatMap((text, i) => {
    const port = parsePort(text);
    if (port === undefined) fields.problem(`${name}[${i}]`, `is ${quote(text)}, which is no port from 0 to 65535`);
    return port === undefined ? [] : [port];
  });
}

export function parsePort(text: string): number | undefined {
  const port = /^\d{1,5}$/.test(text) ? Number(text) : Number.NaN;
  return port <= 65_535 ? port : undefined;
}

/**
 * Whether Istio knows `key` as an attribute of a connection or request; otherwise what is wrong with it. `request.headers`
 * and its like name one of many in brackets.
 */
export function attributeProblem(key: string): string | undefined {
  if (ATTRIBUTES.has(key)) return undefined;
  const replaced = REPLACED.find(([name]) => key === name || key.startsWith(`${name}[`));
  if (replaced !== undefined) return replaced[1];
  if (OF_MANY.some((name) => key.startsWith(name)))
    return /^[^[]+\[.+\]$/.test(key) ? undefined : 'names one of many: write it with its name in brackets, a[b]';
  return `is no attribute: there are ${[...ATTRIBUTES, 'request.headers[NAME]', 'request.auth.claims[NAME]'].join(', ')}`;
}

function quote(text: string): string {
  return JSON.stringify(text.slice(0, MAX_QUOTED));
}

const MAX_QUOTED = 100;
const MAX_SERVICE_ACCOUNTS = 16;
const MAX_SERVICE_ACCOUNT_LENGTH = 320;
const SERVICE_ACCOUNT = /^[^/]+(?:\/[^/]+)?$/;
/** RFC 3986, pchar. */
const PATH_LITERAL = /^[a-zA-Z0-9\-._~%!$&'()+,;:@=]+$/;
const ATTRIBUTES: ReadonlySet<string> = new Set([
  'source.ip',
  'remote.ip',
  'source.namespace',
  'source.principal',
  'source.serviceAccount',
  'source.trustDomain',
  'request.auth.principal',
  'request.auth.audiences',
  'request.auth.presenter',
  'destination.ip',
  'destination.port',
  'connection.sni',
]);
const OF_MANY = ['request.headers', 'request.auth.claims', 'experimental.envoy.filters.'];
const REPLACED: readonly (readonly [string, string])[] = [
  ['destination.namespace', 'is no attribute any more: a policy holds for its own namespace'],
  ['destination.labels', 'is no attribute any more: use the selector'],
  ['destination.name', 'is no attribute any more: use the selector'],
  ['destination.user', 'is no attribute any more: use the selector'],
];
