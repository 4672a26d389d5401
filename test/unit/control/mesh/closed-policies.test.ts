import t from 'tap';
import { applyChanges } from '../../../../src/control/inputs/inputs.js';
import { Action, Scope } from '../../../../src/gen/istio/security/authorization_pb.js';
import { problemOf } from '../../../../src/model/invalid-policy.js';
import { parseObject } from '../../../../src/model/kubernetes/object.js';
import { emptyMesh } from '../../../support/derived-mesh.js';

const POD = {
  apiVersion: 'v1',
  kind: 'Pod',
  metadata: { name: 'web', namespace: 'shop', labels: { app: 'web', tier: 'front' } },
  spec: { nodeName: 'n1' },
  status: { phase: 'Running', podIPs: [{ ip: '10.0.0.1' }] },
};
const UID = 'Kubernetes//Pod/shop/web';
const BAD_RULES = 'none';

/** The mesh of a pod and of objects that got in, good or not. */
function meshWith(...objects: object[]) {
  const { graph, inputs, mesh } = emptyMesh();
  const changes = [POD, ...objects].flatMap((each) => {
    const parsed = parseObject(each);
    const object = parsed.ok && 'object' in parsed.value ? parsed.value.object : !parsed.ok && parsed.error.closed;
    return object ? [{ object, gone: false }] : [];
  });
  graph.transact(() => applyChanges(inputs, changes));
  return {
    mesh,
    names: mesh.workloads.get(UID)?.authorizationPolicies,
    policy: (key: string) => mesh.authorizations.get(key),
    warnings: (object: string) => mesh.warnings.get(object) ?? [],
  };
}

function authorization(spec: unknown, metadata: object = {}) {
  return {
    apiVersion: 'security.istio.io/v1',
    kind: 'AuthorizationPolicy',
    metadata: { name: 'bad', namespace: 'shop', ...metadata },
    spec,
  };
}

function peer(spec: unknown, metadata: object = {}) {
  return { ...authorization(spec, metadata), kind: 'PeerAuthentication' };
}

t.test('a policy that cannot be read denies what it selects, and says why', async (t) => {
  const selector = { matchLabels: { app: 'web' } };
  const { names, policy, warnings } = meshWith(authorization({ selector, action: 'ALLOW', rules: BAD_RULES }));
  t.same(names, ['shop/bad']);
  t.match(policy('shop/bad'), {
    scope: Scope.WORKLOAD_SELECTOR,
    action: Action.DENY,
    dryRun: false,
    rules: [{ clauses: [] }],
  });
  t.match(problemOf(policy('shop/bad') ?? { extensions: [] }), 'spec.rules is "none" where a list is expected');
  t.match(warnings('AuthorizationPolicy shop/bad'), [/every connection to what it selects is denied: spec\.rules is/]);
});

t.test('whom it selects is read as far as that goes', async (t) => {
  const scopes: [unknown, object, Scope | undefined, readonly string[]][] = [
    [{ rules: BAD_RULES }, {}, Scope.NAMESPACE, []],
    [{ rules: BAD_RULES }, { namespace: 'istio-system' }, Scope.GLOBAL, []],
    [7, {}, Scope.NAMESPACE, []],
    [{ selector: { matchLabels: { app: 'else' } }, rules: BAD_RULES }, {}, Scope.WORKLOAD_SELECTOR, []],
    [{ selector: { matchLabels: { app: 'web', tier: 7 } } }, {}, Scope.WORKLOAD_SELECTOR, ['shop/bad']],
    [{ selector: { matchLabels: { app: 'w*' } } }, {}, Scope.WORKLOAD_SELECTOR, ['shop/bad']],
    [{ selector: 'app=web' }, {}, Scope.WORKLOAD_SELECTOR, ['shop/bad']],
    [{ selector: {}, rules: BAD_RULES }, {}, Scope.WORKLOAD_SELECTOR, ['shop/bad']],
    // Nobody can tell which workloads of the mesh are meant.
    [{ selector: 'app=web' }, { namespace: 'istio-system' }, undefined, []],
  ];
  for (const [spec, metadata, scope, names] of scopes) {
    const found = meshWith(authorization(spec, metadata));
    const key = 'namespace' in metadata ? 'istio-system/bad' : 'shop/bad';
    t.equal(found.policy(key)?.scope, scope, JSON.stringify(spec));
    t.same(found.names, names, JSON.stringify(spec));
    t.ok(found.warnings(`AuthorizationPolicy ${key}`).length > 0);
  }
});

t.test('what would deny nothing if it were good denies nothing', async (t) => {
  for (const bad of [
    authorization({ action: 'AUDIT', rules: BAD_RULES }),
    authorization({ action: 'CUSTOM', rules: BAD_RULES }),
    authorization({ targetRefs: [{ kind: 'Gateway' }], rules: BAD_RULES }),
    authorization({ targetRef: 'waypoint' }),
    authorization({ rules: BAD_RULES }, { annotations: { 'istio.io/dry-run': 'true' } }),
    authorization({ rules: BAD_RULES }, { name: 'No Name' }),
  ]) {
    const { policy, names } = meshWith(bad);
    t.equal(policy('shop/bad'), undefined, JSON.stringify(bad));
    t.same(names, []);
  }
  t.ok(
    meshWith(authorization({ rules: BAD_RULES }, { annotations: { 'istio.io/dry-run': 'maybe' } })).policy('shop/bad'),
  );
  t.ok(meshWith(authorization({ action: 'DENI' })).policy('shop/bad'), 'nobody knows what it was to do');
});

t.test('a PeerAuthentication whose mode cannot be read wants mutual TLS of what it selects', async (t) => {
  const STRICT = ['istio-system/istio_converted_static_strict'];
  const selector = { matchLabels: { app: 'web' } };
  const permissive = peer({ mtls: { mode: 'PERMISSIVE' } }, { name: 'old', creationTimestamp: '2020-01-01T00:00:00Z' });
  const cases: [object[], readonly string[]][] = [
    [[peer({ mtls: { mode: 'strict' } })], STRICT],
    [[peer({ mtls: 'STRICT' })], STRICT],
    [[peer(7)], STRICT],
    [[peer({ selector, mtls: { mode: 'loose' } })], STRICT],
    [[peer({ selector: { matchLabels: { app: 'else' } }, mtls: { mode: 'loose' } })], []],
    [[peer({ mtls: { mode: 'loose' } }, { namespace: 'other' })], []],
    [[peer({ mtls: { mode: 'loose' } }, { namespace: 'istio-system' })], STRICT],
    [[peer({ selector: 'app', mtls: { mode: 'loose' } }, { namespace: 'istio-system' })], []],
    [[permissive, peer({ selector: 'app=web', mtls: { mode: 'STRICT' } })], STRICT],
    [[peer({ selector, mtls: { mode: 'PERMISSIVE' }, portLevelMtls: { 80: { mode: 'tight' } } })], STRICT],
    [[peer({ mtls: { mode: 'PERMISSIVE' }, portLevelMtls: { 80: { mode: 'STRICT' } } })], STRICT],
    // What is wrong has no part in the mode.
    [[peer({ mtls: { mode: 'PERMISSIVE' } }, { annotations: { 'istio.io/dry-run': 'true' } })], []],
    [[peer({ mtls: { mode: 'STRICT' } }, { labels: { a: 1 } })], STRICT],
  ];
  for (const [objects, names] of cases) t.same(meshWith(...objects).names, names, JSON.stringify(objects.at(-1)));
  const ports = peer({ selector, portLevelMtls: { 80: { mode: 'STRICT' } } }, { labels: { a: 1 } });
  t.same(meshWith(ports).names, ['shop/converted_peer_authentication_bad']);
  t.match(meshWith(peer({ mtls: { mode: 'strict' } })).warnings('PeerAuthentication shop/bad'), [
    /what it selects takes mutual TLS only: spec\.mtls\.mode is "strict"/,
  ]);
});
