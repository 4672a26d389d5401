import t from 'tap';
import { lookUpName } from '../../../../src/agent/names/name-lookup.js';
import { systemClock } from '../../../../src/lib/clock.js';
import { type DnsQuery, type DnsRecord, encodeReply } from '../../../../src/lib/dns-codec.js';
import { startNameserver } from '../../../support/dns-client.js';
import { openSockets } from '../../../support/host-sockets.js';

const BOTH = { ipv4: true, ipv6: true };

async function ask(
  host: string,
  zone: Readonly<Record<string, readonly DnsRecord[] | 'NXDOMAIN' | 'SERVFAIL'>>,
  families = BOTH,
) {
  const asked: string[] = [];
  const server = await startNameserver((query: DnsQuery, protocol) => {
    asked.push(`${query.type} ${protocol}`);
    const found = zone[`${query.type} ${query.hostname}`] ?? [];
    const reply = Array.isArray(found)
      ? ({ rcode: 'NOERROR', authoritative: true, records: found } as const)
      : ({ rcode: found as 'NXDOMAIN', authoritative: true, records: [] } as const);
    return encodeReply(query, reply, protocol === 'udp' ? query.maxUdpBytes : 65_535);
  });
  t.teardown(() => server.close());
  const nameservers = async () => [{ ip: '127.0.0.1', port: server.port }];
  const answer = await lookUpName(host, families, { sockets: openSockets(), clock: systemClock, nameservers });
  return { answer, asked: asked.sort() };
}

const a = (name: string, data: string, ttl = 30): DnsRecord => ({ name, type: 'A', ttl, data });
const alias = (name: string, data: string, ttl = 30): DnsRecord => ({ name, type: 'CNAME', ttl, data });

t.test('both families are asked for, the shorter time to live counts', async (t) => {
  const { answer, asked } = await ask('api.example.com', {
    'A api.example.com': [a('api.example.com', '192.0.2.1'), a('API.example.com', '192.0.2.2', 20)],
    'AAAA api.example.com': [{ name: 'api.example.com', type: 'AAAA', ttl: 10, data: '2001:db8:0::1' }],
  });
  t.strictSame(answer, { kind: 'addresses', ips: ['192.0.2.1', '192.0.2.2', '2001:db8::1'], ttlSeconds: 10 });
  t.strictSame(asked, ['A udp', 'AAAA udp']);
});

t.test('a family that no pod of the node has is not asked for', async (t) => {
  const zone = { 'A v4.example.com': [a('v4.example.com', '192.0.2.1')] };
  const { asked } = await ask('v4.example.com', zone, { ipv4: true, ipv6: false });
  t.strictSame(asked, ['A udp']);
});

t.test('aliases are followed to their end, and what belongs to no link of the chain is left out', async (t) => {
  const { answer } = await ask('www.example.com', {
    'A www.example.com': [
      alias('www.example.com', 'Web.Example.net', 7),
      alias('web.example.net', 'host.example.net'),
      a('host.example.net', '192.0.2.9', 60),
      a('other.example.net', '192.0.2.66'),
    ],
  });
  t.strictSame(answer, { kind: 'addresses', ips: ['192.0.2.9'], ttlSeconds: 7 });
});

t.test('aliases in a circle lead nowhere', async (t) => {
  const circle = [alias('a.example.com', 'b.example.com'), alias('b.example.com', 'a.example.com')];
  const { answer } = await ask('a.example.com', { 'A a.example.com': circle });
  t.strictSame(answer, { kind: 'none', problem: 'no address' });
});

t.test('what does not exist, has no address, or fails, is told apart', async (t) => {
  const none = await ask('no.example.com', { 'A no.example.com': 'NXDOMAIN', 'AAAA no.example.com': 'NXDOMAIN' });
  t.strictSame(none.answer, { kind: 'none', problem: 'NXDOMAIN' });
  t.strictSame((await ask('empty.example.com', {})).answer, { kind: 'none', problem: 'no address' });
  const broken = await ask('bad.example.com', { 'A bad.example.com': 'SERVFAIL' });
  t.strictSame(broken.answer, { kind: 'failed', problem: 'SERVFAIL' }, 'also when the other family has nothing');
  const half = await ask('half.example.com', {
    'A half.example.com': [a('half.example.com', '192.0.2.5')],
    'AAAA half.example.com': 'SERVFAIL',
  });
  t.match(half.answer, { kind: 'addresses', ips: ['192.0.2.5'] });
  t.match((await ask(`${'x'.repeat(70)}.example.com`, {})).answer, { kind: 'none', problem: 'no DNS name' });
});

t.test("a block list's answer is no address", async (t) => {
  const { answer } = await ask('ads.example.com', { 'A ads.example.com': [a('ads.example.com', '0.0.0.0')] });
  t.strictSame(answer, { kind: 'none', problem: 'no address that anybody could have' });
});

t.test('an answer too long for UDP is fetched over TCP, and cut at 32 addresses', async (t) => {
  const many = Array.from({ length: 100 }, (_, i) => a('many.example.com', `192.0.2.${i}`));
  const { answer, asked } = await ask('many.example.com', { 'A many.example.com': many }, { ipv4: true, ipv6: false });
  t.equal(answer.kind === 'addresses' && answer.ips.length, 32);
  t.strictSame(asked, ['A tcp', 'A udp']);
});

t.test('without a nameserver nothing is known, and nothing waits', async (t) => {
  const deps = { sockets: openSockets(), clock: systemClock };
  for (const nameservers of [async () => [], () => Promise.reject(new Error('ENOENT'))]) {
    const answer = await lookUpName('a.example.com', BOTH, { ...deps, nameservers });
    t.strictSame(answer, { kind: 'failed', problem: 'this node knows no nameserver' });
  }
});
