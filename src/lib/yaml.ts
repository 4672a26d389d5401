import { createRequire } from 'node:module';
import type * as Yaml from 'yaml';
import { err, ok, type Result } from './result.js';

/** YAML and JSON text to plain values and back. The only importer of yaml. */

export interface YamlDocument {
  /** Plain objects, arrays, strings, numbers, booleans and nulls. */
  readonly value: unknown;
  /** Where the document's first value starts, from 1. */
  readonly line: number;
}

/**
 * All documents of a text, in order; empty ones are left out. Error: one sentence for each mistake, with its line.
 * Text that is one JSON object takes a much faster way and means the same.
 */
export function parseYamlDocuments(text: string): Result<readonly YamlDocument[], readonly string[]> {
  const documents: YamlDocument[] = [];
  const problems: string[] = [];
  for (const document of readYamlDocuments(text)) {
    if (document.ok) documents.push(document.value);
    else problems.push(...document.error);
  }
  return problems.length > 0 ? err(problems) : ok(documents);
}

/** The same one document at a time, for those who have other things to do in between. */
export function* readYamlDocuments(text: string): Generator<Result<YamlDocument, readonly string[]>> {
  const json = JSON_OBJECT.test(text) ? parseJson(text) : undefined;
  if (json !== undefined) {
    yield ok({ value: json, line: 1 });
    return;
  }
  const { Composer, LineCounter, Parser } = yaml();
  const lines = new LineCounter();
  // One document at a time: its tree is many times the size of what it says.
  const tokens = new Parser(lines.addNewLine).parse(text);
  for (const document of new Composer({ merge: true, prettyErrors: false }).compose(tokens)) {
    const line = lines.linePos(document.contents?.range?.[0] ?? document.range[0]).line;
    if (document.errors.length > 0) {
      yield err(
        document.errors.map((problem) => {
          const at = lines.linePos(problem.pos[0]);
          return `line ${at.line}, column ${at.col}: ${oneLine(problem.message)}`;
        }),
      );
      continue;
    }
    try {
      const value: unknown = document.toJS({ maxAliasCount: MAX_ALIASES });
      if (value !== null && value !== undefined) yield ok({ value, line });
    } catch (error) {
      yield err([`line ${line}: ${oneLine(error instanceof Error ? error.message : String(error))}`]);
    }
  }
}

/** A text with at most one document; nothing at all is undefined. Error: one sentence for each mistake. */
export function parseYaml(text: string): Result<unknown, readonly string[]> {
  const parsed = parseYamlDocuments(text);
  if (!parsed.ok) return parsed;
  if (parsed.value.length > 1) return err([`line ${parsed.value[1]?.line}: a second document where one is expected`]);
  return ok(parsed.value[0]?.value);
}

/** One document, block style, keys in the order given. */
export function formatYaml(value: unknown): string {
  return yaml().stringify(value, { lineWidth: 0, aliasDuplicateObjects: false });
}

/** Several documents, divided by `---`. */
export function formatYamlDocuments(values: readonly unknown[]): string {
  return values.map(formatYaml).join('---\n');
}

/** Loaded for the first text that is not JSON: a process that reads only JSON goes without its 4 MB. */
function yaml(): typeof Yaml {
  return load('yaml') as typeof Yaml;
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text) as unknown;
  } catch {
    return undefined; // Flow-style YAML, or a mistake that the YAML parser explains better.
  }
}

function oneLine(message: string): string {
  return message.split('\n')[0] ?? message;
}

const load = createRequire(import.meta.url);
const JSON_OBJECT = /^\s*\{/;
/** Against documents that unfold to gigabytes. */
const MAX_ALIASES = 1000;
