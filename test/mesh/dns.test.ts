/**
 * The DNS proxy where it lives: sockets inside a pod's network namespace, the rules that redirect, the resolver of libc
 * with a pod's resolv.conf, and a nameserver beyond the pod.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import t from 'tap';
import { DnsProxy } from '../../src/agent/dns/dns-proxy.js';
import type { DnsService } from '../../src/agent/dns/dns-table.js';
import { NETNS_SOCKETS } from '../../src/agent/dns/netns-sockets.js';
import { DEFAULT_REDIRECT_PORTS } from '../../src/agent/redirect/redirector.js';
import { captureRuleset } from '../../src/agent/redirect/ruleset.js';
import { systemClock } from '../../src/lib/clock.js';
import { run } from '../../src/lib/command.js';

const [POD, OUTSIDE] = [`dnspod${process.pid}`, `dnsout${process.pid}`];
const NAMESERVERS = ['10.88.0.53', 'fd88::53'];
const CHILD = join(import.meta.dirname, '../support/dns-child.js');
const directory = mkdtempSync(join(tmpdir(), 'dns-'));
const failures: string[] = [];
const proxy = new DnsProxy({
  clusterDomain: 'cluster.local',
  network: '',
  port: DEFAULT_REDIRECT_PORTS.dns,
  mark: 0x539,
  sockets: NETNS_SOCKETS,
  source: { services },
  clock: systemClock,
  onFailure: (message) => failures.push(message),
});
let nameserver: ChildProcess;

t.before(async () => {
  for (const name of [POD, OUTSIDE]) {
    await must('ip', ['netns', 'add', name]);
    await must('ip', ['-n', name, 'link', 'set', 'lo', 'up']);
  }
  await must('ip', ['-n', POD, 'link', 'add', 'eth0', 'type', 'veth', 'peer', 'name', 'eth0', 'netns', OUTSIDE]);
  for (const [name, ips] of [
    [POD, ['10.88.0.2', 'fd88::2']],
    [OUTSIDE, NAMESERVERS],
  ] as const) {
    await must('ip', ['-n', name, 'link', 'set', 'eth0', 'up']);
    for (const ip of ips) {
      const prefix = ip.includes(':') ? [`${ip}/64`, 'nodad'] : [`${ip}/24`];
      await must('ip', ['-n', name, 'address', 'add', 'dev', 'eth0', ...prefix]);
    }
  }
  nameserver = spawn(
    'nsenter',
    [`--net=/run/netns/${OUTSIDE}`, process.execPath, CHILD, 'nameserver', ...NAMESERVERS],
    {
      stdio: ['ignore', 'pipe', 'inherit'],
    },
  );
  await once(nameserver.stdout ?? nameserver, 'data');
  await proxy.start();
  const pod = {
    uid: 'p1',
    netns: `/run/netns/${POD}`,
    namespace: 'shop',
    nameservers: NAMESERVERS,
    searchDomains: ['shop.svc.cluster.local', 'svc.cluster.local', 'cluster.local'],
    canonicalName: 'client',
    canonicalRevision: 'latest',
  };
  const added = await proxy.addPod(pod);
  if (!added.ok) throw new Error(added.error);
  await must(
    'nsenter',
    [`--net=${pod.netns}`, 'nft', '-f', '-'],
    captureRuleset({ ipv6: true, nameservers: NAMESERVERS }, DEFAULT_REDIRECT_PORTS),
  );
});

t.teardown(async () => {
  await proxy.close();
  nameserver?.kill();
  for (const name of [POD, OUTSIDE]) await run('ip', ['netns', 'delete', name]);
  rmSync(directory, { recursive: true, force: true });
});

for (const server of NAMESERVERS) {
  t.test(`an app whose resolver asks ${server} finds names of the mesh and of the world`, async (t) => {
    t.same(await resolve(server, 'ahostsv4', 'web'), ['10.96.0.1']);
    t.same(await resolve(server, 'ahostsv6', 'web'), ['fd96::1']);
    t.same(await resolve(server, 'ahostsv4', 'api.other'), ['10.96.0.2']);
    t.same(await resolve(server, 'ahostsv4', 'web.shop.svc.cluster.local'), ['10.96.0.1']);
    t.same(await resolve(server, 'ahostsv4', 'db-1.db'), ['10.1.0.2']);
    t.same((await resolve(server, 'ahostsv4', 'db')).sort(), ['10.1.0.1', '10.1.0.2']);
    t.same(await resolve(server, 'ahostsv4', 'deep.down.wild.example.org'), ['240.0.0.1']);
    t.same(await resolve(server, 'ahostsv4', 'www.example.com'), ['192.0.2.7'], 'by the nameserver of the pod');
    t.same(await resolve(server, 'ahostsv6', 'www.example.com'), ['2001:db8::7']);
    t.equal((await resolve(server, 'ahostsv4', 'many.example.com')).length, 60, 'too many for UDP');
    t.same(await resolve(server, 'ahostsv4', 'nothing.example.net'), []);
  });
}

t.test('look-ups are answered while the main thread stands still for 5 s', async (t) => {
  const asker = spawn(
    'nsenter',
    [`--net=/run/netns/${POD}`, process.execPath, CHILD, 'ask', NAMESERVERS[0] ?? '', '6500', 'web', 'www.example.com'],
    { stdio: ['ignore', 'pipe', 'inherit'] },
  );
  const printed = new Promise<string>((resolve) => asker.stdout.once('data', (bytes) => resolve(String(bytes))));
  await new Promise((resolve) => setTimeout(resolve, 700));
  const from = performance.now();
  while (performance.now() - from < 5000);
  const outcome = JSON.parse(await printed) as { answered: number; failed: number; slowestMs: number };
  t.comment(`${outcome.answered} answered, the slowest after ${outcome.slowestMs} ms`);
  t.equal(outcome.failed, 0);
  t.ok(outcome.answered > 200);
  t.ok(outcome.slowestMs < 1000);
  t.match(await proxy.metrics(), /istio_dns_upstream_requests_total\{.*request_protocol="tcp"/, 'upstream saw TCP too');
  t.same(failures, []);
});

t.test('a pod that is gone gives its sockets back', async (t) => {
  proxy.removePod('p1');
  await proxy.metrics();
  t.equal((await must('nsenter', [`--net=/run/netns/${POD}`, 'ss', '-Hlntu'])).trim(), '');
});

/** The addresses that `getent` finds with `server` in resolv.conf; none when the name is unknown. */
async function resolve(server: string, database: 'ahostsv4' | 'ahostsv6', name: string): Promise<string[]> {
  const conf = join(directory, 'resolv.conf');
  writeFileSync(
    conf,
    `nameserver ${server}\nsearch shop.svc.cluster.local svc.cluster.local cluster.local\noptions ndots:5\n`,
  );
  const script = `mount --bind ${conf} /etc/resolv.conf && exec getent ${database} ${name}`;
  const found = await run('nsenter', [`--net=/run/netns/${POD}`, 'unshare', '--mount', 'sh', '-c', script], {
    timeoutMs: 30_000,
  });
  if (!found.ok) return [];
  return [...new Set(found.value.split('\n').flatMap((line) => line.split(/\s+/)[0] || []))];
}

function* services(): Iterable<DnsService> {
  yield service('web', 'shop', ['10.96.0.1', 'fd96::1']);
  yield service('api', 'other', ['10.96.0.2']);
  yield { ...service('x', 'mesh', ['240.0.0.1']), hostname: '*.wild.example.org' };
  const endpoints = ['10.1.0.1', '10.1.0.2'].map((ip, i) => ({ name: `db-${i}`, addresses: [{ network: '', ip }] }));
  yield { ...service('db', 'shop', []), endpoints };
}

function service(name: string, namespace: string, ips: string[]): DnsService {
  const addresses = ips.map((ip) => ({ network: '', ip }));
  const hostname = `${name}.${namespace}.svc.cluster.local`;
  return { namespace, hostname, canonical: false, namespaceOnly: false, families: 'any', addresses, endpoints: [] };
}

async function must(command: string, args: readonly string[], input?: string): Promise<string> {
  const result = await run(command, args, input === undefined ? {} : { input });
  if (!result.ok) throw new Error(result.error);
  return result.value;
}
