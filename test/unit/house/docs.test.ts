import { existsSync, globSync, readFileSync } from 'node:fs';
import { dirname, join, resolve } from 'node:path';
import t from 'tap';

/** What the documentation says that a machine can check. */
const root = resolve(import.meta.dirname, '../../../..');
const pages = globSync(['README.md', 'CHANGELOG.md', 'docs/**/*.md', 'native/**/README.md'], {
  cwd: root,
  exclude: ['**/node_modules/**', '**/target/**'],
});

t.test('every file that a page names exists', async (t) => {
  for (const page of pages) {
    const text = readFileSync(join(root, page), 'utf8');
    const named = [...text.matchAll(/`((?:src|native|test|docs|bin)\/[\w./-]+)`/g)].map(([, path]) => path ?? '');
    t.same(
      named.filter((path) => !existsSync(join(root, path))),
      [],
      page,
    );
  }
});

t.test('every relative link leads somewhere', async (t) => {
  for (const page of pages) {
    const text = readFileSync(join(root, page), 'utf8');
    const links = [...text.matchAll(/\]\((?!https?:)([^)#]+)[^)]*\)/g)].map(([, path]) => path ?? '');
    t.same(
      links.filter((path) => !existsSync(join(root, dirname(page), path))),
      [],
      page,
    );
  }
});
