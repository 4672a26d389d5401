import t from 'tap';
import { formatYaml, formatYamlDocuments, parseYaml, parseYamlDocuments } from '../../../src/lib/yaml.js';

t.test('reads several documents, says where each starts and leaves out the empty ones', async (t) => {
  const parsed = parseYamlDocuments('a: 1\n---\n# nothing\n---\nb: [x, "y"]\n---\n');
  t.same(parsed, {
    ok: true,
    value: [
      { value: { a: 1 }, line: 1 },
      { value: { b: ['x', 'y'] }, line: 5 },
    ],
  });
});

t.test('names line and column of every mistake', async (t) => {
  const parsed = parseYamlDocuments('a: [1\n---\nb: 1\nb: 2\n');
  t.equal(parsed.ok, false);
  if (parsed.ok) return;
  t.ok(parsed.error.length >= 2, parsed.error.join('; '));
  t.match(parsed.error.at(-1), /^line 4, column 1: .*unique/);
});

t.test('reads JSON, also where only YAML would take it', async (t) => {
  t.same(parseYaml('{"a": {"b": [1, null]}}'), { ok: true, value: { a: { b: [1, null] } } });
  t.same(parseYaml('{a: 1}'), { ok: true, value: { a: 1 } });
  t.equal(parseYaml('{"a": ').ok, false);
});

t.test('refuses a second document where one is expected', async (t) => {
  t.same(parseYaml('a: 1\n---\nb: 2\n'), { ok: false, error: ['line 3: a second document where one is expected'] });
  t.same(parseYaml(''), { ok: true, value: undefined });
});

t.test('refuses a document that unfolds without end', async (t) => {
  const rows = ['a: &a [x, x, x, x, x, x, x, x, x]'];
  for (const [from, to] of ['ab', 'bc', 'cd', 'de', 'ef', 'fg'].map((pair) => [...pair])) {
    rows.push(`${to}: &${to} [${Array(9).fill(`*${from}`).join(', ')}]`);
  }
  const parsed = parseYaml(`${rows.join('\n')}\n`);
  t.equal(parsed.ok, false);
});

t.test('does not let a document reach the prototype', async (t) => {
  const parsed = parseYaml('__proto__:\n  polluted: true\n');
  t.equal(({} as Record<string, unknown>).polluted, undefined);
  t.ok(parsed.ok);
});

t.test('writes what it reads', async (t) => {
  const value = { name: 'x', yes: 'true', list: [{ a: 1 }], empty: {} };
  t.same(parseYaml(formatYaml(value)), { ok: true, value });
  const both = parseYamlDocuments(formatYamlDocuments([value, { b: 2 }]));
  t.same(both.ok && both.value.map((d) => d.value), [value, { b: 2 }]);
});
