import { deepStrictEqual, strictEqual } from 'node:assert';
import fc from 'fast-check';
import t from 'tap';
import { conflistOf, hasPlugin, PLUGIN, withoutPlugin, withPlugin } from '../../../../src/agent/cni/conflist.js';

const ENTRY = { type: PLUGIN, socket: '/run/meltemi/cni.sock', exemptNamespaces: ['kube-system'] } as const;
const PRETTY = `{
  "cniVersion": "0.3.1",
  "name": "podnet",
  "plugins": [
    {
      "type": "bridge",
      "mtu": 1500.0,
      "ipam": { "type": "host-local", "ranges": [[{ "subnet": "10.1.0.0/24" }]] }
    },
    { "type": "portmap", "capabilities": {"portMappings": true} }
  ],
  "more": 12345678901234567890
}
`;

function ok(result: { ok: boolean }): string {
  const { value, error } = result as { value?: string; error?: string };
  if (value === undefined) throw new Error(error);
  return value;
}

t.test('the entry comes last, on a line of its own where the others have one', async (t) => {
  const text = ok(withPlugin(PRETTY, ENTRY));
  t.equal(
    text,
    PRETTY.replace('{"portMappings": true} }\n', `{"portMappings": true} },\n    ${JSON.stringify(ENTRY)}\n`),
  );
  t.ok(hasPlugin(text));
  t.notOk(hasPlugin(PRETTY));
});

t.test('an entry that is there already is left, brought up to date, or made single', async (t) => {
  const text = ok(withPlugin(PRETTY, ENTRY));
  t.equal(ok(withPlugin(text, ENTRY)), text);
  const reformatted = JSON.stringify(JSON.parse(text), null, 1);
  t.equal(ok(withPlugin(reformatted, ENTRY)), reformatted);
  const changed = ok(withPlugin(text, { ...ENTRY, awaySeconds: 3 }));
  t.equal(JSON.parse(changed).plugins[2].awaySeconds, 3);
  t.equal(ok(withoutPlugin(changed)), PRETTY);
  const twice = text.replace(
    JSON.stringify(ENTRY),
    `${JSON.stringify(ENTRY)}, {"type":"tuning"}, {"type":"${PLUGIN}"}`,
  );
  const types = (conflist: string) => JSON.parse(conflist).plugins.map((plugin: { type: string }) => plugin.type);
  t.same(types(ok(withPlugin(twice, ENTRY))).filter((type: string) => type === PLUGIN).length, 1);
  t.same(types(ok(withoutPlugin(twice))), ['bridge', 'portmap', 'tuning']);
});

t.test('an entry that somebody moved to the front goes, too', async (t) => {
  const front = '{"cniVersion":"1.0.0","plugins":[ {"type":"meltemi-cni"} , {"type":"a"}]}';
  t.equal(ok(withoutPlugin(front)), '{"cniVersion":"1.0.0","plugins":[ {"type":"a"}]}');
  t.equal(ok(withoutPlugin('{"plugins":[{"type":"meltemi-cni"}]}')), '{"plugins":[]}');
});

t.test('what is no conflist is told by its cause', async (t) => {
  const cases: [string, RegExp][] = [
    ['', /^is empty$/],
    ['{"plugins":[', /^is no JSON: /],
    ['[]', /^is no JSON object$/],
    ['{"cniVersion":"1.0.0"}', /^has no list of plugins$/],
    ['{"cniVersion":"1.0.0","plugins":{"type":"a"}}', /^has no list of plugins$/],
    ['{"cniVersion":"1.0.0","plugins":[]}', /^has an empty list of plugins$/],
    ['{"cniVersion":"1.0.0","plugins":[{"type":"a"},null]}', /^has a plugin without a type \(number 2\)$/],
    ['{"cniVersion":"1.0.0","plugins":[{"type":"meltemi-cni"}]}', /^has no plugin but ours/],
    ['{"cniVersion":"0.2.0","plugins":[{"type":"a"}]}', /^has cniVersion "0.2.0", and meltemi-cni speaks 0.3.0, /],
    ['{"plugins":[{"type":"a"}]}', /^has no cniVersion, /],
  ];
  for (const [text, error] of cases) t.match(withPlugin(text, ENTRY), { ok: false, error }, text);
});

t.test('a plain configuration becomes a conflist around it', async (t) => {
  const plain = '\n{"cniVersion":"0.4.0","name":"old","type":"bridge","x":1.0}\n';
  const text = ok(conflistOf(plain, ENTRY));
  t.same(JSON.parse(text), { cniVersion: '0.4.0', name: 'old', plugins: [JSON.parse(plain), ENTRY] });
  t.ok(text.includes(plain.trim()));
  t.match(conflistOf('{"cniVersion":"0.4.0","plugins":[]}', ENTRY), { ok: false, error: 'has no plugin type' });
});

t.test(
  'whatever a conflist holds and however it is written: put in and taken out, it is the same to the byte',
  async () => {
    const space = fc.stringMatching(/^[ \t\r\n]{0,3}$/);
    const json = fc.json({ maxDepth: 3, noUnicodeString: false });
    const plugin = fc.tuple(fc.string(), json, space).map(([type, more, gap]) => {
      const safe = type === PLUGIN ? 'other' : type;
      return `{${gap}"type":${gap}${JSON.stringify(safe)}${gap},"more"${gap}:${more}${gap}}`;
    });
    const plugins = fc
      .tuple(fc.array(plugin, { minLength: 1, maxLength: 4 }), space, space)
      .map(([items, before, after]) => `[${before}${items.join(`${after},${before}`)}${after}]`);
    const others = fc.array(fc.tuple(fc.string(), json), { maxLength: 3 });
    const text = fc.tuple(plugins, others, others, space).map(([list, before, after, gap]) => {
      const members = (pairs: [string, string][]) =>
        pairs
          .filter(([key]) => key !== 'plugins' && key !== 'cniVersion')
          .map(([key, value]) => `${JSON.stringify(key)}${gap}:${value}`);
      const all = [...members(before), `"plugins"${gap}:${gap}${list}`, ...members(after), '"cniVersion":"1.0.0"'];
      return `${gap}{${gap}${all.join(`${gap},`)}${gap}}${gap}`;
    });
    fc.assert(
      fc.property(text, (original) => {
        const put = withPlugin(original, ENTRY);
        if (!put.ok) throw new Error(`${put.error}: ${original}`);
        const [before, after] = [JSON.parse(original), JSON.parse(put.value)];
        deepStrictEqual(after, { ...before, plugins: [...before.plugins, ENTRY] });
        strictEqual(ok(withoutPlugin(put.value)), original);
      }),
      { numRuns: 300 },
    );
  },
);
