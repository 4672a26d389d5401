import t from 'tap';
import { parseManifest, parseManifestInSlices } from '../../../../../src/control/inputs/directory/manifest.js';

const many = Array.from(
  { length: 2000 },
  (_, i) => `apiVersion: v1\nkind: Pod\nmetadata: { name: pod-${i} }\nspec: { nodeName: node-1 }\n`,
).join('---\n');

t.test('a large file is parsed in slices, to the same end', async (t) => {
  let turns = 0;
  let parsing = true;
  const others = () => {
    turns++;
    if (parsing) setImmediate(others);
  };
  setImmediate(others);
  const sliced = await parseManifestInSlices(Buffer.from(many));
  parsing = false;
  t.ok(turns > 3, `others had ${turns} turns`);
  t.same(sliced, parseManifest(Buffer.from(many)));
  t.ok(sliced.ok && sliced.value.objects.length === 2000);
});

t.test('both ways name everything that is wrong, document by document', async (t) => {
  const text = 'a: [1\n---\nkind: Pod\napiVersion: v1\n---\n!!binary x\n---\nkind: List\nitems: [1]\n';
  const outcome = parseManifest(Buffer.from(text));
  t.equal(outcome.ok, false);
  t.same(outcome, await parseManifestInSlices(Buffer.from(text)));
  const problems = outcome.ok ? [] : outcome.error.problems;
  t.match(problems[0], /^line \d+, column \d+: /);
  t.ok(
    problems.some((each) => each === 'line 3: Pod (no name): metadata.name is missing'),
    problems.join('\n'),
  );
  t.ok(
    problems.some((each) => each.includes('something that is no object: it has no kind')),
    problems.join('\n'),
  );
});
