import fc from 'fast-check';
import t from 'tap';
import { DnsMetrics } from '../../../../src/agent/dns/dns-metrics.js';
import { DnsTable } from '../../../../src/agent/dns/dns-table.js';
import { PodResolver, type PodResolverDeps } from '../../../../src/agent/dns/pod-resolver.js';
import { decodeReply, encodeQuery } from '../../../../src/lib/dns-codec.js';
import { ManualClock } from '../../../../src/lib/manual-clock.js';

t.test('answers names of the mesh itself and everything else by the nameservers', async (t) => {
  const asked: string[] = [];
  const { resolver } = setUp({
    upstream: async (bytes, query) => {
      asked.push(query.name);
      return bytes;
    },
  });
  t.match(await ask(resolver, 'web'), { rcode: 0, authoritative: true, records: [{ data: '10.96.0.1' }] });
  await resolver.resolve(queryBytes('example.com'), 'udp');
  t.same(asked, ['example.com']);
});

t.test('no answer from upstream is a server failure', async (t) => {
  t.match(await ask(setUp({ upstream: async () => undefined }).resolver, 'example.com'), {
    rcode: 2,
    name: 'example.com',
  });
  const rejecting = setUp({ upstream: () => Promise.reject(new Error('no socket')) });
  t.match(await ask(rejecting.resolver, 'example.com'), { rcode: 2 });
});

t.test('bounds the queries that wait for a nameserver, and counts the rest', async (t) => {
  const release: (() => void)[] = [];
  const { resolver, metrics } = setUp({
    upstream: () => new Promise((resolve) => release.push(() => resolve(undefined))),
  });
  const waiting = Array.from({ length: 256 }, () => resolver.resolve(queryBytes('example.com'), 'udp'));
  t.match(await ask(resolver, 'example.com'), { rcode: 2 });
  t.match(await ask(resolver, 'web'), { rcode: 0 }, 'names of the mesh need no nameserver');
  t.match(metrics.render(), /meltemi_dns_dropped_total\{reason="in-flight-limit"\} 1/);
  for (const done of release) done();
  await Promise.all(waiting);
  const again = resolver.resolve(queryBytes('example.com'), 'udp');
  release.at(-1)?.();
  t.ok(await again);
});

t.test('counts with the labels that dashboards know', async (t) => {
  const { resolver, metrics, clock } = setUp({
    upstream: async () => {
      clock.advance(20);
      return undefined;
    },
  });
  await resolver.resolve(queryBytes('web'), 'udp');
  await resolver.resolve(queryBytes('example.com'), 'tcp');
  const labels =
    'request_query_type="a",request_protocol="tcp",source_canonical_service="shop-front",source_canonical_revision="v1"';
  const text = metrics.render();
  t.ok(text.includes(`istio_dns_requests_total{${labels}} 1\n`));
  t.ok(text.includes(`istio_dns_upstream_requests_total{${labels}} 1\n`));
  t.ok(text.includes(`istio_dns_upstream_failures_total{${labels}} 1\n`));
  t.ok(text.includes(`istio_dns_upstream_request_duration_seconds_bucket{${labels},le="0.01"} 0\n`));
  t.ok(text.includes(`istio_dns_upstream_request_duration_seconds_bucket{${labels},le="0.1"} 1\n`));
});

t.test('series end with the last pod of their workload', async (t) => {
  const metrics = new DnsMetrics();
  const [first, second] = [metrics.retain('web', 'v1'), metrics.retain('web', 'v1')];
  first.request({ type: 'A', protocol: 'udp' });
  first.release();
  t.match(metrics.render(), /istio_dns_requests_total\{.*"web".*\} 1/);
  second.release();
  t.notMatch(metrics.render(), /"web"/);
});

t.test('whatever comes in, a reply carries the id or there is none', async () => {
  const { resolver } = setUp({ upstream: async () => undefined });
  const whole = queryBytes('web.shop.svc.cluster.local');
  const damage = fc.array(fc.tuple(fc.nat(whole.length - 1), fc.nat(255)), { maxLength: 5 });
  const bytes = fc.oneof(
    fc.uint8Array({ maxLength: 80 }),
    damage.map((edits) => edits.reduce((b, [at, value]) => b.with(at, value), whole)),
  );
  await fc.assert(
    fc.asyncProperty(bytes, async (message) => {
      const reply = await resolver.resolve(message, 'udp');
      return reply === undefined || (reply[0] === message[0] && reply[1] === message[1] && reply.length <= 4096);
    }),
    { numRuns: 3000 },
  );
});

function setUp(deps: Pick<PodResolverDeps, 'upstream'>) {
  const metrics = new DnsMetrics();
  const clock = new ManualClock();
  const table = new DnsTable();
  const hostname = 'web.shop.svc.cluster.local';
  const addresses = [{ network: '', ip: '10.96.0.1' }];
  const service = {
    namespace: 'shop',
    hostname,
    canonical: false,
    namespaceOnly: false,
    families: 'any',
    addresses,
    endpoints: [],
  } as const;
  table.apply([{ kind: 'put', service }]);
  const client = { namespace: 'shop', network: '', searchDomains: [], clusterDomain: 'cluster.local' };
  const counters = metrics.retain('shop-front', 'v1');
  return { resolver: new PodResolver(client, { table, counters, clock, random: () => 0, ...deps }), metrics, clock };
}

async function ask(resolver: PodResolver, name: string) {
  const reply = await resolver.resolve(queryBytes(name), 'udp');
  const read = reply === undefined ? undefined : decodeReply(reply);
  return read?.ok ? read.value : undefined;
}

function queryBytes(name: string): Uint8Array {
  const bytes = encodeQuery(5, name, 'A');
  if (!bytes.ok) throw new Error(bytes.error);
  return Uint8Array.from(bytes.value);
}
