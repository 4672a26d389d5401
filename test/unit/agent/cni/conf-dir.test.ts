import { deepStrictEqual } from 'node:assert';
import t from 'tap';
import {
  type ConfFile,
  type Edit,
  isConfName,
  planInstall,
  planUninstall,
} from '../../../../src/agent/cni/conf-dir.js';
import { PLUGIN } from '../../../../src/agent/cni/conflist.js';

const ENTRY = { type: PLUGIN, v: 1 } as const;
const LIST = '{"cniVersion":"1.0.0","name":"n","plugins":[{"type":"bridge"}]}';
const PLAIN = '{"cniVersion":"1.0.0","name":"n","type":"bridge"}';

function files(texts: Readonly<Record<string, string>>): ConfFile[] {
  return Object.entries(texts).map(([name, text]) => ({ name, text }));
}

/** The directory after the edits. */
function apply(before: Readonly<Record<string, string>>, edits: readonly Edit[]): Record<string, string> {
  const after = { ...before };
  for (const edit of edits) {
    if (edit.action === 'remove') delete after[edit.name];
    else after[edit.name] = edit.text;
  }
  return after;
}

function installed(
  before: Readonly<Record<string, string>>,
  entry: typeof ENTRY | { type: typeof PLUGIN; v: number } = ENTRY,
) {
  const plan = planInstall(files(before), entry);
  if (!plan.ok) throw new Error(plan.error);
  const after = apply(before, plan.value);
  const again = planInstall(files(after), entry);
  deepStrictEqual(again, { ok: true, value: [] }, 'a second time there is nothing to do');
  return after;
}

t.test('the first conflist by name gets the entry, and only that', async (t) => {
  const before = { '20-b.conflist': LIST, '10-a.conflist': LIST, '30-c.conf': PLAIN };
  const after = installed(before);
  t.same(JSON.parse(after['10-a.conflist'] ?? '').plugins, [{ type: 'bridge' }, ENTRY]);
  t.same({ ...after, '10-a.conflist': LIST }, before);
});

t.test('a plain configuration stays and is put into a conflist that comes first', async (t) => {
  const before = { '10-a.conf': PLAIN };
  const after = installed(before);
  t.equal(Object.keys(after).sort()[0], '00-meltemi.conflist');
  t.equal(after['10-a.conf'], PLAIN);
  t.equal(Object.keys(installed({ '00-a.conf': PLAIN })).sort()[0], '0-meltemi.conflist');
  t.equal(Object.keys(installed({ '!a.json': PLAIN })).sort()[0], '!-meltemi.conflist');
  t.match(planInstall(files({ ' x.conf': PLAIN }), ENTRY), { ok: false, error: /^ x.conf comes before every name/ });
});

t.test(
  'the conflist of our own follows the plain configuration, and goes when it is not needed any more',
  async (t) => {
    const first = installed({ '10-a.conf': PLAIN });
    const changed = installed({ ...first, '10-a.conf': PLAIN.replace('bridge', 'ptp') });
    t.equal(JSON.parse(changed['00-meltemi.conflist'] ?? '').plugins[0].type, 'ptp');
    const conflist = installed({ ...first, '05-b.conflist': LIST });
    t.same(Object.keys(conflist).sort(), ['05-b.conflist', '10-a.conf']);
    const renamed = installed({ ...first, '00-a.conf': PLAIN });
    t.notOk('00-meltemi.conflist' in renamed);
  },
);

t.test('an entry in a file that is not the first any more stays, and up to date', async (t) => {
  const first = installed({ '10-a.conflist': LIST });
  const after = installed({ ...first, '05-b.conflist': LIST }, { type: PLUGIN, v: 2 });
  for (const name of ['05-b.conflist', '10-a.conflist']) {
    t.same(JSON.parse(after[name] ?? '').plugins.at(-1), { type: PLUGIN, v: 2 }, name);
  }
});

t.test('what is wrong names the file and the cause, and changes nothing', async (t) => {
  t.match(planInstall([], ENTRY), { ok: false, error: /^there is no network configuration yet/ });
  t.match(planInstall(files({ '10-a.conflist': '{', '20-b.conflist': LIST }), ENTRY), {
    ok: false,
    error: /^10-a.conflist is no JSON: /,
  });
  t.match(planInstall(files({ '10-a.conf': LIST }), ENTRY), { ok: false, error: '10-a.conf has no plugin type' });
});

t.test('taking it out restores every file to the byte, also those that it was put into later', async (t) => {
  for (const before of [
    { '10-a.conflist': `${LIST}\n`, '20-b.conflist': LIST },
    { '10-a.conf': PLAIN, '20-b.conflist': LIST },
  ]) {
    const { edits, problems } = planUninstall(files(installed(installed(before))));
    t.same(problems, []);
    t.same(apply(installed(before), edits), before);
  }
  t.same(planUninstall(files({ '10-a.conflist': LIST, '20-b.conf': 'nonsense' })), { edits: [], problems: [] });
  t.match(planUninstall(files({ '10-a.conflist': '{"meltemi-cni"' })).problems, [/^10-a.conflist is no JSON/]);
});

t.test('only files that a runtime reads are looked at', async (t) => {
  const names = ['a.conf', 'a.conflist', 'a.json', 'a.conflist.x.tmp', '.a.conf', 'a.conflist.bak', 'conf'];
  t.same(names.filter(isConfName), ['a.conf', 'a.conflist', 'a.json']);
});
