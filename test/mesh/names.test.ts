/** Endpoints that are host names, asked of a real nameserver: the lab's own, which knows headless Services. */

import root, { test } from 'tap';
import type { OutboundExplanation } from '../../src/agent/explain/explain-outbound.js';
import { CAPTURED, idlePod, type Manifest, namespace, serverPod, service, serviceEntry } from '../support/manifests.js';
import { addressOf, Mesh, meltemi, podOf, until } from '../support/mesh.js';
import type { Prober } from '../support/prober.js';

// Each test has a limit of its own, and the runner has one for the file.
root.setTimeout(0);

const PORTS = [{ number: 80, name: 'tcp', protocol: 'TCP', targetPort: 8080 }];
const FARM = 'farm.street.svc.cluster.local';
let mesh: Mesh;
let caller: Prober;

test('a lab comes up in which pods outside of the mesh have a name', { timeout: 120_000 }, async () => {
  mesh = await Mesh.up('names');
  await mesh.apply([
    namespace('app', CAPTURED),
    namespace('street'),
    idlePod({ name: 'caller', namespace: 'app', node: 1 }),
    barn('first'),
    service({
      name: 'farm',
      namespace: 'street',
      selector: { group: 'farm' },
      ports: [{ port: 80, targetPort: 8080 }],
    }),
    external('eggs', { resolution: 'DNS', endpoints: [{ address: FARM }] }),
    external('milk', { resolution: 'DNS_ROUND_ROBIN', endpoints: [{ address: FARM }] }),
    external('gone', { resolution: 'DNS' }),
    external('chosen', { resolution: 'STATIC', workloadSelector: { labels: { app: 'tractor' } } }),
    {
      apiVersion: 'networking.istio.io/v1',
      kind: 'WorkloadEntry',
      metadata: { name: 'tractor', namespace: 'app' },
      spec: { address: FARM, labels: { app: 'tractor' } },
    },
  ]);
  await mesh.ready(['caller.app']);
  caller = await mesh.prober('caller.app');
});

test('a connection goes to what DNS says, over both families', { timeout: 60_000 }, async (t) => {
  const log = mesh.accessLog('node-1');
  for (const host of ['eggs.example.com', 'milk.example.com', 'chosen.example.com']) {
    for (const family of [4, 6] as const) {
      t.match(
        await caller.probe({ host, port: 80, family }),
        { outcome: 'connected', server: 'first' },
        `${host} over IPv${family}`,
      );
      const [record] = await log.wait(`the record of ${host}`, (each) => each['dst.service'] === host);
      t.match(record, { direction: 'outbound', because: 'service-endpoint', 'src.identity': /sa\/caller$/ });
    }
  }
  const firsts = podOf(await mesh.status(), 'first.street');
  const { names } = JSON.parse(await mesh.agent('node-1', '/config_dump')) as { names: readonly { name: string }[] };
  t.match(
    names.find(({ name }) => name === FARM),
    { ips: [addressOf(firsts, 4), addressOf(firsts, 6)], problem: '', isStale: false },
  );
});

test('explain says which name it was, and what became of it', { timeout: 60_000 }, async (t) => {
  const ask = (host: string) =>
    mesh
      .agent('node-1', `/explain?pod=app/caller&host=${host}&port=80`)
      .then((body) => JSON.parse(body) as OutboundExplanation);
  const found = await ask('eggs.example.com');
  t.match(found.routes[0], {
    because: 'service-endpoint',
    objects: ['service/app/eggs.example.com', `name/${FARM}`],
    endpoints: [{ name: FARM, transport: 'plaintext', eligible: true }],
  });
  const missed = await ask('gone.example.com');
  t.match(missed.routes[0], {
    because: 'name-unresolved',
    objects: ['service/app/gone.example.com', 'name/gone.example.com (NXDOMAIN)'],
  });
  const { stdout } = await meltemi('explain', 'caller.app', 'eggs.example.com:80', '--lab', mesh.name);
  t.match(stdout, `as DNS says of ${FARM}`);
});

test('a name that does not exist refuses the connection, and nothing else', { timeout: 60_000 }, async (t) => {
  const log = mesh.accessLog('node-1');
  t.not((await caller.probe({ host: 'gone.example.com', port: 80, family: 4 })).outcome, 'connected');
  const [record] = await log.wait('the record', (each) => each['dst.service'] === 'gone.example.com');
  t.equal(record?.because, 'name-unresolved');
  t.match(await caller.probe({ host: 'eggs.example.com', port: 80 }), { outcome: 'connected' });
});

test('when DNS says something else, new connections follow within its time to live', {
  timeout: 120_000,
}, async (t) => {
  const talk = await caller.open({ host: 'eggs.example.com', port: 80, family: 4 });
  t.equal(talk.greeting.server, 'first');
  await mesh.apply([barn('second')]);
  await mesh.ready(['caller.app']);
  await mesh.label('Pod', 'street', 'first', { group: null });
  await until(
    'connections reach the second server',
    async () => (await caller.probe({ host: 'eggs.example.com', port: 80, family: 4 })).server === 'second',
    60_000,
  );
  const { servers, ok } = await caller.churn({ host: 'eggs.example.com', port: 80, family: 4, count: 50 });
  t.equal(ok, 50);
  t.strictSame(servers, { second: 50 });
  await talk.tell('up 100');
  await talk.push(100);
  t.match(await talk.line(), /100/, 'what was there before stays');
  await talk.close();
});

test('the lab goes down', async () => {
  await mesh[Symbol.asyncDispose]();
});

function barn(name: string): Manifest {
  return serverPod({ name, namespace: 'street', node: 2, labels: { group: 'farm' } }, [8080]);
}

function external(name: string, spec: object): Manifest {
  return serviceEntry(name, 'app', {
    hosts: [`${name}.example.com`],
    ports: PORTS,
    location: 'MESH_EXTERNAL',
    ...spec,
  });
}
