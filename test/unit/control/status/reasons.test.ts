import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { CONDITION, REASON } from '../../../../src/control/status/reasons.js';

t.test('the page on validation has exactly the conditions and reasons of the code', async (t) => {
  const page = readFileSync(join(import.meta.dirname, '../../../../../docs/validation.md'), 'utf8');
  const onPage = [...page.matchAll(/^\| `([\w./]+)` \|/gm)].map(([, name]) => name ?? '');
  t.same(onPage.sort(), [...Object.values(CONDITION), ...Object.values(REASON)].sort());
});
