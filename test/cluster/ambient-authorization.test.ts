import t from 'tap';
import {
  AMBIENT,
  accessRecords,
  authorizationPolicy,
  captured,
  ipOf,
  MESH,
  OUT,
  podOn,
  type Reach,
  reach,
  reachBecomes,
  serviceAccount,
} from './harness/in-mesh.js';
import { appService } from './harness/manifests.js';
import { meshCluster } from './harness/mesh.js';
import { until } from './harness/shell.js';
import { applyAndWait, awaitService, namespaceFor } from './harness/tap-cluster.js';

/** Whom AuthorizationPolicies let in at layer 4, by everything that they can name there. Some 20 s. */
t.setTimeout(300_000);
const cluster = await meshCluster();
const [first = '', second = first] = await cluster.nodes();
const namespace = await namespaceFor(t, cluster, AMBIENT);

const CLIENTS = ['friend', 'stranger', 'plain'];
const TARGETS = {
  http: ['--url', 'http://web/'],
  lines: ['--tcp', 'web:9000'],
  other: ['--url', 'http://other/'],
};
await applyAndWait(
  cluster,
  serviceAccount(namespace, 'friend'),
  serviceAccount(namespace, 'stranger'),
  appService({ namespace, name: 'web' }),
  appService({ namespace, name: 'other' }),
  podOn(first, { namespace, name: 'web' }),
  podOn(second, { namespace, name: 'other' }),
  podOn(second, { namespace, name: 'friend', spec: { serviceAccountName: 'friend' } }),
  podOn(first, { namespace, name: 'stranger', spec: { serviceAccountName: 'stranger' } }),
  podOn(second, { namespace, name: 'plain', labels: OUT }),
);
await captured(cluster, namespace, 'web', 'other', 'friend', 'stranger');
for (const name of ['web', 'other']) await awaitService(cluster, namespace, 'plain', `http://${name}/`);

const ALL = 'http lines other';
const principal = (name: string) => `cluster.local/ns/${namespace}/sa/${name}`;
const from = (source: object) => [{ from: [{ source }] }];
const web = { selector: { matchLabels: { app: 'web' } } };
const plainIp = await ipOf(cluster, namespace, 'plain');
const friendIp = await ipOf(cluster, namespace, 'friend');

interface Case {
  readonly title: string;
  /** Specs of policies of the namespace. */
  readonly policies: readonly object[];
  /** Targets that each client reaches; all, if it is left out. */
  readonly friend?: string;
  readonly stranger?: string;
  readonly plain?: string;
}

const CASES: readonly Case[] = [
  { title: 'without a policy', policies: [] },
  { title: 'one that allows nothing', policies: [{}], friend: '', stranger: '', plain: '' },
  {
    title: 'ALLOW a principal',
    policies: [{ ...web, rules: from({ principals: [principal('friend')] }) }],
    stranger: 'other',
    plain: 'other',
  },
  { title: 'ALLOW a namespace', policies: [{ rules: from({ namespaces: [namespace] }) }], plain: '' },
  {
    title: 'ALLOW a service account',
    policies: [{ rules: from({ serviceAccounts: [`${namespace}/stranger`] }) }],
    friend: '',
    plain: '',
  },
  {
    title: 'ALLOW addresses',
    policies: [{ ...web, rules: from({ ipBlocks: [`${plainIp}/32`] }) }],
    friend: 'other',
    stranger: 'other',
  },
  {
    title: 'ALLOW a port',
    policies: [{ ...web, rules: [{ to: [{ operation: { ports: ['8080'] } }] }] }],
    friend: 'http other',
    stranger: 'http other',
    plain: 'http other',
  },
  {
    title: 'ALLOW a principal on a port, by conditions',
    policies: [
      {
        ...web,
        rules: [
          {
            when: [
              { key: 'source.principal', values: [principal('stranger')] },
              { key: 'destination.port', values: ['9000'] },
            ],
          },
        ],
      },
    ],
    friend: 'other',
    stranger: 'lines other',
    plain: 'other',
  },
  {
    title: 'DENY a principal',
    policies: [{ action: 'DENY', rules: from({ principals: [principal('stranger')] }) }],
    stranger: '',
  },
  {
    title: 'DENY whoever has no identity',
    policies: [{ action: 'DENY', rules: from({ notPrincipals: ['*'] }) }],
    plain: '',
  },
  {
    title: 'DENY all but an address',
    policies: [{ ...web, action: 'DENY', rules: from({ notIpBlocks: [`${friendIp}/32`] }) }],
    stranger: 'other',
    plain: 'other',
  },
  {
    title: 'DENY goes over ALLOW',
    policies: [
      { rules: [{}] },
      {
        action: 'DENY',
        ...web,
        rules: [{ ...from({ principals: [principal('friend')] })[0], to: [{ operation: { ports: ['9000'] } }] }],
      },
    ],
    friend: 'http other',
  },
  {
    title: 'an ALLOW that needs HTTP lets nobody in',
    policies: [{ ...web, rules: [{ to: [{ operation: { methods: ['GET'] } }] }] }],
    friend: 'other',
    stranger: 'other',
    plain: 'other',
  },
];

for (const { title, policies, ...reached } of CASES) {
  t.test(title, async (t) => {
    await takeAway();
    const objects = policies.map((spec, at) => authorizationPolicy(namespace, spec, `p${at}`));
    if (objects.length > 0) await applyAndWait(cluster, ...objects);
    await becomes(t, reached);
  });
}

t.test('one of the root namespace is for the whole mesh, and one in dry run is for the log', async (t) => {
  await takeAway();
  const spec = { action: 'DENY', rules: from({ principals: [principal('stranger')] }) };
  await applyAndWait(cluster, authorizationPolicy(MESH, spec, `mesh-${namespace}`));
  await becomes(t, { stranger: '' });
  const dry = authorizationPolicy(MESH, spec, `mesh-${namespace}`) as { metadata: object };
  const annotations = { 'istio.io/dry-run': 'true' };
  await applyAndWait(cluster, { ...dry, metadata: { ...dry.metadata, annotations } });
  await becomes(t, {});
  await until('what it would have done is logged', async () =>
    (await accessRecords(cluster, namespace)).some((each) => each.dry_run?.includes(`mesh-${namespace}`)),
  );
});

t.test('what was refused is logged with the policy and who it was', async (t) => {
  const refused = await until('it is logged', async () => {
    const records = await accessRecords(cluster, namespace);
    const found = records.filter((each) => each.policy !== undefined && each.direction === 'inbound' && each.error);
    return found.length > 5 && found;
  });
  t.ok(refused.every((each) => each['src.identity']?.startsWith(`spiffe://cluster.local/ns/${namespace}/sa/`)));
});

t.teardown(takeAway);

async function becomes(t: { same(found: unknown, wanted: unknown): void }, reached: Partial<Record<string, string>>) {
  const wanted: Reach = Object.fromEntries(CLIENTS.map((client) => [client, row(reached[client] ?? ALL)]));
  t.same(await reachBecomes(wanted, () => reach(cluster, namespace, CLIENTS, TARGETS)), wanted);
}

function row(reached: string): Readonly<Record<string, string>> {
  const names = reached.split(' ');
  return Object.fromEntries(Object.keys(TARGETS).map((target) => [target, names.includes(target) ? 'yes' : 'no']));
}

async function takeAway(): Promise<void> {
  await cluster.kubectl(['delete', 'authorizationpolicy', '-n', namespace, '--all']);
  await cluster.kubectl(['delete', 'authorizationpolicy', '-n', MESH, `mesh-${namespace}`, '--ignore-not-found']);
}
