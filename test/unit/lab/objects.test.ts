import { test } from 'tap';
import { kindOf, objectKey, objectTitle, parseObjects, selects } from '../../../src/lab/objects.js';

test('what is wrong in a file is named with its line, and the rest goes on', async (t) => {
  const { objects, problems } = parseObjects(
    [
      'apiVersion: v1',
      'kind: Pod',
      'metadata: { name: web, namespace: shop }',
      '---',
      'kind: Pod',
      '---',
      '[a, list]',
      '---',
      'apiVersion: v1',
      'kind: Service',
      'metadata: { name: ../etc }',
      '---',
      'apiVersion: v1',
      'kind: Namespace',
      'metadata: { name: shop, namespace: ignored }',
    ].join('\n'),
    'shop.yaml',
  );
  t.same(objects.map(objectTitle), ['Pod shop/web', 'Namespace shop']);
  t.equal(problems.length, 3);
  t.match(problems[0], /^shop\.yaml, line 5: apiVersion is missing/);
  t.match(problems[1], /^shop\.yaml, line 7: this is no Kubernetes object/);
  t.match(problems[2], /^shop\.yaml, line 9: Service: metadata\.name/);
});

test('text that is no YAML is named with its source', async (t) => {
  const { objects, problems } = parseObjects('a: [1', 'broken.yaml');
  t.same(objects, []);
  t.match(problems[0], /^broken\.yaml: line \d+/);
});

test('a List is opened, and namespaced objects without a namespace are in default', async (t) => {
  const item = { apiVersion: 'v1', kind: 'Pod', metadata: { name: 'a', labels: { version: 1 } } };
  const { objects } = parseObjects(JSON.stringify({ apiVersion: 'v1', kind: 'List', items: [item] }), 'x');
  t.equal(objects[0]?.metadata.namespace, 'default');
  t.same(objects[0]?.metadata.labels, { version: '1' });
});

test('versions of a group are the same object, other groups are not', async (t) => {
  const metadata = { name: 'a', namespace: 'b', labels: {}, annotations: {} };
  const key = (apiVersion: string) => objectKey({ apiVersion, kind: 'Gateway', metadata });
  t.equal(key('networking.istio.io/v1'), key('networking.istio.io/v1beta1'));
  t.not(key('networking.istio.io/v1'), key('gateway.networking.k8s.io/v1'));
});

test('an empty selector selects nothing', async (t) => {
  t.notOk(selects({}, { app: 'web' }));
  t.ok(selects({ app: 'web' }, { app: 'web', tier: 'front' }));
  t.notOk(selects({ app: 'web', tier: 'back' }, { app: 'web', tier: 'front' }));
});

test('kinds are known by their short names', async (t) => {
  t.same(['ns', 'pods', 'svc', 'Deployment', 'Gateway'].map(kindOf), [
    'Namespace',
    'Pod',
    'Service',
    'Deployment',
    'Gateway',
  ]);
});
