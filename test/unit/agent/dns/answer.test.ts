import fc from 'fast-check';
import t from 'tap';
import { answer, type DnsClient } from '../../../../src/agent/dns/answer.js';
import { type DnsService, DnsTable } from '../../../../src/agent/dns/dns-table.js';
import { type DnsQuery, decodeQuery, encodeQuery } from '../../../../src/lib/dns-codec.js';

t.test('answers the addresses of a service in the family asked for', async (t) => {
  const table = tableOf(service('web', 'shop', ['10.96.0.1', 'fd00::1']));
  t.same(ips(table, 'web.shop.svc.cluster.local'), ['10.96.0.1']);
  t.same(ips(table, 'WEB.Shop.svc.cluster.LOCAL', { type: 'AAAA' }), ['fd00::1']);
  const asked = ask(table, 'WEB.shop.svc.cluster.local');
  t.match(asked, { kind: 'records', because: 'service', object: 'service/shop/web.shop.svc.cluster.local' });
  t.match(asked.kind === 'records' && asked.records[0], { name: 'WEB.shop.svc.cluster.local', ttl: 30, type: 'A' });
});

t.test('a known name without an address of the family is no data, never unknown', async (t) => {
  const table = tableOf(service('web', 'shop', ['10.96.0.1']));
  t.match(ask(table, 'web.shop.svc.cluster.local', { type: 'AAAA' }), {
    kind: 'records',
    records: [],
    because: 'no-address-of-family',
  });
});

t.test('completes short names from the namespace of the client', async (t) => {
  const table = tableOf(service('web', 'shop', ['10.96.0.1']), service('web', 'other', ['10.96.0.2']));
  t.same(ips(table, 'web'), ['10.96.0.1']);
  t.same(ips(table, 'web', { namespace: 'other' }), ['10.96.0.2']);
  t.same(ips(table, 'web', { namespace: 'third' }), 'unknown-name');
  t.same(ips(table, 'web.other'), ['10.96.0.2']);
  t.same(ips(table, 'web.other.svc'), ['10.96.0.2']);
});

t.test('takes off a search domain and tells so by an alias', async (t) => {
  const table = tableOf(service('web', 'other', ['10.96.0.2']), external('api.example.com', ['240.0.0.1']));
  const found = ask(table, 'web.other.svc.cluster.local.shop.svc.cluster.local');
  t.match(found.kind === 'records' && found.records, [
    { type: 'CNAME', name: 'web.other.svc.cluster.local.shop.svc.cluster.local', data: 'web.other.svc.cluster.local' },
    { type: 'A', name: 'web.other.svc.cluster.local', data: '10.96.0.2' },
  ]);
  t.same(ips(table, 'api.example.com.svc.cluster.local'), ['240.0.0.1']);
  t.same(ips(table, 'nothing.shop.svc.cluster.local'), 'unknown-name');
});

t.test('a headless service answers with its endpoints, and each pod by its name', async (t) => {
  const table = tableOf(headless('db', 'shop', { 'db-0': ['10.1.0.1', 'fd01::1'], 'db-1': ['10.1.0.2', 'fd01::2'] }));
  t.same(ips(table, 'db.shop.svc.cluster.local').toString().split(',').sort(), ['10.1.0.1', '10.1.0.2']);
  t.same(ips(table, 'db-1.db.shop.svc.cluster.local'), ['10.1.0.2']);
  t.same(ips(table, 'db-1.db.shop.svc.cluster.local', { type: 'AAAA' }), ['fd01::2']);
  t.same(ips(table, 'db-1.db'), ['10.1.0.2'], 'short for a pod of the same namespace');
  t.same(ips(table, 'db-1.db.shop.svc.cluster.local.svc.cluster.local'), ['10.1.0.2']);
  t.same(ips(table, 'db-9.db.shop.svc.cluster.local'), 'unknown-name');
  t.match(ask(table, 'db-0.db'), { because: 'pod-name' });
});

t.test('a headless service without endpoints is known and empty', async (t) => {
  t.same(ips(tableOf(headless('db', 'shop', {})), 'db.shop.svc.cluster.local'), []);
});

t.test('a single-stack headless service hides the other family of its pods', async (t) => {
  const table = tableOf({ ...headless('db', 'shop', { 'db-0': ['10.1.0.1', 'fd01::1'] }), families: 'ipv4' });
  t.same(ips(table, 'db.shop.svc.cluster.local', { type: 'AAAA' }), []);
  t.same(ips(table, 'db.shop.svc.cluster.local'), ['10.1.0.1']);
});

t.test('a host outside the cluster without addresses is left to the nameservers', async (t) => {
  t.same(ips(tableOf(external('api.example.com', [])), 'api.example.com'), 'unknown-name');
});

t.test('wildcards match names below them, the longest first, and an exact name before any', async (t) => {
  const table = tableOf(
    external('*.example.com', ['240.0.0.1']),
    external('*.eu.example.com', ['240.0.0.2']),
    external('api.eu.example.com', ['240.0.0.3']),
  );
  t.same(ips(table, 'a.example.com'), ['240.0.0.1']);
  t.same(ips(table, 'a.b.example.com'), ['240.0.0.1']);
  t.same(ips(table, 'a.eu.example.com'), ['240.0.0.2']);
  t.same(ips(table, 'api.eu.example.com'), ['240.0.0.3']);
  t.same(ips(table, 'example.com'), 'unknown-name', 'not the name above');
  const expanded = ask(table, 'a.example.com.shop.svc.cluster.local');
  t.match(expanded.kind === 'records' && expanded.records, [
    { type: 'A', name: 'a.example.com.shop.svc.cluster.local' },
  ]);
});

t.test('only addresses on the network of the client are answered', async (t) => {
  const far = { ...service('web', 'shop', []), addresses: [{ network: 'far', ip: '10.96.0.9' }] };
  t.same(ips(tableOf(far), 'web.shop.svc.cluster.local'), []);
  t.same(ips(tableOf(far), 'web.shop.svc.cluster.local', { network: 'far' }), ['10.96.0.9']);
});

t.test('the own namespace comes before the canonical service, that before any other', async (t) => {
  const table = tableOf(
    { ...external('api.example.com', ['240.0.0.1']), namespace: 'first' },
    { ...external('api.example.com', ['240.0.0.2']), namespace: 'second', canonical: true },
    { ...external('api.example.com', ['240.0.0.3']), namespace: 'third' },
  );
  t.same(ips(table, 'api.example.com', { namespace: 'third' }), ['240.0.0.3']);
  t.same(ips(table, 'api.example.com', { namespace: 'elsewhere' }), ['240.0.0.2']);
});

t.test('a service for its namespace only does not exist for others', async (t) => {
  const table = tableOf({ ...service('web', 'other', ['10.96.0.2']), namespaceOnly: true });
  t.same(ips(table, 'web.other'), 'unknown-name');
  t.same(ips(table, 'web.other', { namespace: 'other' }), ['10.96.0.2']);
});

t.test('other record types: nothing for cluster names, the true ones for external hosts', async (t) => {
  const table = tableOf(service('web', 'shop', ['10.96.0.1']), external('example.com', ['240.0.0.1']));
  t.match(ask(table, 'web.shop.svc.cluster.local', { type: 'MX' }), { kind: 'records', records: [] });
  t.match(ask(table, 'web.shop.svc.cluster.local', { type: 'SRV' }), { kind: 'upstream', because: 'other-type' });
  t.match(ask(table, 'example.com', { type: 'MX' }), { kind: 'upstream', because: 'other-type' });
  t.match(ask(table, 'example.com', { type: 'UNKNOWN_65' }), { kind: 'records', records: [] }, 'HTTPS holds addresses');
});

t.test('spreads the first answer over the endpoints', async (t) => {
  const table = tableOf(headless('db', 'shop', { a: ['10.1.0.1'], b: ['10.1.0.2'], c: ['10.1.0.3'] }));
  const first = (random: number) => (ips(table, 'db', {}, () => random) as string[])[0];
  t.equal(new Set([0, 0.4, 0.9].map(first)).size > 1, true);
});

t.test('changes replace and remove by namespace and host name', async (t) => {
  const table = tableOf(service('web', 'shop', ['10.96.0.1']), external('*.example.com', ['240.0.0.1']));
  table.apply([
    { kind: 'put', service: { ...service('web', 'shop', ['10.96.0.7']), hostname: 'Web.shop.svc.cluster.local' } },
  ]);
  t.same(ips(table, 'web'), ['10.96.0.7']);
  t.equal(table.size, 2);
  table.apply([
    { kind: 'remove', namespace: 'shop', hostname: 'web.shop.svc.cluster.local' },
    { kind: 'remove', namespace: 'mesh', hostname: '*.example.com' },
    { kind: 'remove', namespace: 'mesh', hostname: 'never.there' },
  ]);
  t.equal(table.size, 0);
  t.equal(table.hasWildcards, false);
  t.same(ips(table, 'web'), 'unknown-name');
});

t.test('never throws, and answers a known name with addresses of its own only', async () => {
  const label = fc.constantFrom(
    'web',
    'db',
    'db-0',
    'shop',
    'other',
    'svc',
    'cluster',
    'local',
    'example',
    'com',
    '*',
    '',
    'x',
  );
  const name = fc.array(label, { maxLength: 9 }).map((labels) => labels.join('.'));
  const host = fc.oneof(
    name,
    name.map((n) => `${n}.svc.cluster.local`),
    name.map((n) => `*.${n}`),
  );
  const entry = fc.record({
    namespace: fc.constantFrom('shop', 'other'),
    hostname: host,
    canonical: fc.boolean(),
    namespaceOnly: fc.boolean(),
    families: fc.constantFrom('any' as const, 'ipv4' as const, 'ipv6' as const),
    addresses: fc.array(
      fc.constantFrom(
        { network: '', ip: '10.96.0.1' },
        { network: '', ip: 'fd00::1' },
        { network: 'x', ip: '1.1.1.1' },
      ),
    ),
    endpoints: fc.array(fc.record({ name: label, addresses: fc.constant([{ network: '', ip: '10.1.0.1' }]) }), {
      maxLength: 3,
    }),
  });
  fc.assert(
    fc.property(
      fc.array(entry, { maxLength: 8 }),
      host,
      fc.constantFrom('A', 'AAAA', 'MX'),
      (services, asked, type) => {
        const table = tableOf(...services);
        const decision = ask(table, asked, { type });
        const allowed = new Set(['10.96.0.1', '10.1.0.1', 'fd00::1']);
        return (
          decision.kind === 'upstream' ||
          decision.records.every((r) => r.type === 'CNAME' || allowed.has(String(r.data)))
        );
      },
    ),
    { numRuns: 2000 },
  );
});

interface Asker {
  type?: string;
  namespace?: string;
  network?: string;
}

function ask(table: DnsTable, name: string, asker: Asker = {}, random = () => 0.5) {
  return answer({ ...queryFor(name), type: asker.type ?? 'A' }, clientOf(asker), table, random);
}

/** The addresses answered, or the reason why the question goes to the nameservers. */
function ips(table: DnsTable, name: string, asker: Asker = {}, random = () => 0.5): string[] | string {
  const decision = ask(table, name, asker, random);
  if (decision.kind === 'upstream') return decision.because;
  return decision.records.filter((r) => r.type === 'A' || r.type === 'AAAA').map((r) => String(r.data));
}

function clientOf({ namespace = 'shop', network = '' }: Asker): DnsClient {
  const searchDomains = [`${namespace}.svc.cluster.local`, 'svc.cluster.local', 'cluster.local'];
  return { namespace, network, searchDomains, clusterDomain: 'cluster.local' };
}

function queryFor(name: string): DnsQuery {
  const bytes = encodeQuery(1, name, 'A');
  const query = bytes.ok ? decodeQuery(bytes.value) : bytes;
  const empty = {
    id: 1,
    recursionDesired: true,
    type: 'A',
    class: 'IN',
    edns: false,
    maxUdpBytes: 512,
    question: new Uint8Array(),
  };
  return query.ok ? query.value : { ...empty, name, hostname: name.toLowerCase() };
}

function tableOf(...services: DnsService[]): DnsTable {
  const table = new DnsTable();
  table.apply(services.map((service) => ({ kind: 'put', service })));
  return table;
}

function service(name: string, namespace: string, ips: string[]): DnsService {
  return { ...external(`${name}.${namespace}.svc.cluster.local`, ips), namespace };
}

function headless(name: string, namespace: string, pods: Record<string, string[]>): DnsService {
  const endpoints = Object.entries(pods).map(([pod, ips]) => ({
    name: pod,
    addresses: ips.map((ip) => ({ network: '', ip })),
  }));
  return { ...service(name, namespace, []), endpoints };
}

function external(hostname: string, ips: string[]): DnsService {
  const addresses = ips.map((ip) => ({ network: '', ip }));
  return {
    namespace: 'mesh',
    hostname,
    canonical: false,
    namespaceOnly: false,
    families: 'any',
    addresses,
    endpoints: [],
  };
}
