import t from 'tap';
import { type BadObject, KindLedger } from '../../../../../src/control/inputs/kubernetes/kind-ledger.js';
import { readObject } from '../../../../../src/control/inputs/kubernetes/read-object.js';
import type { ApiObject } from '../../../../../src/kube/api.js';

function pod(name: string, phase = 'Running', annotations: Record<string, string> = {}): ApiObject {
  return {
    apiVersion: 'v1',
    kind: 'Pod',
    metadata: { name, namespace: 'shop', annotations },
    spec: { nodeName: 'n1' },
    status: { phase },
  };
}

t.test('an object that is no good keeps its last good version, and is told of once a version', async (t) => {
  const rejected: BadObject[] = [];
  const ledger = new KindLedger('Pod', (bad) => rejected.push(bad));
  t.match(ledger.put(readObject(pod('a'))), { gone: false, object: { phase: 'Running' } });
  t.equal(ledger.put(readObject(pod('a', 'Asleep'))), undefined);
  t.equal(ledger.put(readObject(pod('a', 'Asleep'))), undefined);
  t.match(rejected, [{ object: 'Pod shop/a', kept: true, problems: [/status\.phase is "Asleep"/] }]);
  t.equal(rejected.length, 1);
  t.same([ledger.size, ledger.badCount], [1, 1]);
  t.match(ledger.put(readObject(pod('a', 'Pending'))), { object: { phase: 'Pending' } });
  t.same([ledger.size, ledger.badCount, ledger.bad()], [1, 0, []]);
});

t.test('a replacement takes away what it does not name, good or bad', async (t) => {
  const ledger = new KindLedger('Pod', () => {});
  for (const each of [pod('a'), pod('b'), pod('c', 'Asleep')]) ledger.put(readObject(each));
  const changes = ledger.replace([pod('b'), pod('d'), pod('e', 'Asleep')].map(readObject));
  t.same(
    changes.map(({ object, gone }) => `${gone ? '-' : '+'}${object.metadata.name}`),
    ['-a', '+b', '+d'],
  );
  t.same(
    ledger.bad().map(({ object, kept }) => [object, kept]),
    [['Pod shop/e', false]],
  );
  t.equal(ledger.remove('shop/e'), undefined, 'nothing of it was in force');
  t.equal(ledger.badCount, 0);
});

t.test('of annotations only those that the mesh may read are kept', async (t) => {
  const { object } = readObject(
    pod('a', 'Running', {
      'ambient.istio.io/redirection': 'enabled',
      'istio.io/rev': 'x',
      'gateway.networking.k8s.io/class': 'y',
      'kubectl.kubernetes.io/last-applied-configuration': 'large',
      'k8s.v1.cni.cncf.io/network-status': 'larger',
      checksum: 'f',
    }),
  );
  t.same(Object.keys(object?.metadata.annotations ?? {}), [
    'ambient.istio.io/redirection',
    'istio.io/rev',
    'gateway.networking.k8s.io/class',
  ]);
});

t.test('a policy that never was good is in force as one that denies, until it is good or gone', async (t) => {
  const rejected: BadObject[] = [];
  const ledger = new KindLedger('AuthorizationPolicy', (bad) => rejected.push(bad));
  const policy = (spec: object) =>
    readObject({
      apiVersion: 'security.istio.io/v1',
      kind: 'AuthorizationPolicy',
      metadata: { name: 'p', namespace: 'shop' },
      spec,
    });
  t.match(ledger.put(policy({ rules: 'none' })), { gone: false, object: { closed: { problems: [/rules/] } } });
  t.match(rejected, [{ kept: false, closed: true }]);
  t.equal(ledger.closedCount, 1);
  t.match(ledger.put(policy({ rules: 'none', action: 'AUDIT' })), { gone: true, object: { action: 'DENY' } });
  t.equal(ledger.closedCount, 0);
  ledger.put(policy({ rules: 'none' }));
  t.match(ledger.put(policy({ rules: [{}] })), { gone: false, object: { action: 'ALLOW', closed: undefined } });
  t.equal(ledger.put(policy({ rules: 'none' })), undefined, 'the last good version stays');
  t.match(rejected.at(-1), { kept: true, closed: false });
  t.match(ledger.remove('shop/p'), { gone: true });
  ledger.put(policy({ rules: 'none' }));
  t.match(ledger.remove('shop/p'), { gone: true, object: { action: 'DENY' } });
  t.equal(ledger.closedCount, 0);
});
