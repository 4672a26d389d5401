import { type Expression, parseExpression } from './expression.js';

/** A parsed template. */
export type Node =
  | { readonly kind: 'text'; readonly text: string }
  | { readonly kind: 'value'; readonly of: Expression }
  | {
      readonly kind: 'if' | 'with' | 'range';
      readonly of: Expression;
      readonly body: readonly Node[];
      readonly otherwise: readonly Node[];
    };

export interface Template {
  readonly body: readonly Node[];
  /** What `define` names, for `include`. */
  readonly defined: ReadonlyMap<string, readonly Node[]>;
}

/** Error: an `Error` with the line where something is not understood. */
export function parseTemplate(text: string): Template {
  const defined = new Map<string, readonly Node[]>();
  const reader = new Reader(tokens(text), defined);
  const body = reader.nodes([]);
  return { body, defined };
}

class Reader {
  #at = 0;

  constructor(
    readonly all: readonly Token[],
    readonly defined: Map<string, readonly Node[]>,
  ) {}

  /** Up to one of `ends`, which stays; without ends, everything. */
  nodes(ends: readonly string[]): Node[] {
    const nodes: Node[] = [];
    for (;;) {
      const token = this.all[this.#at];
      if (token === undefined) {
        if (ends.length > 0) throw new Error(`a block is not closed: ${ends.join(' or ')} is missing`);
        return nodes;
      }
      const { text, action, rest, line } = token;
      if (ends.includes(action)) return nodes;
      this.#at++;
      if (text !== '') nodes.push({ kind: 'text', text });
      else {
        const node = within(line, () => this.#node(action, rest));
        if (node !== undefined) nodes.push(node);
      }
    }
  }

  #node(action: string, rest: string): Node | undefined {
    switch (action) {
      case '':
        return undefined;
      case 'value':
        return { kind: 'value', of: parseExpression(rest) };
      case 'if':
      case 'with':
      case 'range':
        return { kind: action, of: parseExpression(rest), body: this.nodes(['else', 'end']), otherwise: this.#else() };
      case 'define':
        this.defined.set(JSON.parse(rest) as string, this.nodes(['end']));
        this.#at++;
        return undefined;
      default:
        throw new Error(`"${action}" has no block that it belongs to`);
    }
  }

  /** `{{ else }}`, `{{ else if … }}`, and what closes them all. */
  #else(): readonly Node[] {
    const token = this.all[this.#at++];
    if (token?.action !== 'else') return [];
    if (token.rest.startsWith('if ')) {
      const of = parseExpression(token.rest.slice(3));
      return [{ kind: 'if', of, body: this.nodes(['else', 'end']), otherwise: this.#else() }];
    }
    const nodes = this.nodes(['end']);
    this.#at++;
    return nodes;
  }
}

interface Token {
  readonly text: string;
  /** Empty for text and comments. */
  readonly action: string;
  readonly rest: string;
  readonly line: number;
}

/** Text and actions in turn; `{{-` and `-}}` take the white space before and after them along. */
function tokens(text: string): readonly Token[] {
  const found: Token[] = [];
  let from = 0;
  let trimNext = false;
  const addText = (raw: string, trimEnd: boolean): void => {
    const start = trimNext ? raw.trimStart() : raw;
    const trimmed = trimEnd ? start.trimEnd() : start;
    if (trimmed !== '') found.push({ text: trimmed, action: '', rest: '', line: 0 });
  };
  for (const match of text.matchAll(ACTION)) {
    const [whole, before = '', comment, inside = '', after = ''] = match;
    addText(text.slice(from, match.index), before !== '');
    trimNext = after !== '';
    from = match.index + whole.length;
    if (comment !== undefined) continue;
    const line = text.slice(0, match.index).split('\n').length;
    const [, keyword, rest] = /^(if|with|range|define|else|end)\b\s*(.*)$/s.exec(inside) ?? [];
    found.push({
      text: '',
      action: keyword ?? 'value',
      rest: (keyword === undefined ? inside : (rest ?? '')).trim(),
      line,
    });
  }
  addText(text.slice(from), false);
  return found;
}

function within<T>(line: number, work: () => T): T {
  try {
    return work();
  } catch (error) {
    const message = error instanceof Error ? error.message : String(error);
    throw new Error(message.startsWith('line ') ? message : `line ${line}: ${message}`);
  }
}

const ACTION = /\{\{(- )?\s*(?:(\/\*.*?\*\/)|(.*?))\s*( -)?\}\}/gs;
