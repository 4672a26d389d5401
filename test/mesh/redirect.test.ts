import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import root, { test } from 'tap';
import { openNetnsTools } from '../../src/agent/dataplane/native.js';
import { NftRedirector } from '../../src/agent/redirect/nft.js';
import type { RedirectedPod } from '../../src/agent/redirect/redirector.js';
import { run } from '../../src/lib/command.js';

/** Redirection in two real namespaces joined by a link: a pod, and everybody else. Listeners say who was reached. */
const NAMESERVER = { 4: '10.9.0.1', 6: 'fd09::1' } as const;
const POD = { 4: '10.9.0.2', 6: 'fd09::2' } as const;
const PROBE = { 4: '169.254.7.127', 6: 'fd16:9254:7127:1337:ffff:ffff:ffff:ffff' } as const;

root.setTimeout(0);
root.teardown(() => {
  for (const holder of holders) holder.kill('SIGKILL');
});

const holders: ChildProcess[] = [];
let podNetns = '';
let peerNetns = '';
let pod: RedirectedPod;
let redirector: NftRedirector;
let before: readonly string[];

test('two namespaces are joined', { timeout: 60_000 }, async () => {
  for (let made = 0; made < 2; made++) {
    const child = spawn('unshare', ['--net', '--', 'sh', '-c', 'echo; exec sleep infinity'], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    if (child.stdout !== null) await once(child.stdout, 'data');
    holders.push(child);
  }
  const [podPid, peerPid] = holders.map(({ pid }) => pid ?? 0);
  podNetns = `/proc/${podPid}/ns/net`;
  peerNetns = `/proc/${peerPid}/ns/net`;
  await must(podNetns, 'sh', '-c', NO_DAD);
  await must(peerNetns, 'sh', '-c', NO_DAD);
  await batch(podNetns, [
    'link set lo up',
    `link add eth0 type veth peer name eth0 netns ${peerPid}`,
    'link set eth0 up',
  ]);
  await batch(peerNetns, ['link set lo up', 'link set eth0 up']);
  const addresses = (ip: { 4: string; 6: string }) => [
    `addr add ${ip[4]}/24 dev eth0`,
    `addr add ${ip[6]}/64 dev eth0 nodad`,
  ];
  await batch(podNetns, [
    ...addresses(POD),
    `route add default via ${NAMESERVER[4]}`,
    `route add ::/0 via ${NAMESERVER[6]}`,
  ]);
  const more = [
    `addr add ${PROBE[4]}/32 dev lo`,
    `addr add ${PROBE[6]}/128 dev lo nodad`,
    'addr add 10.9.0.9/24 dev eth0',
  ];
  await batch(peerNetns, [...addresses(NAMESERVER), ...more]);
  before = await state();
  pod = { name: 'test/pod', netns: podNetns, ipv6: true, nameservers: Object.values(NAMESERVER) };
  redirector = new NftRedirector({ tools: openNetnsTools() });
});

test('before it, connections go where they want', { timeout: 60_000 }, async (t) => {
  for (const family of [4, 6] as const) {
    t.equal(await reach(podNetns, NAMESERVER[family], 9000, peerNetns, [9000, 15001]), '9000');
    t.equal(await reach(peerNetns, POD[family], 8080, podNetns, [8080, 15006]), '8080');
  }
});

test('applied twice, the rules are the same', { timeout: 60_000 }, async (t) => {
  t.same(await redirector.apply(pod), { ok: true, value: undefined });
  const once = await state();
  t.same(await redirector.apply(pod), { ok: true, value: undefined });
  t.same(await state(), once);
  t.same(await redirector.audit(pod), { ok: true, value: [] });
});

for (const family of [4, 6] as const) {
  test(`IPv${family}: what the app sends comes to the outbound listener, what is sent to it to the inbound one`, {
    timeout: 60_000,
  }, async (t) => {
    t.equal(await reach(podNetns, NAMESERVER[family], 9000, peerNetns, [9000], podNetns, [15001]), '15001');
    t.equal(await reach(peerNetns, POD[family], 8080, podNetns, [8080, 15006]), '15006');
    t.equal(await reach(peerNetns, POD[family], 15008, podNetns, [15008, 15006]), '15008', 'tunnels are let in');
  });

  test(`IPv${family}: probes of the node reach the app, and so does what the pod says to itself`, {
    timeout: 60_000,
  }, async (t) => {
    t.equal(await reach(peerNetns, POD[family], 8080, podNetns, [8080, 15006], podNetns, [], PROBE[family]), '8080');
    t.equal(await reach(podNetns, POD[family], 8080, podNetns, [8080, 15001, 15006]), '8080');
    t.equal(await reach(podNetns, family === 4 ? '127.0.0.1' : '::1', 8080, podNetns, [8080, 15001, 15006]), '8080');
  });

  test(`IPv${family}: the mark of the engine passes`, { timeout: 60_000 }, async (t) => {
    await must(
      podNetns,
      'nft',
      `add table inet marks; add chain inet marks out { type filter hook output priority -200; }; add rule inet marks out tcp dport 9001 meta mark set 0x539`,
    );
    t.equal(await reach(podNetns, NAMESERVER[family], 9001, peerNetns, [9001], podNetns, [15001]), '9001');
    await must(podNetns, 'nft', 'delete table inet marks');
  });

  test(`IPv${family}: queries to the pod's nameserver are captured, over UDP and TCP`, {
    timeout: 60_000,
  }, async (t) => {
    t.equal(await reach(podNetns, NAMESERVER[family], 53, peerNetns, [53], podNetns, [15053, 15001]), '15053');
    t.equal(await ask(podNetns, NAMESERVER[family], 53, podNetns, 15053), '15053');
  });
}

test('queries to another nameserver are left alone, and its TCP is a connection like any', {
  timeout: 60_000,
}, async (t) => {
  t.equal(await ask(podNetns, '10.9.0.9', 53, peerNetns, 53), '53');
  t.equal(await reach(podNetns, '10.9.0.9', 53, peerNetns, [53], podNetns, [15053, 15001]), '15001');
});

test('audit names a rule that went, and one that came', { timeout: 60_000 }, async (t) => {
  await must(podNetns, 'nft', 'flush chain inet meltemi capture-in');
  await must(podNetns, 'nft', 'add rule inet meltemi capture-in tcp dport 81 accept');
  const found = await redirector.audit(pod);
  t.ok(found.ok && found.value.some((line) => line.includes('missing') && line.includes('redirect to :15006')));
  t.ok(found.ok && found.value.some((line) => line.includes('not ours: tcp dport 81 accept')));
  await redirector.apply(pod);
  t.same(await redirector.audit(pod), { ok: true, value: [] });
});

test('bypass of inbound capture leaves outbound captured', { timeout: 60_000 }, async (t) => {
  await redirector.apply({ ...pod, bypassInbound: true });
  t.equal(await reach(peerNetns, POD[4], 8080, podNetns, [8080, 15006]), '8080');
  t.equal(await reach(podNetns, NAMESERVER[4], 9000, peerNetns, [9000], podNetns, [15001]), '15001');
});

test('released, nothing new is captured', { timeout: 60_000 }, async (t) => {
  t.same(await redirector.release(pod), { ok: true, value: undefined });
  t.equal(await reach(podNetns, NAMESERVER[4], 9000, peerNetns, [9000], podNetns, [15001]), '9000');
  t.equal(await reach(peerNetns, POD[6], 8080, podNetns, [8080, 15006]), '8080');
});

test('removed, nothing of it is left, and again is no error', { timeout: 60_000 }, async (t) => {
  t.same(await redirector.remove(pod), { ok: true, value: undefined });
  t.same(await state(), before);
  t.same(await redirector.remove(pod), { ok: true, value: undefined });
  t.equal(await reach(podNetns, NAMESERVER[4], 9000, peerNetns, [9000, 15001]), '9000');
});

test('a pod that is gone needs no removal', { timeout: 60_000 }, async (t) => {
  for (const holder of holders) {
    holder.kill('SIGKILL');
    await once(holder, 'exit');
  }
  t.same(await redirector.remove(pod), { ok: true, value: undefined });
});

/** Which of the listeners got a connection to `ip:port`: each answers with its port. Empty when none did. */
async function reach(
  from: string,
  ip: string,
  port: number,
  serverNetns: string,
  ports: readonly number[],
  otherNetns = serverNetns,
  otherPorts: readonly number[] = [],
  source = '',
): Promise<string> {
  const servers = [await listen('tcp', serverNetns, ports)];
  if (otherPorts.length > 0) servers.push(await listen('tcp', otherNetns, otherPorts));
  try {
    return await must(from, process.execPath, '-e', CONNECT, ip, String(port), source);
  } finally {
    await stop(servers);
  }
}

async function ask(from: string, ip: string, port: number, serverNetns: string, serverPort: number): Promise<string> {
  const servers = [await listen('udp', serverNetns, [serverPort])];
  try {
    return await must(from, process.execPath, '-e', ASK, ip, String(port));
  } finally {
    await stop(servers);
  }
}

async function listen(kind: 'tcp' | 'udp', netns: string, ports: readonly number[]): Promise<ChildProcess> {
  const script = kind === 'tcp' ? LISTEN : LISTEN_UDP;
  const child = spawn('nsenter', [`--net=${netns}`, process.execPath, '-e', script, ...ports.map(String)], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  if (child.stdout !== null) await once(child.stdout, 'data');
  return child;
}

async function stop(children: readonly ChildProcess[]): Promise<void> {
  for (const child of children) {
    const gone = once(child, 'exit');
    child.kill('SIGKILL');
    await gone;
  }
}

async function state(): Promise<readonly string[]> {
  const commands = [
    'nft list ruleset',
    'ip rule',
    'ip -6 rule',
    'ip route show table all',
    'ip -6 route show table all',
  ];
  const outputs: string[] = [];
  for (const command of commands) outputs.push(await must(podNetns, 'sh', '-c', command));
  return outputs;
}

async function must(netns: string, command: string, ...args: string[]): Promise<string> {
  const result = await run('nsenter', [`--net=${netns}`, '--', command, ...args]);
  if (!result.ok) throw new Error(result.error);
  return result.value;
}

async function batch(netns: string, lines: readonly string[]): Promise<void> {
  const result = await run('nsenter', [`--net=${netns}`, '--', 'ip', '-batch', '-'], {
    input: `${lines.join('\n')}\n`,
  });
  if (!result.ok) throw new Error(result.error);
}

const NO_DAD = 'echo 0 > /proc/sys/net/ipv6/conf/default/accept_dad; echo 0 > /proc/sys/net/ipv6/conf/all/accept_dad';
const LISTEN = `const ports = process.argv.slice(1); let left = ports.length;
for (const port of ports) require('net').createServer((s) => { s.on('error', () => {}); s.end(port); }).listen(port, '::', () => --left || console.log('up'));`;
const LISTEN_UDP = `const [port] = process.argv.slice(1); let left = 2;
for (const type of ['udp4', 'udp6']) { const s = require('dgram').createSocket({ type, ipv6Only: type === 'udp6' });
s.on('message', (_, peer) => s.send(port, peer.port, peer.address)); s.bind(Number(port), () => --left || console.log('up')); s.on('error', () => {}); }`;
const CONNECT = `const [host, port, localAddress] = process.argv.slice(1);
const s = require('net').connect({ host, port: Number(port), ...(localAddress ? { localAddress } : {}), timeout: 3000 });
s.on('data', (d) => process.stdout.write(d)); s.on('error', () => process.exit()); s.on('timeout', () => process.exit());`;
const ASK = `const [host, port] = process.argv.slice(1); const s = require('dgram').createSocket(host.includes(':') ? 'udp6' : 'udp4');
s.on('message', (d) => { process.stdout.write(d); process.exit(); }); s.send('?', Number(port), host); setTimeout(() => process.exit(), 3000);`;
