import fc from 'fast-check';
import t from 'tap';
import { Graph } from '../../../../src/collections/graph.js';
import { applyChanges, makeInputs } from '../../../../src/control/inputs/inputs.js';
import { deriveMesh } from '../../../../src/control/mesh/mesh.js';
import { pushMesh } from '../../../../src/control/push/push.js';
import { type KubernetesObject, parseObject } from '../../../../src/model/kubernetes/object.js';

const options = {
  cluster: 'c',
  network: '',
  trustDomain: 'cluster.local',
  clusterDomain: 'cluster.local',
  rootNamespace: 'root',
};

function setUp() {
  const graph = new Graph((message, error) => {
    throw new Error(message, { cause: error });
  });
  const inputs = makeInputs(graph);
  const mesh = deriveMesh(graph, inputs, options);
  const tables = pushMesh(graph, mesh).tables;
  const outcome = () => ({
    served: tables.map((table) => new Map([...table.all()].map((r) => [r.name, r.version] as const).sort())),
    warnings: new Map([...mesh.warnings.entries()].sort()),
    identities: ['n1', 'n2'].map((node) => [...mesh.identitiesOfNode(node)].sort()),
  });
  return { graph, inputs, mesh, outcome };
}

function object(value: unknown): KubernetesObject {
  const parsed = parseObject(value);
  if (!parsed.ok || !('object' in parsed.value)) throw new Error(JSON.stringify([value, parsed]));
  return parsed.value.object;
}

const namespace = fc.constantFrom('a', 'b', 'root');
const name = fc.constantFrom('x', 'y');
const labels = fc.dictionary(fc.constantFrom('app', 'tier'), fc.constantFrom('1', '2'), { maxKeys: 2 });
const age = fc.constantFrom('2030-01-01T00:00:00Z', '2030-01-02T00:00:00Z', undefined);
const metadata = fc.record({ name, namespace, labels, creationTimestamp: age });
const octet = fc.integer({ min: 1, max: 4 });
const mode = fc.constantFrom('UNSET', 'STRICT', 'PERMISSIVE');
const selector = fc.option(
  labels.map((matchLabels) => ({ matchLabels })),
  { nil: undefined },
);

const kinds: Record<string, fc.Arbitrary<object>> = {
  'v1 Namespace': fc.record({
    metadata: fc.record({
      name: namespace,
      annotations: fc.constantFrom({}, { 'networking.istio.io/traffic-distribution': 'PreferClose' }),
    }),
  }),
  'v1 Node': fc.record({
    metadata: fc.record({
      name: fc.constantFrom('n1', 'n2'),
      labels: fc.constantFrom({}, { 'topology.kubernetes.io/zone': 'z1' }),
    }),
  }),
  'v1 Pod': fc.record({
    metadata,
    spec: fc.record({
      nodeName: fc.constantFrom('', 'n1', 'n2'),
      serviceAccountName: name,
      containers: fc.constantFrom([], [{ ports: [{ name: 'http', containerPort: 8080 }] }]),
    }),
    status: fc.record({
      phase: fc.constantFrom('Running', 'Succeeded'),
      podIP: octet.map((n) => `10.0.0.${n}`),
      conditions: fc.constantFrom([], [{ type: 'Ready', status: 'True' }]),
    }),
  }),
  'v1 Service': fc.record({
    metadata,
    spec: fc.record({
      clusterIP: octet.map((n) => `10.96.0.${n}`),
      selector: labels,
      ports: fc.constantFrom([{ port: 80 }], [{ port: 80, targetPort: 'http', name: 'web' }]),
    }),
  }),
  'discovery.k8s.io/v1 EndpointSlice': fc.record({
    metadata: fc
      .tuple(metadata, name)
      .map(([m, service]) => ({ ...m, labels: { ...m.labels, 'kubernetes.io/service-name': service } })),
    addressType: fc.constant('IPv4'),
    ports: fc.constant([{ name: 'web', port: 9090 }]),
    endpoints: fc.array(
      fc.record({
        addresses: octet.map((n) => [`192.0.2.${n}`]),
        targetRef: fc.option(
          name.map((each) => ({ kind: 'Pod', name: each })),
          { nil: undefined },
        ),
      }),
      { maxLength: 2 },
    ),
  }),
  'networking.istio.io/v1 ServiceEntry': fc.record({
    metadata,
    spec: fc.oneof(
      fc
        .record({
          hosts: fc.subarray(['h1.example', 'h2.example', 'x.a.svc.cluster.local', '*.example'], { minLength: 1 }),
          ports: fc.constant([{ number: 80, name: 'web', protocol: 'HTTP' }]),
          resolution: fc.constantFrom('NONE', 'STATIC', 'DNS'),
          endpoints: fc.constantFrom([], [{ address: '198.51.100.1', ports: { web: 81 } }]),
        })
        // What no resolution allows.
        .filter(
          ({ hosts, resolution, endpoints }) =>
            endpoints.length > 0 === (resolution !== 'NONE') || (resolution !== 'NONE' && !hosts.includes('*.example')),
        ),
      fc.record({
        hosts: fc.constant(['h1.example']),
        ports: fc.constant([{ number: 80, name: 'http' }]),
        resolution: fc.constant('STATIC'),
        workloadSelector: fc.record({ labels }),
      }),
    ),
  }),
  'networking.istio.io/v1 WorkloadEntry': fc.record({
    metadata,
    spec: fc.record({ address: fc.constant('192.0.2.9') }),
  }),
  'security.istio.io/v1 AuthorizationPolicy': fc.record({
    metadata,
    spec: fc.record({
      selector,
      action: fc.constantFrom('ALLOW', 'DENY', 'AUDIT'),
      rules: fc.constantFrom([], [{}], [{ to: [{ operation: { methods: ['GET'] } }] }]),
    }),
  }),
  'security.istio.io/v1 PeerAuthentication': fc
    .record({ metadata, mode, selector, port: fc.option(mode, { nil: undefined }) })
    .map(({ metadata, mode, selector, port }) => ({
      metadata,
      spec: {
        mtls: { mode },
        selector,
        ...(port !== undefined && Object.keys(selector?.matchLabels ?? {}).length > 0
          ? { portLevelMtls: { 80: { mode: port } } }
          : {}),
      },
    })),
};

const anyObject = fc.oneof(
  ...Object.entries(kinds).map(([kind, body]) => {
    const [apiVersion, name] = kind.split(' ');
    return body.map((each) => object({ ...each, apiVersion, kind: name }));
  }),
);
const edit = fc.record({ object: anyObject, gone: fc.boolean() });
const history = fc.array(fc.array(edit, { minLength: 1, maxLength: 6 }), { maxLength: 12 });

t.test('after any history of objects the mesh is what those that are left make of it', async (t) => {
  fc.assert(
    fc.property(history, (transactions) => {
      const stepwise = setUp();
      for (const changes of transactions) stepwise.graph.transact(() => applyChanges(stepwise.inputs, changes));
      const atOnce = setUp();
      const left = Object.values(stepwise.inputs).flatMap((source) => [...source.values()] as KubernetesObject[]);
      atOnce.graph.transact(() =>
        applyChanges(
          atOnce.inputs,
          left.reverse().map((each) => ({ object: each, gone: false })),
        ),
      );
      t.strictSame(stepwise.outcome(), atOnce.outcome());
    }),
    { numRuns: 200 },
  );
});

t.test('one pod among thousands costs one computation of it, not of the others', async (t) => {
  const { graph, inputs, mesh } = setUp();
  const pod = (i: number, ready: string) =>
    object({
      apiVersion: 'v1',
      kind: 'Pod',
      metadata: { name: `p${i}`, namespace: 'a', labels: { app: `${i % 100}` } },
      spec: { nodeName: `n${i % 10}` },
      status: { phase: 'Running', podIP: `10.${i >> 8}.0.${i & 255}`, conditions: [{ type: 'Ready', status: ready }] },
    });
  graph.transact(() =>
    applyChanges(
      inputs,
      Array.from({ length: 3000 }, (_, i) => ({ object: pod(i, 'True'), gone: false })),
    ),
  );
  const heard: string[][] = [];
  mesh.workloads.subscribe((changes) => heard.push(changes.map(({ key }) => key)));
  graph.transact(() => applyChanges(inputs, [{ object: pod(7, 'False'), gone: false }]));
  t.same(heard.splice(0), [['c//Pod/a/p7']]);
  const service = object({
    apiVersion: 'v1',
    kind: 'Service',
    metadata: { name: 's', namespace: 'a' },
    spec: { clusterIP: '10.96.0.1', selector: { app: '5' }, ports: [{ port: 80 }] },
  });
  graph.transact(() => applyChanges(inputs, [{ object: service, gone: false }]));
  t.equal(heard.splice(0)[0]?.length, 30, 'a new service touches the pods it selects');
});

t.test('the identities of a node are those of its live pods', async (t) => {
  const { graph, inputs, mesh } = setUp();
  const pod = (name: string, serviceAccountName: string | undefined, nodeName: string, phase: string) =>
    object({
      apiVersion: 'v1',
      kind: 'Pod',
      metadata: { name, namespace: 'a' },
      spec: { serviceAccountName, nodeName },
      status: { phase },
    });
  const pods = [
    pod('1', 'web', 'n1', 'Running'),
    pod('2', 'web', 'n1', 'Pending'),
    pod('3', undefined, 'n1', 'Pending'),
    pod('4', 'done', 'n1', 'Succeeded'),
    pod('5', 'broken', 'n1', 'Failed'),
    pod('6', 'else', 'n2', 'Running'),
    pod('7', 'unplaced', '', 'Pending'),
  ];
  graph.transact(() =>
    applyChanges(
      inputs,
      pods.map((each) => ({ object: each, gone: false })),
    ),
  );
  t.same(
    mesh.identitiesOfNode('n1'),
    new Set(['spiffe://cluster.local/ns/a/sa/web', 'spiffe://cluster.local/ns/a/sa/default']),
  );
  t.same(mesh.identitiesOfNode('n2'), new Set(['spiffe://cluster.local/ns/a/sa/else']));
  t.same(mesh.identitiesOfNode(''), new Set());
  t.same(mesh.identitiesOfNode('n3'), new Set());
});
