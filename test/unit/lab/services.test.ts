import { test } from 'tap';
import { answerName, nameTable } from '../../../src/lab/names.js';
import type { KubeObject } from '../../../src/lab/objects.js';
import { serviceRules } from '../../../src/lab/service-rules.js';
import { type PodView, serviceTable } from '../../../src/lab/service-table.js';

const object = (kind: string, name: string, rest: object, labels = {}): KubeObject => ({
  apiVersion: 'v1',
  kind,
  metadata: { name, namespace: 'shop', labels, annotations: {} },
  ...rest,
});
const view = (name: string, host: number, rest: Partial<PodView> = {}): PodView => ({
  name,
  namespace: 'shop',
  labels: { app: 'web' },
  addresses: [`10.244.1.${host}`, `fd00:10:244:1::${host}`],
  ready: true,
  hostname: name,
  subdomain: '',
  ports: [{ name: 'http', port: 8080 }],
  ...rest,
});
const web = object('Service', 'web', {
  spec: {
    clusterIP: '10.96.0.20',
    clusterIPs: ['10.96.0.20', 'fd00:10:96::14'],
    selector: { app: 'web' },
    ports: [{ name: 'http', port: 80, targetPort: 'http' }],
  },
});
const headless = object('Service', 'db', {
  spec: { clusterIP: 'None', selector: { app: 'web' }, ports: [{ name: 'sql', port: 5432 }] },
});
const pods = [view('a', 2), view('b', 3, { ready: false }), view('c', 4, { namespace: 'other' })];

test('a Service leads to the ready pods of its namespace that it selects, by named ports', async (t) => {
  const [service] = serviceTable([web], pods);
  t.same(
    service?.pods.map(({ name }) => name),
    ['a'],
  );
  t.same(service?.ports[0]?.endpoints, [
    { ip: '10.244.1.2', port: 8080 },
    { ip: 'fd00:10:244:1::2', port: 8080 },
  ]);
});

test('publishNotReadyAddresses takes in pods that are not ready', async (t) => {
  const early = { ...web, spec: { ...(web.spec as object), publishNotReadyAddresses: true } };
  t.same(
    serviceTable([early], pods)[0]?.pods.map(({ name }) => name),
    ['a', 'b'],
  );
});

test('a Service without a selector has the endpoints of its slices', async (t) => {
  const bare = object('Service', 'ext', { spec: { clusterIP: '10.96.0.30', ports: [{ name: 'x', port: 1 }] } });
  const slice = object(
    'EndpointSlice',
    'ext-1',
    {
      ports: [{ name: 'x', port: 9 }],
      endpoints: [{ addresses: ['10.10.0.1'] }, { addresses: ['10.10.0.2'], conditions: { ready: false } }],
    },
    { 'kubernetes.io/service-name': 'ext' },
  );
  t.same(serviceTable([bare, slice], pods)[0]?.ports[0]?.endpoints, [{ ip: '10.10.0.1', port: 9 }]);
});

test('rules translate each family to its own, and leave Services without pods to be refused', async (t) => {
  const rules = serviceRules(serviceTable([web], pods), {
    addresses: { ipv4: '10.10.1.1', ipv6: 'fd00:10:10::1:1' },
    podAddresses: ['10.244.1.2'],
  });
  t.match(rules, 'ip daddr 10.96.0.20 tcp dport 80 dnat ip to numgen random mod 1 map { 0 : 10.244.1.2 . 8080 }');
  t.match(
    rules,
    'ip6 daddr fd00:10:96::14 tcp dport 80 dnat ip6 to numgen random mod 1 map { 0 : fd00:10:244:1::2 . 8080 }',
  );
  t.match(rules, 'ip saddr 10.244.1.2 ip daddr 10.244.1.2 snat ip to 10.10.1.1');
  t.notMatch(serviceRules(serviceTable([web], []), undefined), '10.96.0.20');
});

test('names: services, headless ones, ports and pods', async (t) => {
  const table = nameTable(serviceTable([web, headless], pods), pods, 'cluster.local');
  const ask = (name: string, type: string) => answerName(table, name, type).records.map(({ data }) => data);
  t.same(ask('web.shop.svc.cluster.local', 'A'), ['10.96.0.20']);
  t.same(ask('web.shop.svc.cluster.local', 'AAAA'), ['fd00:10:96::14']);
  t.same(ask('db.shop.svc.cluster.local', 'A'), ['10.244.1.2']);
  t.same(ask('10-244-1-2.db.shop.svc.cluster.local', 'A'), ['10.244.1.2']);
  t.same(ask('10-244-1-2.shop.pod.cluster.local', 'A'), ['10.244.1.2']);
  t.match(ask('_http._tcp.web.shop.svc.cluster.local', 'SRV'), [{ port: 80, target: 'web.shop.svc.cluster.local' }]);
  t.match(ask('_sql._tcp.db.shop.svc.cluster.local', 'SRV'), [{ port: 5432 }]);
});

test('a pod with a host name below a headless service has that name', async (t) => {
  const member = view('db-0', 5, { subdomain: 'db' });
  const table = nameTable(serviceTable([headless], [member]), [member], 'cluster.local');
  t.same(
    answerName(table, 'db-0.db.shop.svc.cluster.local', 'A').records.map(({ data }) => data),
    ['10.244.1.5'],
  );
});

test('a name without records of the type exists, an unknown one does not', async (t) => {
  const table = nameTable(serviceTable([web], pods), pods, 'cluster.local');
  t.match(answerName(table, 'web.shop.svc.cluster.local', 'MX'), { rcode: 'NOERROR', records: [] });
  t.match(answerName(table, 'nobody.shop.svc.cluster.local', 'A'), { rcode: 'NXDOMAIN', records: [] });
  t.match(answerName(table, undefined, 'A'), { rcode: 'NXDOMAIN' });
});

test('an ExternalName is an alias, followed where the target is ours', async (t) => {
  const alias = object('Service', 'old', {
    spec: { type: 'ExternalName', externalName: 'web.shop.svc.cluster.local' },
  });
  const table = nameTable(serviceTable([web, alias], pods), pods, 'cluster.local');
  t.match(answerName(table, 'old.shop.svc.cluster.local', 'A').records, [
    { type: 'CNAME' },
    { type: 'A', data: '10.96.0.20' },
  ]);
});
