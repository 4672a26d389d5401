import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { AccessLog } from '../../../../src/agent/admin/access-log.js';

t.test('appends whole batches to its file', async (t) => {
  const path = join(t.testdir({ 'access.log': 'before\n' }), 'access.log');
  const log = new AccessLog(path, t.fail);
  log.write(Buffer.from('a\nb\n'));
  log.write(Buffer.from('c\n'));
  await log.close();
  t.equal(readFileSync(path, 'utf8'), 'before\na\nb\nc\n');
  t.equal(log.dropped, 0);
});

t.test('counts the lines that a slow disk does not take', async (t) => {
  const path = join(t.testdir(), 'access.log');
  const log = new AccessLog(path, t.fail, 1);
  log.write(Buffer.from('a\nb\n'));
  log.write(Buffer.from('c\nd\ne\n'));
  await log.close();
  t.equal(log.dropped, 3);
  t.equal(readFileSync(path, 'utf8'), 'a\nb\n');
});

t.test('a file that cannot be written is told once, and lines are counted', async (t) => {
  const { promise, resolve } = Promise.withResolvers<string>();
  const log = new AccessLog(join(t.testdir(), 'missing', 'access.log'), resolve);
  t.match(await promise, /ENOENT/);
  log.write(Buffer.from('a\n'));
  t.equal(log.dropped, 1);
  await log.close();
});

t.test('off writes nothing', async (t) => {
  const log = new AccessLog('off', t.fail);
  log.write(Buffer.from('a\n'));
  t.equal(log.dropped, 0);
  await log.close();
});
