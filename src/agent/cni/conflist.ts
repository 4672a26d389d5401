import { isDeepStrictEqual } from 'node:util';
import { err, ok, type Result } from '../../lib/result.js';
import { arrayItems } from './json-spans.js';

/** Our entry of a conflist; what is in it beside the type is read by the plugin (`native/cni/src/config.rs`). */
export interface PluginEntry {
  readonly type: typeof PLUGIN;
  readonly [field: string]: unknown;
}

/**
 * The conflist `text` with `entry` as the last of its plugins, or with our entry brought up to date where it is already.
 * All other bytes stay as they are. Error: what is wrong with the text, as the end of a sentence about the file.
 */
export function withPlugin(text: string, entry: PluginEntry): Result<string> {
  const plugins = pluginsOf(text);
  if (!plugins.ok) return plugins;
  const { spans, values } = plugins.value;
  const ours = values.findIndex(isOurs);
  if (ours < 0) return ok(insertLast(text, spans, JSON.stringify(entry)));
  const { start, end } = spans[ours] as { start: number; end: number };
  const current = isDeepStrictEqual(values[ours], entry);
  const updated = current ? text : text.slice(0, start) + JSON.stringify(entry) + text.slice(end);
  // Two of us would wait for the same answer twice.
  return ok(values.filter(isOurs).length > 1 ? withoutLastOurs(updated, entry) : updated);
}

/** `text` without our entries; what `withPlugin` made becomes byte for byte what it was made from. */
export function withoutPlugin(text: string): Result<string> {
  let rest = text;
  for (;;) {
    const plugins = pluginsOf(rest, false);
    if (!plugins.ok) return plugins;
    const { spans, values } = plugins.value;
    const ours = values.findLastIndex(isOurs);
    if (ours < 0) return ok(rest);
    const [before, own, after] = [spans[ours - 1], spans[ours], spans[ours + 1]];
    const start = before?.end ?? own?.start;
    const end = before === undefined ? (after?.start ?? own?.end) : own?.end;
    rest = rest.slice(0, start) + rest.slice(end);
  }
}

/** Whether the text has our entry; false for what is no conflist. */
export function hasPlugin(text: string): boolean {
  const plugins = pluginsOf(text, false);
  return plugins.ok && plugins.value.values.some(isOurs);
}

/** A conflist of the one network that `text`, a plain configuration, describes, and of our entry. */
export function conflistOf(text: string, entry: PluginEntry): Result<string> {
  const parsed = parseObject(text);
  if (!parsed.ok) return parsed;
  const { cniVersion, name, type } = parsed.value;
  if (typeof type !== 'string') return err('has no plugin type');
  const spoken = checkVersion(cniVersion);
  if (!spoken.ok) return spoken;
  const head = JSON.stringify({ cniVersion, name }).slice(0, -1);
  return ok(`${head},"plugins":[\n${text.trim()},\n${JSON.stringify(entry)}\n]}\n`);
}

function withoutLastOurs(text: string, entry: PluginEntry): string {
  const without = withoutPlugin(text);
  if (!without.ok) return text;
  const again = withPlugin(without.value, entry);
  return again.ok ? again.value : text;
}

/** Behind the last plugin, after the same space that is before it. */
function insertLast(text: string, spans: readonly { start: number; end: number }[], entry: string): string {
  const { start, end } = spans.at(-1) as { start: number; end: number };
  const space = /\s*$/.exec(text.slice(0, start))?.[0] ?? '';
  return `${text.slice(0, end)},${space}${entry}${text.slice(end)}`;
}

interface Plugins {
  readonly spans: readonly { readonly start: number; readonly end: number }[];
  readonly values: readonly unknown[];
}

/** `strict` asks for what an insertion needs; without it all that can be read is taken. */
function pluginsOf(text: string, strict = true): Result<Plugins> {
  const parsed = parseObject(text);
  if (!parsed.ok) return parsed;
  const { plugins, cniVersion } = parsed.value;
  if (!Array.isArray(plugins)) return err('has no list of plugins');
  if (strict) {
    if (plugins.length === 0) return err('has an empty list of plugins');
    const odd = plugins.findIndex((plugin) => typeof plugin?.type !== 'string');
    if (odd >= 0) return err(`has a plugin without a type (number ${odd + 1})`);
    if (plugins.every(isOurs)) return err('has no plugin but ours: nothing would make an interface');
    const spoken = checkVersion(cniVersion);
    if (!spoken.ok) return spoken;
  }
  const spans = arrayItems(text, 'plugins');
  if (spans?.length !== plugins.length) return err('cannot be edited: its plugins are not where they should be');
  return ok({ spans, values: plugins });
}

function parseObject(text: string): Result<Readonly<Record<string, unknown>>> {
  if (text.trim() === '') return err('is empty');
  try {
    const value: unknown = JSON.parse(text);
    if (typeof value !== 'object' || value === null || Array.isArray(value)) return err('is no JSON object');
    return ok(value as Readonly<Record<string, unknown>>);
  } catch (error) {
    return err(`is no JSON: ${error instanceof Error ? error.message : error}`);
  }
}

function checkVersion(version: unknown): Result<void> {
  if (typeof version === 'string' && CNI_VERSIONS.has(version)) return ok(undefined);
  const given = version === undefined ? 'no cniVersion' : `cniVersion ${JSON.stringify(version)}`;
  return err(`has ${given}, and ${PLUGIN} speaks ${[...CNI_VERSIONS].join(', ')}`);
}

function isOurs(plugin: unknown): boolean {
  return typeof plugin === 'object' && plugin !== null && (plugin as { type?: unknown }).type === PLUGIN;
}

/** Name of the plugin's binary. */
export const PLUGIN = 'meltemi-cni';

/** As in `native/cni/src/failure.rs`; older ones know no chains. */
const CNI_VERSIONS: ReadonlySet<string> = new Set(['0.3.0', '0.3.1', '0.4.0', '1.0.0', '1.1.0']);
