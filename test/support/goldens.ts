import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { resolve } from 'node:path';
import { test } from 'tap';

/** Holds rule sets to the files of a directory, by name, and finds files that no case is for. `UPDATE_GOLDENS=1` writes them. */
export function heldToGoldens(directory: string, cases: Readonly<Record<string, string>>): void {
  const goldens = resolve(directory);
  for (const [name, text] of Object.entries(cases)) {
    test(`the rules of ${name} are as written down`, async (t) => {
      if (process.env.UPDATE_GOLDENS === '1') writeFileSync(resolve(goldens, name), text);
      t.equal(text, readFileSync(resolve(goldens, name), 'utf8'));
    });
  }

  test('no golden is without a case', async (t) => {
    t.same(readdirSync(goldens).sort(), Object.keys(cases).sort());
  });
}
