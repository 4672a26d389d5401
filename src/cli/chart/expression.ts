/**
 * Expressions of the templates: `.Values.image.tag | default .Chart.AppVersion | quote`. A part of Go's, the one that the
 * chart is written in; whatever else a template says is an error here, not something ignored.
 */
export type Expression =
  | { readonly kind: 'literal'; readonly value: string | number | boolean }
  /** `.a.b` of the current value, or `$.a.b` of the outermost. */
  | { readonly kind: 'field'; readonly from: '.' | '$'; readonly path: readonly string[] }
  | { readonly kind: 'call'; readonly name: string; readonly args: readonly Expression[] };

/** Throws an `Error` that quotes `text`. */
export function parseExpression(text: string): Expression {
  const parser = new Parser(text);
  const expression = parser.pipeline();
  parser.end();
  return expression;
}

class Parser {
  readonly #words: readonly string[];
  #at = 0;

  constructor(readonly text: string) {
    this.#words = [...text.matchAll(WORD)].map(([word]) => word);
    const rest = text.replace(WORD, '').trim();
    if (rest !== '') throw new Error(`"${text}" has ${JSON.stringify(rest)}, which is not understood`);
  }

  /** What stands before a `|` is the last argument of what follows. */
  pipeline(): Expression {
    let value = this.#command();
    while (this.#take('|')) value = this.#command(value);
    return value;
  }

  end(): void {
    if (this.#at < this.#words.length) throw this.#unexpected();
  }

  #command(piped?: Expression): Expression {
    const word = this.#words[this.#at];
    if (word === undefined || !NAME.test(word) || word === 'true' || word === 'false') {
      if (piped !== undefined) throw this.#unexpected();
      return this.#operand();
    }
    this.#at++;
    const args: Expression[] = [];
    while (this.#at < this.#words.length && !['|', ')'].includes(this.#words[this.#at] ?? ''))
      args.push(this.#operand());
    return { kind: 'call', name: word, args: piped === undefined ? args : [...args, piped] };
  }

  #operand(): Expression {
    const word = this.#words[this.#at++];
    if (word === '(') {
      const inner = this.pipeline();
      if (!this.#take(')')) throw this.#unexpected();
      return inner;
    }
    if (word?.startsWith('"')) return { kind: 'literal', value: JSON.parse(word) as string };
    if (word === 'true' || word === 'false') return { kind: 'literal', value: word === 'true' };
    if (word !== undefined && INTEGER.test(word)) return { kind: 'literal', value: Number(word) };
    if (word?.startsWith('.') || word?.startsWith('$')) {
      const from = word.startsWith('$') ? '$' : '.';
      return { kind: 'field', from, path: word.split(/[.$]/).filter((name) => name !== '') };
    }
    this.#at--;
    throw this.#unexpected();
  }

  #take(word: string): boolean {
    if (this.#words[this.#at] !== word) return false;
    this.#at++;
    return true;
  }

  #unexpected(): Error {
    return new Error(`"${this.text}" cannot be read from ${JSON.stringify(this.#words[this.#at] ?? 'its end')} on`);
  }
}

const WORD = /"(?:[^"\\]|\\.)*"|-?\d+|\$(?:\.\w+)*|\.(?:\w+(?:\.\w+)*)?|[a-zA-Z]\w*|[|()]/g;
const NAME = /^[a-zA-Z]\w*$/;
const INTEGER = /^-?\d+$/;
