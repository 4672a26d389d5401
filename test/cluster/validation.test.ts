import t from 'tap';
import { AMBIENT, accessRecords, captured, reach, reachBecomes } from './harness/in-mesh.js';
import { appPod, appService } from './harness/manifests.js';
import { meshCluster } from './harness/mesh.js';
import { until } from './harness/shell.js';
import { applyAndWait, namespaceFor } from './harness/tap-cluster.js';

/**
 * What the API server of a real cluster refuses, warns of and writes into statuses when the mesh is
 * installed. Some 20 s.
 */
t.setTimeout(300_000);
const cluster = await meshCluster();
const CONFIGURATION = 'meltemi-validator-istio-system';

t.test('the webhook becomes binding by itself once the API server reaches it', async (t) => {
  await binding();
  const bundle = ['-o', 'jsonpath={.webhooks[*].clientConfig.caBundle}'];
  const bundles = await cluster.kubectl(['get', 'validatingwebhookconfiguration', CONFIGURATION, ...bundle]);
  t.ok(bundles.split(' ').length > 3);
  t.ok(bundles.split(' ').every((each) => Buffer.from(each, 'base64').includes('BEGIN CERTIFICATE')));
});

t.test('a bad object is refused in words that help, a changed one too', async (t) => {
  const namespace = await namespaceFor(t, cluster);
  await binding();
  await t.rejects(apply(policy(namespace, { rules: [{ when: [{ key: 'source.ipBlock', values: ['x'] }] }] })), {
    message: new RegExp(
      `AuthorizationPolicy ${namespace}/p: spec\\.rules\\[0\\]\\.when\\[0\\]\\.key is "source\\.ipBlock"`,
    ),
  });
  await apply(policy(namespace, { rules: [{}] }));
  await t.rejects(apply(policy(namespace, { action: 'CUSTOM', provider: { name: '' }, rules: [{}] })), {
    message: /spec\.provider\.name is missing/,
  });
});

t.test('what has no effect is let in, and its status says why; statuses follow changes', async (t) => {
  const namespace = await namespaceFor(t, cluster, { 'istio.io/dataplane-mode': 'ambient' });
  await apply(policy(namespace, { action: 'AUDIT', rules: [{}] }));
  const said = () =>
    cluster.kubectl([
      ...['get', 'authorizationpolicy', 'p', '-n', namespace, '-o'],
      'jsonpath={range .status.conditions[*]}{.type}={.status} {.reason} {.observedGeneration}{"\\n"}{end}',
    ]);
  await until('it is said', async () => (await said()) === 'ZtunnelAccepted=False UnsupportedValue 1\n');
  await apply(policy(namespace, { action: 'DENY', rules: [{ from: [{ source: { namespaces: ['nobody'] } }] }] }));
  await until('it is said', async () => (await said()) === 'ZtunnelAccepted=True Accepted 2\n');
});

t.test('a policy that cannot be read and got in all the same denies what it selects, until it is mended', async (t) => {
  const namespace = await namespaceFor(t, cluster, AMBIENT);
  await applyAndWait(
    cluster,
    appPod({ namespace, name: 'client' }),
    appPod({ namespace, name: 'web' }),
    appPod({ namespace, name: 'other' }),
    appService({ namespace, name: 'web' }),
    appService({ namespace, name: 'other' }),
  );
  await captured(cluster, namespace, 'client', 'web', 'other');
  const targets = { web: ['--url', `http://web.${namespace}/`], other: ['--url', `http://other.${namespace}/`] };
  const ask = () => reach(cluster, namespace, ['client'], targets);
  const open = { client: { web: 'yes', other: 'yes' } };
  t.same(await reachBecomes(open, ask), open);
  const selector = { matchLabels: { app: 'web' } };
  const bad = policy(namespace, { selector, rules: [{ when: [{ key: 'nonsense', values: ['x'] }] }] });
  // No control plane of that revision is there to refuse it.
  await apply({ ...bad, metadata: { ...bad.metadata, labels: { 'istio.io/rev': 'nobody' } } });
  const closed = { client: { web: 'no', other: 'yes' } };
  t.same(await reachBecomes(closed, ask), closed);
  const refused = await until('it is logged', async () => {
    return (await accessRecords(cluster, namespace)).find(({ because }) => because === 'policy-invalid');
  });
  t.match(refused.policy, new RegExp(`^${namespace}/p \\(spec\\.rules\\[0\\]\\.when\\[0\\]\\.key is "nonsense"`));
  await apply(policy(namespace, { selector, rules: [{}] }));
  t.same(await reachBecomes(open, ask), open);
});

async function binding(): Promise<void> {
  const path = ['-o', 'jsonpath={.webhooks[?(@.name=="default.validation.meltemi.io")].failurePolicy}'];
  await until(
    'the failure policy is Fail',
    async () => (await cluster.kubectl(['get', 'validatingwebhookconfiguration', CONFIGURATION, ...path])) === 'Fail',
  );
}

function apply(object: object): Promise<string> {
  return cluster.kubectl(['apply', '-f', '-'], object);
}

function policy(namespace: string, spec: object) {
  return { apiVersion: 'security.istio.io/v1', kind: 'AuthorizationPolicy', metadata: { name: 'p', namespace }, spec };
}
