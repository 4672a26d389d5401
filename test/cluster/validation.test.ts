import t from 'tap';
import { meshCluster } from './harness/mesh.js';
import { until } from './harness/shell.js';
import { namespaceFor } from './harness/tap-cluster.js';

/**
 * What the API server of a real cluster refuses, warns of and writes into statuses when the mesh is
 * installed.
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
