import { once } from 'node:events';
import root, { test } from 'tap';
import { NodeGuard, removeNodeGuard } from '../../src/agent/redirect/node-guard.js';
import { ManualClock } from '../../src/lib/manual-clock.js';
import { logger, setLogSink } from '../../src/telemetry/log.js';
import { Answering, dial, link, Netns } from '../support/wires.js';

/**
 * The rules of the node in a real kernel. Pods `a` and `b` are routed by the node, `c` and `d` share a bridge of it, and
 * `far` is another node. `a`, `c` and `d` are captured.
 */
setLogSink(() => undefined);
root.setTimeout(0);

const IPS = {
  node: { 4: '10.8.0.1', 6: 'fd08::1' },
  a: { 4: '10.8.1.2', 6: 'fd08:1::2' },
  b: { 4: '10.8.2.2', 6: 'fd08:2::2' },
  c: { 4: '10.8.3.2', 6: 'fd08:3::2' },
  d: { 4: '10.8.3.3', 6: 'fd08:3::3' },
  far: { 4: '10.8.9.2', 6: 'fd08:9::2' },
} as const;
const FAMILIES = [4, 6] as const;
const PROBE = { 4: '169.254.7.127', 6: 'fd16:9254:7127:1337:ffff:ffff:ffff:ffff' } as const;

const all: Netns[] = [];
const clock = new ManualClock();
let node: Netns;
let a: Netns;
let b: Netns;
let c: Netns;
let d: Netns;
let far: Netns;
let guard: NodeGuard;

root.teardown(async () => {
  for (const netns of all) await netns.remove();
});

test('a node with four pods and a neighbour', { timeout: 60_000 }, async (t) => {
  for (let made = 0; made < 6; made++) all.push(await Netns.create());
  [node, a, b, c, d, far] = all as [Netns, Netns, Netns, Netns, Netns, Netns];
  await node.run(`sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1
    ip addr add ${IPS.node[4]}/32 dev lo; ip addr add ${IPS.node[6]}/128 dev lo
    ip link add bridge0 type bridge; ip link set bridge0 up
    ip addr add 10.8.3.1/24 dev bridge0; ip addr add fd08:3::1/64 dev bridge0`);
  const routed: [keyof typeof IPS, Netns, number][] = [
    ['a', a, 1],
    ['b', b, 2],
    ['far', far, 9],
  ];
  for (const [name, netns, subnet] of routed) {
    await link(node, `to-${name}`, netns, 'eth0');
    await node.run(`ip addr add 10.8.${subnet}.1/24 dev to-${name}; ip addr add fd08:${subnet}::1/64 dev to-${name}`);
  }
  for (const [name, netns] of [['c', c] as const, ['d', d] as const]) {
    await link(node, `to-${name}`, netns, 'eth0');
    await node.run(`ip link set to-${name} master bridge0`);
  }
  for (const [name, netns] of [
    ['a', a],
    ['b', b],
    ['c', c],
    ['d', d],
    ['far', far],
  ] as const) {
    const gateway = (ip: string): string => ip.replace(/\d$/, '1');
    await netns.run(`ip addr add ${IPS[name][4]}/24 dev eth0; ip addr add ${IPS[name][6]}/64 dev eth0
      ip route add default via ${gateway(IPS[name][4])}; ip -6 route add default via ${gateway(IPS[name][6])}`);
  }
  guard = makeGuard();
  for (const pod of ['a', 'c', 'd'] as const) {
    t.same(await guard.put(pod, { ips: Object.values(IPS[pod]), nameservers: [] }), { ok: true, value: undefined });
  }
  guard.podsComplete();
  await know(['a', 'c', 'd']);
});

for (const family of FAMILIES) {
  test(`IPv${family}: what the node itself says to a captured pod comes from the address of probes`, {
    timeout: 60_000,
  }, async (t) => {
    await using _a = await Answering.in(a, [8080]);
    await using _b = await Answering.in(b, [8080]);
    await using _c = await Answering.in(c, [8080]);
    t.equal(await dial(node, IPS.a[family], 8080), `8080 ${PROBE[family]}`);
    t.equal(await dial(node, IPS.c[family], 8080), `8080 ${PROBE[family]}`, 'behind a bridge');
    t.not(await dial(node, IPS.b[family], 8080), `8080 ${PROBE[family]}`, 'not captured');
  });

  test(`IPv${family}: what is forwarded or translated on its way does not`, { timeout: 60_000 }, async (t) => {
    await using _a = await Answering.in(a, [8080]);
    t.equal(await dial(far, IPS.a[family], 8080), `8080 ${IPS.far[family]}`);
    t.equal(await dial(b, IPS.a[family], 8080), `8080 ${IPS.b[family]}`);
    const word = family === 4 ? 'ip' : 'ip6';
    const hooks = ['prerouting', 'output'].map(
      (hook) => `chain ${hook} {
        type nat hook ${hook} priority -100
        tcp dport 30080 dnat to ${host(IPS.a[family])}:8080
      }`,
    );
    await node.run(`nft 'table ${word} nodeport {\n${hooks.join('\n')}\n}'`);
    t.equal(await dial(far, IPS.node[family], 30080), `8080 ${IPS.far[family]}`, 'a hostPort from outside');
    t.not(await dial(node, IPS.node[family], 30080), `8080 ${PROBE[family]}`, 'nor from the node');
    await node.run(`nft delete table ${word} nodeport`);
  });

  test(`IPv${family}: nobody else has the address of probes`, { timeout: 60_000 }, async (t) => {
    await using _b = await Answering.in(b, [8080]);
    await using _d = await Answering.in(d, [8080]);
    const source = PROBE[family];
    for (const pod of [a, c]) await pod.run(`ip addr add ${source} dev lo`);
    const before = await counted();
    t.equal(await dial(a, IPS.b[family], 8080, { source, timeoutMs: 500 }), 'timeout');
    t.ok((await counted()).spoofed > before.spoofed, 'routed, and counted');
    const middle = await counted();
    t.equal(await dial(c, IPS.d[family], 8080, { source, timeoutMs: 500 }), 'timeout');
    t.ok((await counted()).spoofed > middle.spoofed, 'bridged, and counted');
    for (const pod of [a, c]) await pod.run(`ip addr del ${source} dev lo`);
  });

  test(`IPv${family}: a captured pod reaches the mesh by tunnel only, whatever mark it sets`, {
    timeout: 60_000,
  }, async (t) => {
    await using _far = await Answering.in(far, [8080, 15008]);
    t.equal(await dial(a, IPS.far[family], 8080), `8080 ${IPS.a[family]}`, 'while it is not of the mesh');
    await know(['far']);
    const before = await counted();
    t.equal(await dial(a, IPS.far[family], 8080), 'refused', 'at once, not after a time-out');
    t.equal(await dial(a, IPS.far[family], 8080, { mark: 0x539 }), 'refused');
    t.equal(await dial(c, IPS.far[family], 8080), 'refused', 'from a bridge, too');
    t.ok((await counted()).held >= before.held + 3, 'counted');
    t.equal(await dial(a, IPS.far[family], 15008), `15008 ${IPS.a[family]}`);
    t.equal(await dial(b, IPS.far[family], 8080), `8080 ${IPS.b[family]}`, 'others may');
    await forget(['far']);
    t.equal(await dial(a, IPS.far[family], 8080), `8080 ${IPS.a[family]}`, 'once it left the mesh');
  });

  test(`IPv${family}: a captured pod answers in plaintext whoever asked so`, { timeout: 60_000 }, async (t) => {
    await using _a = await Answering.in(a, [8080]);
    await know(['far']);
    t.equal(await dial(far, IPS.a[family], 8080), `8080 ${IPS.far[family]}`);
    await forget(['far']);
  });

  test(`IPv${family}: on one bridge there is nothing but tunnels`, { timeout: 60_000 }, async (t) => {
    await using _d = await Answering.in(d, [8080, 15008]);
    t.equal(await dial(c, IPS.d[family], 8080, { timeoutMs: 500 }), 'timeout');
    t.equal(await dial(c, IPS.d[family], 15008), `15008 ${IPS.c[family]}`);
    await forget(['d']);
    t.equal(await dial(c, IPS.d[family], 8080), `8080 ${IPS.c[family]}`, 'while the mesh does not know it yet');
    await know(['d']);
  });
}

test('a connection in plaintext ends when its other end joins the mesh', { timeout: 60_000 }, async (t) => {
  const server = far.spawn('python3', ['-uc', ECHO]);
  await once(server.stdout ?? server, 'data');
  const client = a.spawn('python3', ['-c', TALK, IPS.far[4]]);
  const lines: string[] = [];
  client.stdout?.on('data', (data) => lines.push(...String(data).trim().split('\n')));
  const say = async (word: string) => {
    const heard = once(client.stdout ?? client, 'data');
    client.stdin?.write(`${word}\n`);
    await heard;
  };
  await say('one');
  await know(['far']);
  await say('two');
  t.same(lines, ['one', 'reset']);
  await forget(['far']);
  for (const child of [client, server]) child.kill('SIGKILL');
});

test('names are asked for over TCP at the nameserver of a captured pod, even if it is of the mesh', {
  timeout: 60_000,
}, async (t) => {
  await using _far = await Answering.in(far, [53, 8080]);
  await know(['far']);
  await guard.put('a', { ips: Object.values(IPS.a), nameservers: [IPS.far[4]] });
  t.equal(await dial(a, IPS.far[4], 53), `53 ${IPS.a[4]}`);
  t.equal(await dial(a, IPS.far[4], 8080), 'refused');
  await forget(['far']);
});

test('rules that somebody flushed are back with the next audit', { timeout: 60_000 }, async (t) => {
  const before = await node.run('nft -s list ruleset');
  await guard.audit();
  t.equal(guard.drifts, 0);
  await node.run('nft flush ruleset');
  await guard.audit();
  t.equal(guard.drifts, 1);
  t.equal(await node.run('nft -s list ruleset'), before);
});

test('a successor keeps what its predecessor knew until it knows all itself', { timeout: 60_000 }, async (t) => {
  guard.close();
  guard = makeGuard();
  await guard.put('b', { ips: Object.values(IPS.b), nameservers: [] });
  await using _a = await Answering.in(a, [8080]);
  await using _b = await Answering.in(b, [8080]);
  t.equal(await dial(node, IPS.b[4], 8080), `8080 ${PROBE[4]}`);
  t.equal(await dial(node, IPS.a[4], 8080), `8080 ${PROBE[4]}`);
  guard.podsComplete();
  await know([]);
  t.equal(await dial(node, IPS.b[4], 8080), `8080 ${PROBE[4]}`);
  t.not(await dial(node, IPS.a[4], 8080), `8080 ${PROBE[4]}`);
});

test('two revisions keep rules of their own, and all can be removed', { timeout: 60_000 }, async (t) => {
  const other = new NodeGuard({ netns: node.path, revision: 'next', hbonePort: 15008, clock, log: logger('test') });
  await other.put('a', { ips: Object.values(IPS.a), nameservers: [] });
  await using _a = await Answering.in(a, [8080]);
  t.equal(await dial(node, IPS.a[4], 8080), `8080 ${PROBE[4]}`);
  t.same((await node.run('nft list tables')).trim().split('\n').sort(), [
    'table bridge meltemi-node',
    'table bridge meltemi-node-next',
    'table inet meltemi-node',
    'table inet meltemi-node-next',
  ]);
  await node.run('nft add table inet another');
  for (let time = 0; time < 2; time++) t.same(await removeNodeGuard(node.path), { ok: true, value: undefined });
  t.equal((await node.run('nft list tables')).trim(), 'table inet another');
});

function makeGuard(): NodeGuard {
  return new NodeGuard({ netns: node.path, revision: '', hbonePort: 15008, clock, log: logger('test') });
}

async function know(names: readonly (keyof typeof IPS)[]): Promise<void> {
  guard.meshChanged(
    names.flatMap((name) => Object.values(IPS[name])),
    [],
    true,
  );
  await written();
}

async function forget(names: readonly (keyof typeof IPS)[]): Promise<void> {
  guard.meshChanged(
    [],
    names.flatMap((name) => Object.values(IPS[name])),
    true,
  );
  await written();
}

/** Until the kernel has what was said. */
async function written(): Promise<void> {
  clock.advance(1000);
  await guard.audit();
}

async function counted(): Promise<{ held: number; spoofed: number }> {
  await guard.audit();
  return guard.counts;
}

function host(ip: string): string {
  return ip.includes(':') ? `[${ip}]` : ip;
}

const ECHO = `
import socket
s = socket.create_server(("", 9000)); print("up")
c, _ = s.accept()
while True:
    data = c.recv(100)
    if not data: break
    c.sendall(data)
`;
const TALK = `
import socket, sys
s = socket.create_connection((sys.argv[1], 9000))
for line in sys.stdin:
    try:
        s.sendall(line.encode()); answer = s.recv(100).decode()
    except ConnectionError: answer = "reset\\n"
    sys.stdout.write(answer or "eof\\n"); sys.stdout.flush()
`;
