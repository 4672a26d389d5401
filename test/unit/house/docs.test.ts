import { existsSync, globSync, readFileSync } from 'node:fs';
import { dirname, join, resolve } from 'node:path';
import t from 'tap';
import { DEFAULT_ENGINE_OPTIONS } from '../../../src/agent/dataplane/options.js';

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

t.test('the page on metrics names exactly those that the code has', async (t) => {
  const sources = globSync(['src/**/*.ts', 'native/core/src/**/*.rs'], { cwd: root, exclude: ['src/gen/**'] });
  const metric =
    /["'`#](?:# HELP )?((?:istio_(?!auth_|workload_|security_|converted_)|meltemi_(?!core|overflow)|pilot_|citadel_|process_)[a-z_]+[a-z])/g;
  const inCode = new Set(
    sources.flatMap((file) =>
      [...readFileSync(join(root, file), 'utf8').matchAll(metric)].map(([, name]) => name ?? ''),
    ),
  );
  const page = readFileSync(join(root, 'docs/reference/metrics.md'), 'utf8');
  const onPage = new Set(
    [...page.matchAll(/`((?:istio|meltemi|pilot|citadel|process)_[a-z_]+[a-z])`/g)].map(([, name]) => name ?? ''),
  );
  t.same(
    [...inCode].filter((name) => !onPage.has(name)),
    [],
    'in the code only',
  );
  t.same(
    [...onPage].filter((name) => !inCode.has(name)),
    [],
    'on the page only',
  );
});

t.test('the page on limits has the defaults and the metrics of the code', async (t) => {
  const page = readFileSync(join(root, 'docs/reference/limits.md'), 'utf8');
  const rows = [...page.matchAll(/^\| `(\w+)` \| (\d+) \|/gm)];
  t.ok(rows.length > 8);
  for (const [, name = '', value] of rows) {
    t.equal(String(DEFAULT_ENGINE_OPTIONS[name as keyof typeof DEFAULT_ENGINE_OPTIONS]), value, name);
  }
  const bounded = Object.keys(DEFAULT_ENGINE_OPTIONS).filter((name) => /^max|Ms$|Records$/.test(name));
  const listed = new Set(rows.map(([, name]) => name));
  t.same(
    bounded.filter((name) => !listed.has(name)),
    [],
    'limits that the page leaves out',
  );
  const metrics = readFileSync(join(root, 'docs/reference/metrics.md'), 'utf8');
  const counted = [...page.matchAll(/`((?:istio|meltemi)_[a-z_]+)/g)].map(([, name]) => name ?? '');
  t.same(
    counted.filter((name) => !metrics.includes(`\`${name}\``) && name !== 'meltemi_overflow'),
    [],
  );
  const engine = readFileSync(join(root, 'native/core/src/engine.rs'), 'utf8');
  for (const [, limit] of page.matchAll(/limit="(\w+)"/g)) {
    t.ok(engine.includes(`("${limit}",`), `limit ${limit}`);
  }
});

t.test('the page on settings names exactly those that the agent reads', async (t) => {
  const page = readFileSync(join(root, 'docs/reference/config.md'), 'utf8');
  const cells = [...page.matchAll(/^\| (`.*?) \|/gm)].map(([, cell]) => cell ?? '');
  const named = new Set(cells.flatMap((cell) => [...cell.matchAll(/`(\w+)`/g)].map(([, name]) => name ?? '')));
  const code = readFileSync(join(root, 'src/agent/config.ts'), 'utf8');
  const read = new Set(
    [...code.matchAll(/\breader\.\w+\('(\w+)'|\w+\(reader, '(\w+)'/g)].map(([, a, b]) => a ?? b ?? ''),
  );
  for (const implied of ['meshPrefixes', 'logLevel', 'engine']) read.add(implied);
  const limits = readFileSync(join(root, 'docs/reference/limits.md'), 'utf8');
  for (const name of Object.keys(DEFAULT_ENGINE_OPTIONS)) {
    t.ok(named.has(name) || limits.includes(`\`${name}\``), `engine.${name} is described`);
  }
  const nested = new Set(['address', 'serverName', 'rootCert', 'token', 'ttlSeconds']);
  t.same(
    [...read].filter((name) => !named.has(name) && !nested.has(name)),
    [],
    'read but not on the page',
  );
  t.same(
    [...named].filter((name) => !read.has(name) && !(name in DEFAULT_ENGINE_OPTIONS)),
    [],
    'on the page but not read',
  );
});
