import { execFileSync } from 'node:child_process';
import { createSocket } from 'node:dgram';
import { readlinkSync } from 'node:fs';
import t, { type Test } from 'tap';
import { openNetnsTools } from '../../../src/agent/dataplane/native.js';

const routing = { mark: 0x111, mask: 0xfff, table: 100, priority: 32764, ipv6: true };

t.test('what cannot be done names the namespace and the cause', async (t) => {
  const tools = openNetnsTools();
  t.match(tools.openUdp('/nowhere', '127.0.0.1', 53, 0), { ok: false, fd: -1, error: /\/nowhere: No such file/ });
  t.match(tools.openUdp('/proc/self/ns/net', 'localhost', 53, 0), { ok: false, error: /'localhost' is no IP address/ });
  t.match(tools.addRouting('/nowhere', routing), { ok: false, error: /table 100 .* \/nowhere/ });
  t.equal(tools.netnsId('/nowhere'), '');
});

t.test('inside a namespace', { skip: process.getuid?.() === 0 ? false : 'needs root' }, async (t) => {
  const tools = openNetnsTools();

  await t.test('rules and routes come and go, twice each', async (t) => {
    const { path, ip } = namespace(t);
    for (let i = 0; i < 2; i++) t.same(tools.addRouting(path, routing), { ok: true, error: '' });
    t.match(ip('-4', 'rule'), /^32764:\s+from all fwmark 0x111\/0xfff lookup 100/m);
    t.match(ip('-6', 'route', 'show', 'table', '100'), /^local default dev lo/m);
    for (let i = 0; i < 2; i++) t.same(tools.removeRouting(path, routing), { ok: true, error: '' });
    t.notMatch(ip('-4', 'rule'), /0x111/);
  });

  await t.test('a UDP socket made there is one for dgram here', async (t) => {
    const { path } = namespace(t);
    const [one, two] = [tools.openUdp(path, '127.0.0.1', 53, 0x539), tools.openUdp(path, '127.0.0.1', 0, 0)];
    t.match([one, two], [{ ok: true }, { ok: true }]);
    const [server, client] = [createSocket('udp4'), createSocket('udp4')];
    t.teardown(() => [server, client].forEach((socket) => void socket.close()));
    server.bind({ fd: one.fd });
    client.bind({ fd: two.fd });
    const heard = new Promise((resolve) => server.once('message', (text) => resolve(text.toString())));
    client.send('a question', 53, '127.0.0.1');
    t.equal(await heard, 'a question');
  });

  await t.test('a namespace is told from others', async (t) => {
    const { path } = namespace(t);
    t.match(tools.netnsId(path), /^\d+:\d+$/);
    t.not(tools.netnsId(path), tools.netnsId('/proc/self/ns/net'));
    t.equal(tools.netnsId('/proc/self/ns/net').split(':')[1], /\d+/.exec(readlinkSync('/proc/self/ns/net'))?.[0]);
  });
});

let count = 0;

/** A namespace of the test's own, with lo up. */
function namespace(t: Test) {
  const name = `meltemi-netns-${process.pid}-${count++}`;
  execFileSync('ip', ['netns', 'add', name]);
  t.teardown(() => execFileSync('ip', ['netns', 'del', name]));
  const ip = (...args: string[]) => execFileSync('ip', ['-n', name, ...args], { encoding: 'utf8' });
  ip('link', 'set', 'lo', 'up');
  return { path: `/run/netns/${name}`, ip };
}
