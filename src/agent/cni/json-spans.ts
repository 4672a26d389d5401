/** Where something lies in a text: from `start` up to, not including, `end`. */
export interface Span {
  readonly start: number;
  readonly end: number;
}

/**
 * Where the items of the array lie that is the member `key` of the one object of `text`: for edits that leave everything
 * else as it was written. `text` must be good JSON. Undefined when it is no object or has no such array; with the member
 * given twice the last one counts, as for everybody who parses JSON.
 */
export function arrayItems(text: string, key: string): readonly Span[] | undefined {
  const start = afterSpace(text, 0);
  if (text[start] !== '{') return undefined;
  let found: readonly Span[] | undefined;
  for (const member of itemsIn(text, start)) {
    const name = endOfValue(text, member.start);
    const value = afterSpace(text, afterSpace(text, name) + 1);
    if (JSON.parse(text.slice(member.start, name)) === key) {
      found = text[value] === '[' ? itemsIn(text, value) : undefined;
    }
  }
  return found;
}

/** What is between the commas of the object or array that opens at `open`, without the space around. */
function itemsIn(text: string, open: number): Span[] {
  const items: Span[] = [];
  let at = afterSpace(text, open + 1);
  while (text[at] !== ']' && text[at] !== '}' && at < text.length) {
    const start = at;
    let end = endOfValue(text, at);
    at = afterSpace(text, end);
    if (text[at] === ':') {
      end = endOfValue(text, afterSpace(text, at + 1));
      at = afterSpace(text, end);
    }
    items.push({ start, end });
    if (text[at] === ',') at = afterSpace(text, at + 1);
  }
  return items;
}

function endOfValue(text: string, start: number): number {
  const first = text[start];
  if (first === '"') return endOfString(text, start);
  if (first !== '{' && first !== '[') return endOfWord(text, start);
  let depth = 0;
  let at = start;
  do {
    const character = text[at];
    if (character === '"') {
      at = endOfString(text, at);
      continue;
    }
    if (character === '{' || character === '[') depth += 1;
    if (character === '}' || character === ']') depth -= 1;
    at += 1;
  } while (depth > 0 && at < text.length);
  return at;
}

function endOfString(text: string, start: number): number {
  let at = start + 1;
  while (at < text.length && text[at] !== '"') at += text[at] === '\\' ? 2 : 1;
  return at + 1;
}

function endOfWord(text: string, start: number): number {
  let at = start;
  while (at < text.length && !ENDS_WORD.has(text[at] as string)) at += 1;
  return at;
}

function afterSpace(text: string, start: number): number {
  let at = start;
  while (SPACE.has(text[at] as string)) at += 1;
  return at;
}

const SPACE: ReadonlySet<string> = new Set([' ', '\t', '\n', '\r']);
const ENDS_WORD: ReadonlySet<string> = new Set([...SPACE, ',', ']', '}', ':']);
