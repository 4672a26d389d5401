import {
  chmodSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import t, { type Test } from 'tap';
import { PLUGIN } from '../../../../src/agent/cni/conflist.js';
import { Installer } from '../../../../src/agent/cni/installer.js';
import { removeBinary, removeEntries } from '../../../../src/agent/cni/uninstall.js';
import { ManualClock } from '../../../../src/lib/manual-clock.js';
import { logger, setLogSink } from '../../../../src/telemetry/log.js';
import { createRegistry } from '../../../../src/telemetry/metrics.js';

const lines: string[] = [];
setLogSink((line) => lines.push(line));

const LIST = '{"cniVersion":"1.0.0","name":"n","plugins":[{"type":"bridge"}]}\n';
const ENTRY = { type: PLUGIN } as const;

function setUp(t: Test, conf: Readonly<Record<string, string>> = { '10-a.conflist': LIST }) {
  const home = t.testdir({ conf, bin: {}, plugin: 'the binary' });
  const [confDir, binDir, binary] = ['conf', 'bin', 'plugin'].map((name) => join(home, name)) as [
    string,
    string,
    string,
  ];
  const clock = new ManualClock();
  const metrics = createRegistry();
  const make = () => {
    const made = new Installer({ confDir, binDir, binary, entry: ENTRY, clock, log: logger('cni'), metrics });
    t.teardown(() => made.close());
    return made;
  };
  const path = join(confDir, '10-a.conflist');
  return {
    confDir,
    binDir,
    binary,
    clock,
    metrics,
    make,
    path,
    has: () => readFileSync(path, 'utf8').includes(PLUGIN),
  };
}

async function until(holds: () => boolean): Promise<void> {
  const deadline = Date.now() + 10_000;
  while (!holds()) {
    if (Date.now() > deadline) throw new Error(`it never came to be: ${holds}`);
    await delay(2);
  }
}

t.test('the plugin is put on the node, with the mode of the file, and is found there by the next agent', async (t) => {
  const { make, path, binDir, has, confDir } = setUp(t);
  chmodSync(path, 0o666);
  const installer = make();
  t.match(installer.problem, 'not been looked at');
  installer.start();
  t.equal(installer.problem, '');
  t.ok(has());
  t.equal(statSync(path).mode & 0o777, 0o666);
  t.equal(readFileSync(join(binDir, PLUGIN), 'utf8'), 'the binary');
  t.equal(statSync(join(binDir, PLUGIN)).mode & 0o777, 0o755);
  const [conf, bin] = [statSync(path).ino, statSync(join(binDir, PLUGIN)).ino];
  installer.close();
  t.ok(has(), 'it stays when the agent stops');
  make().start();
  t.same([statSync(path).ino, statSync(join(binDir, PLUGIN)).ino], [conf, bin], 'nothing is written again');
  t.same(readdirSync(confDir), ['10-a.conflist']);
});

t.test('what somebody else rewrites is repaired, and counted', async (t) => {
  const { make, path, has, metrics } = setUp(t);
  make().start();
  writeFileSync(path, LIST);
  await until(has);
  writeFileSync(`${path}.new`, LIST.replace('bridge', 'ptp'));
  renameSync(`${path}.new`, path);
  await until(() => has() && readFileSync(path, 'utf8').includes('ptp'));
  t.match(await metrics.render(), /^meltemi_cni_repairs_total 2$/m);
  t.match(await metrics.render(), /^meltemi_cni_installed 1$/m);
});

t.test('an installer that was closed can be started again', async (t) => {
  const { make, path, has } = setUp(t);
  const installer = make();
  installer.start();
  installer.close();
  writeFileSync(path, LIST);
  installer.start();
  t.ok(has());
  writeFileSync(path, LIST);
  await until(has);
});

t.test('a new first conflist gets the plugin', async (t) => {
  const { make, confDir } = setUp(t);
  make().start();
  writeFileSync(join(confDir, '05-new.conflist'), LIST);
  await until(() => readFileSync(join(confDir, '05-new.conflist'), 'utf8').includes(PLUGIN));
});

t.test(
  'a malformed conflist is told once with its cause, is left alone, and is taken when it is put right',
  async (t) => {
    const { make, path, clock, has, metrics } = setUp(t, { '10-a.conflist': '{"cniVersion": "1.0.0", "plug' });
    lines.length = 0;
    const installer = make();
    installer.start();
    t.match(installer.problem, /conf: 10-a.conflist is no JSON: /);
    clock.advance(20_000);
    t.equal(lines.filter((line) => line.includes('not in place')).length, 1);
    t.equal(readFileSync(path, 'utf8'), '{"cniVersion": "1.0.0", "plug');
    t.match(await metrics.render(), /^meltemi_cni_installed 0$/m);
    writeFileSync(path, LIST);
    await until(has);
    t.equal(installer.problem, '');
  },
);

t.test('a node whose CNI comes later is waited for', async (t) => {
  const { make, confDir, clock } = setUp(t);
  rmSync(confDir, { recursive: true });
  const installer = make();
  installer.start();
  t.match(installer.problem, /there is no network configuration yet/);
  mkdirSync(confDir);
  writeFileSync(join(confDir, '10-a.conflist'), LIST);
  clock.advance(5000);
  t.equal(installer.problem, '');
});

t.test('a directory that is replaced as a whole is seen', async (t) => {
  const { make, confDir, clock, has, path } = setUp(t);
  make().start();
  renameSync(confDir, `${confDir}.old`);
  mkdirSync(confDir);
  writeFileSync(path, LIST);
  clock.advance(5000);
  t.ok(has());
});

t.test('a binary that cannot be copied keeps the chain as it is', async (t) => {
  const { make, binDir, has } = setUp(t);
  rmSync(binDir, { recursive: true });
  const installer = make();
  installer.start();
  t.match(installer.problem, /ENOENT/);
  t.notOk(has());
});

t.test('a conflist that is a link is written where it lies', async (t) => {
  const { make, path, confDir } = setUp(t);
  renameSync(path, join(confDir, 'real'));
  symlinkSync('real', path);
  make().start();
  t.equal(readFileSync(join(confDir, 'real'), 'utf8').includes(PLUGIN), true);
  t.ok(existsSync(path));
});

t.test('what a killed agent left half-written is cleared away', async (t) => {
  const { make, confDir, binDir } = setUp(t);
  const tail = '12345678-1234-1234-1234-123456789abc.tmp';
  writeFileSync(join(confDir, `10-a.conflist.${tail}`), '{');
  writeFileSync(join(confDir, `other.${tail}`), '{');
  writeFileSync(join(binDir, `${PLUGIN}.${tail}`), '');
  make().start();
  t.same(readdirSync(confDir).sort(), ['10-a.conflist', `other.${tail}`]);
  t.same(readdirSync(binDir), [PLUGIN]);
});

t.test('uninstalling restores the files to the byte and takes the binary', async (t) => {
  const { make, confDir, binDir, path } = setUp(t, { '10-a.conflist': LIST, '20-b.conf': '{}' });
  chmodSync(path, 0o600);
  const installer = make();
  installer.start();
  installer.close();
  t.same(removeEntries(confDir), { done: [`removed the plugin from ${path}`], problems: [] });
  t.same(removeBinary(binDir), { done: [`removed ${join(binDir, PLUGIN)}`], problems: [] });
  t.equal(readFileSync(path, 'utf8'), LIST);
  t.equal(statSync(path).mode & 0o777, 0o600);
  t.same([readdirSync(confDir), readdirSync(binDir)], [['10-a.conflist', '20-b.conf'], []]);
  t.same(removeEntries(confDir), { done: [], problems: [] }, 'a second time there is nothing to do');
  t.same(removeBinary(binDir), { done: [], problems: [] });
  writeFileSync(path, `{"plugins":[{"type":"${PLUGIN}"`);
  t.match(removeEntries(confDir), { done: [], problems: [/10-a.conflist is no JSON/] });
});
