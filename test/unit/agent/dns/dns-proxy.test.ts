import t from 'tap';
import type { DnsPod } from '../../../../src/agent/dns/dns-messages.js';
import { DnsProxy } from '../../../../src/agent/dns/dns-proxy.js';
import type { DnsService } from '../../../../src/agent/dns/dns-table.js';
import { systemClock } from '../../../../src/lib/clock.js';
import { ManualClock } from '../../../../src/lib/manual-clock.js';
import { addressReply, askTcp, askUdp, startNameserver } from '../../../support/dns-client.js';

t.test('the worker answers on UDP and TCP, v4 and v6, and passes on what it does not know', async (t) => {
  const nameserver = await startNameserver((query) => addressReply(query, '192.0.2.1'));
  t.teardown(() => nameserver.close());
  const { proxy } = await start(t, [service('web', ['10.96.0.1', 'fd00::1'])]);
  const port = await add(proxy, { nameservers: ['not an address', nameserver.address] });
  t.match(await askUdp('web', 'A', '127.0.0.1', port), { authoritative: true, records: [{ data: '10.96.0.1' }] });
  t.match(await askTcp('web', 'AAAA', '::1', port), { authoritative: true, records: [{ data: 'fd00::1' }] });
  t.match(await askUdp('web', 'A', '::1', port), { records: [{ data: '10.96.0.1' }] });
  t.match(await askUdp('example.com', 'A', '127.0.0.1', port), {
    authoritative: false,
    records: [{ data: '192.0.2.1' }],
  });
  t.match(await askTcp('example.com', 'A', '127.0.0.1', port), { records: [{ data: '192.0.2.1' }] });
  t.match(await proxy.metrics(), /istio_dns_upstream_requests_total\{request_query_type="a",request_protocol="tcp"/);
});

t.test('updates and pods come and go', async (t) => {
  const { proxy } = await start(t, []);
  const port = await add(proxy, {});
  t.match(await askUdp('web', 'A', '127.0.0.1', port), { rcode: 2 }, 'unknown, and the pod has no nameserver');
  proxy.update([{ kind: 'put', service: service('web', ['10.96.0.1']) }]);
  // The worker takes its messages in order: an answer to the next means that the update is in force.
  await proxy.metrics();
  t.match(await askUdp('web', 'A', '127.0.0.1', port), { records: [{ data: '10.96.0.1' }] });
  t.equal(await add(proxy, {}), port, 'adding again changes nothing');
  proxy.removePod('p1');
  proxy.removePod('p1');
  await proxy.metrics();
  await t.rejects(askTcp('web', 'A', '127.0.0.1', port));
});

t.test('a retired proxy answers what it was asked and reads nothing more, until pods are added again', async (t) => {
  const asked = Promise.withResolvers<void>();
  const answer = Promise.withResolvers<void>();
  const nameserver = await startNameserver(async (query) => {
    asked.resolve();
    await answer.promise;
    return addressReply(query, '192.0.2.1');
  });
  t.teardown(() => nameserver.close());
  const { proxy } = await start(t, [service('web', ['10.96.0.1'])]);
  const port = await add(proxy, { nameservers: [nameserver.address] });
  const slow = askUdp('example.com', 'A', '127.0.0.1', port);
  await asked.promise;
  proxy.retire();
  await proxy.metrics();
  answer.resolve();
  t.match(await slow, { records: [{ data: '192.0.2.1' }] });
  await t.rejects(askUdp('web', 'A', '127.0.0.1', port, 300));
  const again = await add(proxy, { nameservers: [nameserver.address] });
  t.match(await askUdp('web', 'A', '127.0.0.1', again), { records: [{ data: '10.96.0.1' }] });
});

t.test('a pod whose sockets cannot be made is an error that names it', async (t) => {
  const { proxy } = await start(
    t,
    [],
    'data:text/javascript,export const openSockets=()=>({bindUdp:async()=>{throw new Error("no such namespace")}})',
  );
  const added = await proxy.addPod(pod({}));
  t.match(added, { ok: false, error: /p1 in .*no such namespace/ });
});

t.test('a worker that takes its time to come up is waited for', async (t) => {
  const clock = new ManualClock();
  const proxy = new DnsProxy({
    clusterDomain: 'cluster.local',
    network: '',
    port: 0,
    mark: 0,
    sockets: new URL(SOCKETS),
    source: { services: () => [] },
    clock,
    onFailure: (message) => t.fail(message),
  });
  t.teardown(() => proxy.close());
  const started = proxy.start();
  clock.advance(30_000);
  await started;
});

t.test('a worker that dies is replaced, with its services and pods', async (t) => {
  const fragile = `data:text/javascript,import {openSockets as o} from ${JSON.stringify(SOCKETS)};
    export const openSockets=()=>{const s=o();return{...s,async bindUdp(n,ip,p,m){
      if(ip==='0.0.0.0')setTimeout(()=>{throw new Error('worker bug')});return s.bindUdp(n,ip,p,m)}}}`;
  const { proxy, failures } = await start(t, [service('web', ['10.96.0.1'])], fragile.replaceAll('\n', ' '), 25353);
  const port = await add(proxy, { nameservers: ['127.0.0.1:9'] });
  await t.rejects(askUdp('example.com', 'A', '127.0.0.1', port, 300), 'its query to a nameserver kills it');
  for (let tries = 0; ; tries++) {
    const reply = await askUdp('web', 'A', '127.0.0.1', port, 500).catch(() => undefined);
    if (reply === undefined && tries < 20) continue;
    t.match(reply, { records: [{ data: '10.96.0.1' }] });
    break;
  }
  t.same(failures, ['worker bug']);
  t.match(await proxy.metrics(), /meltemi_dns_worker_restarts_total 1/);
});

const SOCKETS = new URL('../../../support/host-sockets.js', import.meta.url).href;

async function start(t: { teardown(run: () => unknown): void }, services: DnsService[], sockets = SOCKETS, port = 0) {
  const failures: string[] = [];
  const proxy = new DnsProxy({
    clusterDomain: 'cluster.local',
    network: '',
    port,
    mark: 0,
    sockets: new URL(sockets),
    source: { services: () => services },
    clock: systemClock,
    onFailure: (message) => failures.push(message),
  });
  await proxy.start();
  t.teardown(() => proxy.close());
  return { proxy, failures };
}

async function add(proxy: DnsProxy, fields: Partial<DnsPod>): Promise<number> {
  const added = await proxy.addPod(pod(fields));
  if (!added.ok) throw new Error(added.error);
  return added.value;
}

function pod(fields: Partial<DnsPod>): DnsPod {
  const empty = { nameservers: [], searchDomains: [], canonicalName: 'web', canonicalRevision: 'latest' };
  return { uid: 'p1', netns: '/proc/self/ns/net', namespace: 'shop', ...empty, ...fields };
}

function service(name: string, ips: string[]): DnsService {
  const addresses = ips.map((ip) => ({ network: '', ip }));
  const hostname = `${name}.shop.svc.cluster.local`;
  return {
    namespace: 'shop',
    hostname,
    canonical: false,
    namespaceOnly: false,
    families: 'any',
    addresses,
    endpoints: [],
  };
}
