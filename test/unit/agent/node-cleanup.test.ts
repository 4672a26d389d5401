import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { parseAgentConfig } from '../../../src/agent/config.js';
import { cleanUp } from '../../../src/agent/node-cleanup.js';
import type { RedirectedPod } from '../../../src/agent/redirect/redirector.js';
import type { Run } from '../../../src/lib/command.js';
import { err, ok } from '../../../src/lib/result.js';

const CONFLIST = '{"cniVersion":"1.0.0","plugins":[{"type":"ptp"}]}\n';
const WITH_PLUGIN = CONFLIST.replace('}]', '},{"type":"meltemi-cni"}]');

/** A node whose processes are files, each with a namespace of its own; those named in `captured` have our table. */
function setUp(t: Test, captured: readonly string[]) {
  const home = t.testdir({
    state: { 'cni.sock': '', lock: '', deep: { er: '' } },
    conf: { '10-a.conflist': WITH_PLUGIN },
    bin: { 'meltemi-cni': 'x', ptp: 'x' },
    proc: Object.fromEntries(['1', 'self', '20', '30', 'cpuinfo'].map((pid) => [pid, { ns: { net: pid } }])),
  });
  const config = parseAgentConfig(`
node: a
xds: {address: "x:1"}
ca: {address: "x:1", rootCert: r}
pods: {kubernetes: true}
stateDir: ${home}/state
cni: {enabled: true, socket: ${home}/state/cni.sock, binDir: ${home}/bin, confDir: ${home}/conf}
`);
  if (!config.ok) throw new Error(config.error.join());
  const removed: RedirectedPod[] = [];
  const commands: string[] = [];
  const run: Run = async (command, args) => {
    commands.push([command, ...args].join(' '));
    const has = captured.some((pid) => args[0] === `--net=${join(home, 'proc', pid, 'ns/net')}`);
    return ok(has ? 'table inet other\ntable inet meltemi\n' : 'table inet other\ntable inet meltemi-node\n');
  };
  const remove = async (pod: RedirectedPod) => {
    removed.push(pod);
    return ok(undefined);
  };
  return { home, config: config.value, removed, commands, parts: { remove, run, proc: join(home, 'proc') } };
}

t.test('nothing of an agent is left, and all else is', async (t) => {
  const { home, config, removed, commands, parts } = setUp(t, ['30', '1']);
  const { done, problems } = await cleanUp(config, parts);
  t.same(problems, []);
  t.equal(readFileSync(join(home, 'conf/10-a.conflist'), 'utf8'), CONFLIST);
  t.same(readdirSync(join(home, 'bin')), ['ptp']);
  t.same(existsSync(join(home, 'state')) ? readdirSync(join(home, 'state')) : [], []);
  const netns = join(home, 'proc/30/ns/net');
  t.same(removed, [{ name: 'process 30', netns, ipv6: true, nameservers: [] }], 'not in the namespace of the node');
  t.ok(commands.some((command) => command.includes('--net=/proc/1/ns/net nft list tables')));
  t.match(done, [/removed the plugin from .*10-a.conflist/, /process 30/, /rules of the node/]);
  t.match(done.at(-1), /bin\/meltemi-cni$/, 'the plugin goes last');
});

t.test('what cannot be done is said, and does not hold up the rest', async (t) => {
  const { home, config, parts } = setUp(t, ['20', '30']);
  writeFileSync(join(home, 'conf/10-a.conflist'), '{"plugins":[{"type":"meltemi-cni"');
  mkdirSync(join(home, 'proc/40'));
  const { problems } = await cleanUp(config, { ...parts, remove: async () => err('nft is missing') });
  t.match(problems, [/10-a.conflist is no JSON/, 'nft is missing', 'nft is missing', /the plugin stays in/]);
  t.ok(existsSync(join(home, 'bin/meltemi-cni')));
});

t.test('a state directory that cannot be an agent’s own is left alone', async (t) => {
  const { config, parts } = setUp(t, []);
  const { problems } = await cleanUp({ ...config, stateDir: '/run/..', cni: undefined }, parts);
  t.match(problems, [/^stateDir is \/, which is more/]);
});
