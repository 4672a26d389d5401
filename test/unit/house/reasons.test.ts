import { readFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import t from 'tap';

const root = resolve(import.meta.dirname, '../../../..');

t.test('the page on reason codes has exactly those of the code', async (t) => {
  const source = readFileSync(join(root, 'src/agent/route/decision.ts'), 'utf8');
  const union = /export type Reason =([^;]+);/.exec(source)?.[1] ?? '';
  const inCode = [...union.matchAll(/'([a-z-]+)'/g)].map(([, code]) => code);
  const page = readFileSync(join(root, 'docs/reference/reasons.md'), 'utf8');
  const onPage = [...page.matchAll(/^\| `([a-z-]+)` \|/gm)].map(([, code]) => code);
  t.ok(inCode.length > 10);
  t.same(onPage.sort(), inCode.sort());
});
