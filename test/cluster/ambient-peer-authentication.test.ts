import t from 'tap';
import {
  AMBIENT,
  accessRecords,
  captured,
  MESH,
  OUT,
  peerAuthentication,
  podOn,
  type Reach,
  reach,
  reachBecomes,
} from './harness/in-mesh.js';
import { appService } from './harness/manifests.js';
import { meshCluster } from './harness/mesh.js';
import { until } from './harness/shell.js';
import { applyAndWait, awaitService, namespaceFor } from './harness/tap-cluster.js';

/** Who is let in without a tunnel: PeerAuthentication for the mesh, a namespace, pods and their ports. Some 20 s. */
t.setTimeout(300_000);
const cluster = await meshCluster();
const [first = '', second = first] = await cluster.nodes();
const namespace = await namespaceFor(t, cluster, AMBIENT);

const CLIENTS = ['friend', 'plain'];
const TARGETS = {
  http: ['--url', 'http://web/'],
  lines: ['--tcp', 'web:9000'],
  other: ['--url', 'http://other/'],
  outside: ['--url', 'http://outside/'],
};
await applyAndWait(
  cluster,
  ...['web', 'other', 'outside'].map((name) => appService({ namespace, name })),
  podOn(first, { namespace, name: 'web' }),
  podOn(first, { namespace, name: 'other' }),
  podOn(first, { namespace, name: 'outside', labels: OUT }),
  podOn(second, { namespace, name: 'friend' }),
  podOn(second, { namespace, name: 'plain', labels: OUT }),
);
await captured(cluster, namespace, 'web', 'other', 'friend');
for (const name of ['web', 'other', 'outside']) await awaitService(cluster, namespace, 'plain', `http://${name}/`);

const web = { selector: { matchLabels: { app: 'web' } } };
const mesh = (mode: string) => peerAuthentication(MESH, mode, `mesh-${namespace}`);
const own = (spec: string | object, name = 'default') => peerAuthentication(namespace, spec, name);

/** Captured pods reach everybody in every case; these are the targets that a pod outside of the mesh reaches. */
const CASES: readonly { readonly title: string; readonly policies: readonly object[]; readonly plain: string }[] = [
  { title: 'without a policy', policies: [], plain: 'http lines other outside' },
  { title: 'a STRICT namespace', policies: [own('STRICT')], plain: 'outside' },
  { title: 'a PERMISSIVE namespace', policies: [own('PERMISSIVE')], plain: 'http lines other outside' },
  { title: 'DISABLE lets in both', policies: [own('DISABLE')], plain: 'http lines other outside' },
  {
    title: 'STRICT for some pods',
    policies: [own({ ...web, mtls: { mode: 'STRICT' } }, 'web')],
    plain: 'other outside',
  },
  {
    title: 'a STRICT namespace with PERMISSIVE pods',
    policies: [own('STRICT'), own({ ...web, mtls: { mode: 'PERMISSIVE' } }, 'web')],
    plain: 'http lines outside',
  },
  {
    title: 'STRICT pods with a PERMISSIVE port',
    policies: [own({ ...web, mtls: { mode: 'STRICT' }, portLevelMtls: { 9000: { mode: 'PERMISSIVE' } } }, 'web')],
    plain: 'lines other outside',
  },
  {
    title: 'a STRICT namespace with a port that is DISABLEd',
    policies: [own('STRICT'), own({ ...web, portLevelMtls: { 8080: { mode: 'DISABLE' } } }, 'web')],
    plain: 'http outside',
  },
  {
    title: 'PERMISSIVE pods with a STRICT port',
    policies: [own({ ...web, mtls: { mode: 'PERMISSIVE' }, portLevelMtls: { 9000: { mode: 'STRICT' } } }, 'web')],
    plain: 'http other outside',
  },
  { title: 'a STRICT mesh', policies: [mesh('STRICT')], plain: 'outside' },
  {
    title: 'a STRICT mesh with a PERMISSIVE namespace',
    policies: [mesh('STRICT'), own('PERMISSIVE')],
    plain: 'http lines other outside',
  },
];

for (const { title, policies, plain } of CASES) {
  t.test(title, async (t) => {
    await takeAway();
    if (policies.length > 0) await applyAndWait(cluster, ...policies);
    const wanted: Reach = { friend: row(Object.keys(TARGETS)), plain: row(plain.split(' ')) };
    t.same(await reachBecomes(wanted, () => reach(cluster, namespace, CLIENTS, TARGETS)), wanted);
  });
}

t.test('what was refused is logged with the policy that refused it', async (t) => {
  const refused = await until('it is logged', async () => {
    const found = (await accessRecords(cluster, namespace)).filter((each) => each.policy !== undefined && each.error);
    return found.length > 10 && found;
  });
  t.ok(refused.every((each) => each.direction === 'inbound-plaintext' && each['src.identity'] === undefined));
  const names = refused.map(({ policy = '' }) => policy);
  t.ok(names.some((each) => each.includes('istio_converted_static_strict')));
  t.ok(names.some((each) => each.includes('converted_peer_authentication_web')));
});

t.teardown(takeAway);

function row(reached: readonly string[]): Readonly<Record<string, string>> {
  return Object.fromEntries(Object.keys(TARGETS).map((target) => [target, reached.includes(target) ? 'yes' : 'no']));
}

async function takeAway(): Promise<void> {
  await cluster.kubectl(['delete', 'peerauthentication', '-n', namespace, '--all']);
  await cluster.kubectl(['delete', 'peerauthentication', '-n', MESH, `mesh-${namespace}`, '--ignore-not-found']);
}
