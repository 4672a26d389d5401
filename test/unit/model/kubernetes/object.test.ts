import fc from 'fast-check';
import t from 'tap';
import { parseYaml } from '../../../../src/lib/yaml.js';
import { idOf, itemsOf, type KubernetesObject, parseObject } from '../../../../src/model/kubernetes/object.js';

function parse(yaml: string): KubernetesObject {
  const value = parseYaml(yaml);
  const parsed = value.ok ? parseObject(value.value) : undefined;
  if (parsed === undefined || !parsed.ok || !('object' in parsed.value)) throw new Error(JSON.stringify(parsed));
  return parsed.value.object;
}

/** Every problem of what must not parse. */
function problems(yaml: string): readonly string[] {
  const value = parseYaml(yaml);
  const parsed = value.ok ? parseObject(value.value) : undefined;
  if (parsed === undefined || parsed.ok) throw new Error(`should not parse: ${yaml}`);
  return parsed.error.problems;
}

t.test('takes what it knows and tolerates what it does not, as Kubernetes does', async (t) => {
  const pod = parse(`
apiVersion: v1
kind: Pod
metadata:
  name: web
  creationTimestamp: "2030-01-01T00:00:00Z"
  managedFields: [{}]
  ownerReferences:
    - { kind: Node, name: n }
    - { kind: ReplicaSet, name: web-1, controller: true, blockOwnerDeletion: true }
spec: { unheardOf: { of: [1] }, containers: [{ name: x, ports: [{ containerPort: 80 }] }] }
status: { podIP: "::ffff:10.0.0.1", phase: Running }
`);
  t.match(pod, {
    kind: 'Pod',
    metadata: { name: 'web', namespace: 'default', createdAtMs: Date.UTC(2030, 0, 1), terminating: false },
    controller: { kind: 'ReplicaSet', name: 'web-1' },
    serviceAccount: 'default',
    containerPorts: [{ name: '', port: 80, protocol: 'TCP' }],
    phase: 'Running',
    ready: false,
    ips: ['10.0.0.1'],
  });
  t.equal(idOf(pod), 'Pod default/web');
  t.equal(idOf(parse('{apiVersion: v1, kind: Node, metadata: {name: n, namespace: x}}')), 'Node n');
});

t.test('names every mistake with its path, and YAML where it has bitten', async (t) => {
  t.same(
    problems(`
apiVersion: v1
kind: Pod
metadata: { name: Web, labels: { version: 1, on: true }, creationTimestamp: yesterday }
spec: { hostNetwork: "yes", containers: [x, { ports: [{ containerPort: 70000 }, {}] }], nodeName: [n] }
status: { phase: Dancing, podIP: 10.0.0.256, conditions: {} }
`),
    [
      'status.conditions is an object where a list is expected',
      'metadata.name is "Web", which is no object name',
      'metadata.labels.version is 1 where a string is expected (write "1" in quotes)',
      'metadata.labels.on is true where a string is expected (write "true" in quotes)',
      'metadata.creationTimestamp is "yesterday" where a time like 2030-01-31T12:00:00Z is expected',
      'spec.nodeName is a list where a string is expected',
      'spec.hostNetwork is "yes" where true or false is expected',
      'spec.containers[0] is "x" where an object is expected',
      'spec.containers[1].ports[0].containerPort is 70000 where a whole number from 1 to 65535 is expected',
      'spec.containers[1].ports[1].containerPort is missing',
      'status.phase is "Dancing", none of Pending, Running, Succeeded, Failed, Unknown',
      'status.podIP is "10.0.0.256", which is no IP address',
    ],
  );
});

t.test('says what it is that has no kind, no name or no version', async (t) => {
  t.match(parseObject('text'), { ok: false, error: { object: 'something that is no object' } });
  t.match(parseObject({ kind: 'Pod', metadata: { name: 'x', namespace: 'y' } }), {
    ok: false,
    error: { object: 'Pod y/x', problems: ['apiVersion is missing'] },
  });
  t.match(parseObject({ apiVersion: 'v1' }), { ok: false, error: { problems: ['kind is missing'] } });
  t.same(problems('{apiVersion: v1, kind: Namespace, metadata: {}}'), ['metadata.name is missing']);
});

t.test('leaves other kinds aside, also those that only share a name', async (t) => {
  for (const apiVersion of ['apps/v1', 'serving.knative.dev/v1']) {
    t.match(parseObject({ apiVersion, kind: 'Service', metadata: { name: 'x' } }), {
      ok: true,
      value: { ignored: `Service x (${apiVersion}) is of no kind the mesh reads` },
    });
  }
  t.match(parse('{apiVersion: security.istio.io/v1beta1, kind: PeerAuthentication, metadata: {name: x}}'), {
    kind: 'PeerAuthentication',
    mode: 'UNSET',
  });
});

t.test('what every JavaScript object inherits is nothing here', async (t) => {
  for (const name of ['constructor', 'toString', 'hasOwnProperty', '__proto__']) {
    t.match(parseObject({ apiVersion: 'v1', kind: name, metadata: { name: 'x' } }), {
      ok: true,
      value: { ignored: name },
    });
  }
  const entry = parse(`
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: { name: vm }
spec: { address: 10.0.0.1, ports: { "constructor": 80 } }
`);
  t.match(entry, { spec: { ports: new Map([['constructor', 80]]) } });
});

t.test('unfolds lists', async (t) => {
  t.same(itemsOf({ kind: 'List', items: [{ kind: 'PodList', items: [1, 2] }, { kind: 'Pod' }] }), [
    1,
    2,
    { kind: 'Pod' },
  ]);
  t.same(itemsOf({ kind: 'Pod' }), [{ kind: 'Pod' }]);
  t.same(itemsOf(null), [null]);
});

t.test('services: addresses, target ports and their traps', async (t) => {
  t.match(
    parse(`
apiVersion: v1
kind: Service
metadata: { name: web, namespace: shop }
spec:
  clusterIP: None
  selector: { app: web }
  ports: [{ port: 80 }, { port: 81, targetPort: http }, { port: 82, targetPort: 0 }]
`),
    { headless: true, clusterIps: [], ports: [{ targetPort: 80 }, { targetPort: 'http' }, { targetPort: 82 }] },
  );
  t.same(
    problems(`
apiVersion: v1
kind: Service
metadata: { name: web }
spec:
  type: Nothing
  clusterIPs: [10.0.0.1, x]
  ports: [{ port: "80" }, { port: 80, targetPort: "8080", protocol: tcp }]
`),
    [
      'spec.type is "Nothing", none of ClusterIP, NodePort, LoadBalancer, ExternalName',
      'spec.clusterIPs is "x", which is no IP address',
      'spec.ports[0].port is "80" where a whole number from 1 to 65535 is expected',
      'spec.ports[1].targetPort is "8080" in quotes, which would be the name of a port',
      'spec.ports[1].protocol is "tcp", none of TCP, UDP, SCTP',
    ],
  );
});

t.test('ServiceEntries and WorkloadEntries: hosts, addresses and endpoints', async (t) => {
  t.same(
    problems(`
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: { name: x }
spec:
  hosts: ["*.ok.example", "no host", "a.*.b"]
  addresses: [10.0.0.0/33]
  resolution: MAYBE
  workloadSelector: {}
  endpoints: [{ ports: { http: "80" } }, { network: n }]
`),
    [
      'spec.hosts[1] is "no host", which is no host name, because of "no host"',
      'spec.hosts[2] is "a.*.b", which is no host name, because of "*"',
      'spec.addresses[0] is "10.0.0.0/33", neither an IP address nor a CIDR block',
      'spec.resolution is "MAYBE", none of NONE, STATIC, DNS, DNS_ROUND_ROBIN, DYNAMIC_DNS',
      'spec.endpoints[0].ports.http is "80" where a whole number from 1 to 65535 is expected',
      'spec.endpoints[0].address is missing',
      'spec.endpoints and workloadSelector exclude each other',
      'spec.endpoints[0].ports.http is no port of this ServiceEntry',
      'spec.endpoints go with another resolution than NONE, the default: it keeps the destination as it is',
    ],
  );
  t.same(problems('{apiVersion: networking.istio.io/v1, kind: ServiceEntry, metadata: {name: x}}'), [
    'spec.hosts is empty: name at least one',
  ]);
  t.match(
    parse(`
apiVersion: networking.istio.io/v1beta1
kind: WorkloadEntry
metadata: { name: vm, labels: { app: a, v: "1" } }
spec: { address: "FD00::0:1", labels: { app: b } }
`),
    { metadata: { labels: { app: 'b', v: '1' } }, spec: { address: 'fd00::1', weight: 0 } },
  );
});

t.test('policies: what would match everything by mistake is refused', async (t) => {
  const policy = (rules: string) =>
    problems(
      `{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: x}, spec: {rules: ${rules}}}`,
    );
  t.same(policy('[{from: []}]'), ['spec.rules[0].from is empty: leave it out, or say what to match']);
  const [empty = ''] = policy('[{from: [{}]}]');
  t.match(empty, /^spec\.rules\[0]\.from\[0]\.source is empty: a source must say what to match, by principals, /);
  const [typo = ''] = policy('[{from: [{source: {namespace: [typo]}}]}]');
  t.match(typo, 'spec.rules[0].from[0].source has only namespace, which is nothing it knows: a source must say');
  t.same(policy('[{to: [{operation: {ports: [80]}}]}]').slice(0, 1), [
    'spec.rules[0].to[0].operation.ports[0] is 80 where a string is expected (write "80" in quotes)',
  ]);
  t.same(policy('[{to: [{operation: {ports: ["99999"]}}]}]').slice(0, 1), [
    'spec.rules[0].to[0].operation.ports[0] is "99999", which is no port from 0 to 65535',
  ]);
  t.same(policy('[{from: [{source: {ipBlocks: [10.0.0.0/8, x]}}]}]'), [
    'spec.rules[0].from[0].source.ipBlocks[1] is "x", neither an IP address nor a CIDR block',
  ]);
  t.same(policy('[{when: [{key: source.ip}, {values: [a]}]}]'), [
    'spec.rules[0].when[0].values and notValues are both missing',
    'spec.rules[0].when[1].key is missing',
  ]);
  t.same(
    problems(`
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: { name: x }
spec: { selector: { matchLabels: {} }, targetRefs: [{}], action: PERMIT }
`),
    [
      'spec.action is "PERMIT", none of ALLOW, DENY, AUDIT, CUSTOM',
      'spec.selector and targetRefs exclude each other',
      'spec.targetRefs[0].kind is missing',
      'spec.targetRefs[0].name is missing',
    ],
  );
  t.same(
    problems(`
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: { name: x }
spec: { mtls: { mode: strict }, portLevelMtls: { http: { mode: STRICT } , 80: { mode: STRICT } } }
`),
    [
      'spec.portLevelMtls.http is no port from 1 to 65535',
      'spec.portLevelMtls needs a selector with labels: ports are of workloads, not of namespaces',
      'spec.mtls.mode is "strict", none of UNSET, DISABLE, PERMISSIVE, STRICT',
    ],
  );
});

t.test('whatever comes, the answer is an object, a note, or what is wrong', async (t) => {
  const kinds = fc.constantFrom(
    ...['v1 Pod', 'v1 Service', 'v1 Node', 'discovery.k8s.io/v1 EndpointSlice', 'networking.istio.io/v1 ServiceEntry'],
    ...['networking.istio.io/v1 WorkloadEntry', 'security.istio.io/v1 AuthorizationPolicy'],
    'security.istio.io/v1 PeerAuthentication',
  );
  const field = fc.constantFrom(
    ...['spec', 'status', 'metadata', 'name', 'ports', 'rules', 'from', 'source', 'to', 'operation', 'when', 'hosts'],
    ...['endpoints', 'addresses', 'conditions', 'selector', 'matchLabels', 'labels', 'mtls', 'portLevelMtls', 'podIPs'],
  );
  const { tree } = fc.letrec((tie) => ({
    tree: fc.oneof(
      { maxDepth: 4 },
      fc.constantFrom(null, true, 0, 80, '', 'x', '10.0.0.1', '80'),
      fc.array(tie('tree'), { maxLength: 3 }),
      fc.dictionary(field, tie('tree'), { maxKeys: 5 }),
    ),
  }));
  fc.assert(
    fc.property(kinds, tree, (kind, body) => {
      const [apiVersion, name] = kind.split(' ');
      const rest = typeof body === 'object' && body !== null ? body : { spec: body };
      const parsed = parseObject({ ...rest, apiVersion, kind: name });
      if (!parsed.ok) t.ok(parsed.error.problems.length > 0);
    }),
    { numRuns: 500 },
  );
});
