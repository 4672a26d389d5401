import { createHash } from 'node:crypto';
import { formatYaml } from '../../lib/yaml.js';
import type { Expression } from './expression.js';
import { type Node, parseTemplate, type Template } from './template.js';

/** What templates see as `$`. */
export interface Root {
  readonly Values: unknown;
  readonly Release: { readonly Name: string; readonly Namespace: string };
  readonly Chart: { readonly Name: string; readonly Version: string; readonly AppVersion: string };
}

/** Templates of one chart, which may include what any of them defines. */
export class Templates {
  readonly #templates = new Map<string, Template>();
  readonly #defined = new Map<string, readonly Node[]>();

  /** Throws an `Error` that names the file and the line. */
  constructor(files: ReadonlyMap<string, string>) {
    for (const [name, text] of files) {
      const template = naming(name, () => parseTemplate(text));
      this.#templates.set(name, template);
      for (const [key, nodes] of template.defined) this.#defined.set(key, nodes);
    }
  }

  /** Throws an `Error` that names the file: a value that is not there, a function that is not known. */
  render(name: string, root: Root): string {
    const body = this.#templates.get(name)?.body;
    if (body === undefined) throw new Error(`there is no template ${name}`);
    return naming(name, () => this.#render(body, { dot: root, root }));
  }

  #render(nodes: readonly Node[], scope: Scope): string {
    return nodes.map((node) => this.#one(node, scope)).join('');
  }

  #one(node: Node, scope: Scope): string {
    if (node.kind === 'text') return node.text;
    const value = this.#value(node.of, scope);
    switch (node.kind) {
      case 'value':
        return print(value);
      case 'if':
        return this.#render(isTrue(value) ? node.body : node.otherwise, scope);
      case 'with':
        return isTrue(value) ? this.#render(node.body, { ...scope, dot: value }) : this.#render(node.otherwise, scope);
      case 'range': {
        if (!Array.isArray(value)) throw new Error('range goes over lists only');
        if (value.length === 0) return this.#render(node.otherwise, scope);
        return value.map((dot: unknown) => this.#render(node.body, { ...scope, dot })).join('');
      }
    }
  }

  #value(expression: Expression, scope: Scope): unknown {
    switch (expression.kind) {
      case 'literal':
        return expression.value;
      case 'field':
        return field(expression.from === '$' ? scope.root : scope.dot, expression.path);
      case 'call':
        return this.#call(expression.name, expression.args, scope);
    }
  }

  #call(name: string, args: readonly Expression[], scope: Scope): unknown {
    if (name === 'and' || name === 'or') return this.#firstDeciding(name, args, scope);
    const values = args.map((each) => this.#value(each, scope));
    if (name === 'include') {
      const [key, dot] = values;
      const nodes = this.#defined.get(String(key));
      if (nodes === undefined) throw new Error(`nothing defines ${JSON.stringify(key)}`);
      return this.#render(nodes, { dot, root: dot });
    }
    const known = FUNCTIONS[name];
    if (known === undefined) throw new Error(`the function ${name} is not one that meltemi knows`);
    return known(...values);
  }

  /** Go's: the operand that decides, not a truth value; what follows it is not looked at. */
  #firstDeciding(name: 'and' | 'or', args: readonly Expression[], scope: Scope): unknown {
    let value: unknown;
    for (const each of args) {
      value = this.#value(each, scope);
      if (isTrue(value) === (name === 'or')) return value;
    }
    return value;
  }
}

interface Scope {
  readonly dot: unknown;
  readonly root: unknown;
}

/** Helm's, for what the chart uses. */
const FUNCTIONS: Readonly<Record<string, (...args: readonly unknown[]) => unknown>> = {
  not: (value) => !isTrue(value),
  eq: (value, ...others) => others.includes(value),
  ne: (value, other) => value !== other,
  default: (fallback, value) => (isTrue(value) ? value : fallback),
  int: (value) => Math.trunc(Number(value)),
  add: (...values) => values.reduce<number>((sum, value) => sum + Math.trunc(Number(value)), 0),
  quote: (value) => JSON.stringify(print(value)),
  toYaml: (value) => formatYaml(value).trimEnd(),
  toJson: (value) => json(value),
  indent: (width, text) => indent(Number(width), String(text)),
  nindent: (width, text) => `\n${indent(Number(width), String(text))}`,
  sha256sum: (text) => createHash('sha256').update(String(text)).digest('hex'),
  append: (list, value) => [...(list as readonly unknown[]), value],
  fail: (message) => {
    throw new Error(String(message));
  },
};

function field(from: unknown, path: readonly string[]): unknown {
  let value = from;
  for (const name of path) {
    if (value === null || typeof value !== 'object' || !(name in value)) {
      throw new Error(`there is no .${path.join('.')}`);
    }
    value = (value as Record<string, unknown>)[name];
  }
  return value;
}

/** Go's idea of it: zero, nothing and what is empty are not. */
function isTrue(value: unknown): boolean {
  if (Array.isArray(value)) return value.length > 0;
  if (value !== null && typeof value === 'object') return Object.keys(value).length > 0;
  return Boolean(value);
}

function print(value: unknown): string {
  if (value === null || value === undefined) return '';
  if (typeof value === 'object') throw new Error('a list or an object is printed with toYaml only');
  return String(value);
}

/** As Go writes it: names in order, and nothing that a page of HTML could take for its own. */
function json(value: unknown): string {
  const text = JSON.stringify(value, (_, each: unknown) =>
    each !== null && typeof each === 'object' && !Array.isArray(each)
      ? Object.fromEntries(Object.entries(each).sort(([a], [b]) => (a < b ? -1 : 1)))
      : each,
  );
  return text.replaceAll(/[<>&\u2028\u2029]/g, (letter) => `\\u${letter.charCodeAt(0).toString(16).padStart(4, '0')}`);
}

function indent(width: number, text: string): string {
  return text.replaceAll(/^/gm, ' '.repeat(width));
}

function naming<T>(name: string, work: () => T): T {
  try {
    return work();
  } catch (error) {
    throw new Error(`${name}: ${error instanceof Error ? error.message : String(error)}`);
  }
}
