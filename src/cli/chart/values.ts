import { Ajv } from 'ajv';
import { parseYaml } from '../../lib/yaml.js';

/** What an installation chooses, in the shape of the chart's values.yaml. */
export type Values = Readonly<Record<string, unknown>>;

/** `over` on top of `under`, as Helm does it: objects are merged, anything else is replaced, null takes a value away. */
export function mergeValues(under: Values, over: Values): Values {
  const merged: Record<string, unknown> = { ...under };
  for (const [name, value] of Object.entries(over)) {
    const former = merged[name];
    if (value === null) delete merged[name];
    else merged[name] = isObject(former) && isObject(value) ? mergeValues(former, value) : value;
  }
  return merged;
}

/** Throws an `Error` with a line for each mistake. */
export function checkValues(schema: object, values: Values): void {
  const check = new Ajv({ allErrors: true, strict: false }).compile(schema);
  if (check(values)) return;
  const lines = (check.errors ?? []).map(({ instancePath, message, params }) => {
    const where = instancePath.slice(1).replaceAll('/', '.') || 'the values';
    const { additionalProperty, allowedValues } = params as { additionalProperty?: string; allowedValues?: unknown[] };
    const more = additionalProperty ?? allowedValues?.join(', ');
    return `  ${where} ${message}${more === undefined ? '' : `: ${more}`}`;
  });
  throw new Error(`the values are not those of this chart:\n${lines.join('\n')}`);
}

/**
 * `--set a.b=c`, as Helm reads it: `true`, `false`, `null` and whole numbers are what they look like, `{a,b}` is a list,
 * anything else a string. A backslash takes the next dot or comma as it is. Throws an `Error` that quotes `text`.
 */
export function parseSet(text: string): Values {
  return parts(text, ',').reduce<Values>((values, assignment) => {
    const equals = assignment.indexOf('=');
    if (equals < 1) throw new Error(`--set ${text}: it is written NAME=VALUE`);
    const path = parts(assignment.slice(0, equals), '.').map(unescaped);
    if (path.some((name) => name === '' || name.includes('['))) {
      throw new Error(`--set ${text}: ${assignment.slice(0, equals)} is not understood; use --values FILE`);
    }
    const value = setValue(assignment.slice(equals + 1));
    return mergeSet(values, path.reduceRight<unknown>((inner, name) => ({ [name]: inner }), value) as Values);
  }, {});
}

/** A values file, `--values FILE`. Throws an `Error` that names it. */
export function parseValues(path: string, text: string): Values {
  const parsed = parseYaml(text);
  if (!parsed.ok) throw new Error(`${path}: ${parsed.error.join('; ')}`);
  if (parsed.value === undefined) return {};
  if (!isObject(parsed.value)) throw new Error(`${path}: it holds no object`);
  return parsed.value;
}

/** Like `mergeValues`, but null stays: it still has a default to take away. */
export function mergeSet(under: Values, over: Values): Values {
  const merged: Record<string, unknown> = { ...under };
  for (const [name, value] of Object.entries(over)) {
    const former = merged[name];
    merged[name] = isObject(former) && isObject(value) ? mergeSet(former, value) : value;
  }
  return merged;
}

function setValue(text: string): unknown {
  const list = /^\{(.*)\}$/s.exec(text)?.[1];
  if (list !== undefined) return list === '' ? [] : parts(list, ',').map(setValue);
  if (text === 'true' || text === 'false') return text === 'true';
  if (text === 'null') return null;
  return /^(0|-?[1-9]\d*)$/.test(text) ? Number(text) : unescaped(text);
}

/** Split where `separator` is neither escaped nor inside braces. */
function parts(text: string, separator: string): readonly string[] {
  const found: string[] = [''];
  let depth = 0;
  for (let at = 0; at < text.length; at++) {
    const letter = text[at] ?? '';
    if (letter === '\\') found.push(`${found.pop()}${letter}${text[++at] ?? ''}`);
    else if (letter === separator && depth === 0) found.push('');
    else {
      if (letter === '{') depth++;
      if (letter === '}') depth--;
      found.push(`${found.pop()}${letter}`);
    }
  }
  return found;
}

function unescaped(text: string): string {
  return text.replaceAll(/\\(.)/gs, '$1');
}

function isObject(value: unknown): value is Values {
  return value !== null && typeof value === 'object' && !Array.isArray(value);
}
