import { mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'tap';
import { checkLabName, isAlive, LabLayout, labNames, processStartTicks, readLabFile } from '../../../src/lab/layout.js';
import { ManifestMirror } from '../../../src/lab/manifests.js';
import { parseObjects } from '../../../src/lab/objects.js';

test('names that would leave the directory, or make a socket path too long, are refused', async (t) => {
  for (const name of ['', '..', 'a/b', 'A', '-a', 'a-', 'a'.repeat(41)]) t.notOk(checkLabName(name).ok, name);
  for (const name of ['a', 'demo', 'lab-2', 'a'.repeat(40)]) t.ok(checkLabName(name).ok, name);
  const longest = join(new LabLayout('a'.repeat(40)).node('node-200'), 'handover.sock');
  t.ok(longest.length < 108, longest);
});

test('a lab is alive while the very process that runs it is', async (t) => {
  const lab = {
    name: 'x',
    pid: process.pid,
    startTicks: processStartTicks(process.pid) ?? '',
    marker: '',
    nodes: 1,
    mesh: true,
  };
  t.ok(isAlive(lab));
  t.notOk(isAlive({ ...lab, startTicks: '1' }), 'another process with the same pid');
  t.notOk(isAlive(undefined));
});

test('a lab file that is not whole is none', async (t) => {
  const root = t.testdir({ broken: { 'lab.json': '{"name":' }, 'Not-A-Name': {} });
  t.equal(readLabFile(new LabLayout('broken', root)), undefined);
  t.same(labNames(root), ['broken']);
  t.same(labNames(join(root, 'none')), []);
});

test('the mirror writes what changed and removes what went', async (t) => {
  const directory = mkdtempSync(join(tmpdir(), 'meltemi-mirror-'));
  t.teardown(() => rmSync(directory, { recursive: true }));
  writeFileSync(join(directory, 'old.yaml'), 'left over');
  const { objects } = parseObjects(
    'apiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n---\napiVersion: v1\nkind: Pod\nmetadata: {name: web, namespace: shop}',
    'x',
  );
  const mirror = new ManifestMirror(directory);
  mirror.sync(objects);
  t.same(readdirSync(directory).sort(), ['Namespace_shop.yaml', 'Pod_shop_web.yaml']);
  t.equal(
    readFileSync(join(directory, 'Namespace_shop.yaml'), 'utf8'),
    'apiVersion: v1\nkind: Namespace\nmetadata:\n  name: shop\n',
  );
  const { ino } = statSync(join(directory, 'Namespace_shop.yaml'));
  mirror.sync(objects.slice(0, 1));
  t.same(readdirSync(directory), ['Namespace_shop.yaml']);
  t.equal(statSync(join(directory, 'Namespace_shop.yaml')).ino, ino, 'not written again');
});
