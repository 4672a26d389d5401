import { fromBinary } from '@bufbuild/protobuf';
import t from 'tap';
import { Graph } from '../../../../src/collections/graph.js';
import { parseManifest } from '../../../../src/control/inputs/directory/manifest.js';
import { applyChanges, makeInputs } from '../../../../src/control/inputs/inputs.js';
import { deriveMesh } from '../../../../src/control/mesh/mesh.js';
import { pushMesh } from '../../../../src/control/push/push.js';
import { AuthorizationSchema } from '../../../../src/gen/istio/security/authorization_pb.js';
import { AddressSchema } from '../../../../src/gen/istio/workload/workload_pb.js';

const web = `
apiVersion: v1
kind: Service
metadata: { name: web, namespace: shop }
spec: { clusterIP: 10.96.0.1, selector: { app: web }, ports: [{ port: 80 }] }
---
apiVersion: v1
kind: Pod
metadata: { name: web-1, namespace: shop, labels: { app: web } }
spec: { nodeName: node-1 }
status: { phase: Running, podIPs: [{ ip: 10.1.0.1 }, { ip: "fd00::1" }] }
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: { name: blocks, namespace: shop }
spec: { hosts: [blocks.example], addresses: [192.0.2.0/24, 192.0.2.1], ports: [{ number: 80, name: http }], resolution: STATIC }
`;

function setUp() {
  const graph = new Graph((message, error) => {
    throw new Error(message, { cause: error });
  });
  const inputs = makeInputs(graph);
  const mesh = deriveMesh(graph, inputs, {
    cluster: 'c',
    network: 'n',
    trustDomain: 'cluster.local',
    clusterDomain: 'cluster.local',
    rootNamespace: 'istio-system',
  });
  const [policies, addresses] = pushMesh(graph, mesh).tables;
  const apply = (yaml: string, gone = false) => {
    const manifest = parseManifest(Buffer.from(yaml));
    if (!manifest.ok) throw new Error(manifest.error.problems.join());
    graph.transact(() =>
      applyChanges(
        inputs,
        manifest.value.objects.map((object) => ({ object, gone })),
      ),
    );
  };
  return { graph, policies, addresses, apply };
}

t.test('names resources as agents ask for them', async (t) => {
  const { policies, addresses, apply } = setUp();
  apply(web);
  t.same([...addresses.all()].map(({ name }) => name).sort(), [
    'c//Pod/shop/web-1',
    'shop/blocks.example',
    'shop/web.shop.svc.cluster.local',
  ]);
  t.same([...addresses.resolve('n/10.1.0.1')], ['c//Pod/shop/web-1']);
  t.same([...addresses.resolve('n/fd00::1')], ['c//Pod/shop/web-1']);
  const both = ['c//Pod/shop/web-1', 'shop/web.shop.svc.cluster.local'];
  t.same([...addresses.resolve('n/10.96.0.1')].sort(), both, 'a service comes with its endpoints');
  t.same([...addresses.resolve('shop/web.shop.svc.cluster.local')].sort(), both);
  t.same(addresses.resource('shop/blocks.example')?.aliases, ['n/192.0.2.1'], 'a block is no name');
  t.same(
    [...policies.all()].map(({ name }) => name),
    ['istio-system/istio_converted_static_strict'],
  );
});

t.test('serves what decodes to the mesh', async (t) => {
  const { policies, addresses, apply } = setUp();
  apply(web);
  const pod = fromBinary(AddressSchema, addresses.bytes('c//Pod/shop/web-1') ?? new Uint8Array());
  t.match(pod.type, { case: 'workload', value: { name: 'web-1', node: 'node-1', network: 'n' } });
  const service = fromBinary(AddressSchema, addresses.bytes('shop/web.shop.svc.cluster.local') ?? new Uint8Array());
  t.match(service.type, { case: 'service', value: { hostname: 'web.shop.svc.cluster.local' } });
  const policy = fromBinary(
    AuthorizationSchema,
    policies.bytes('istio-system/istio_converted_static_strict') ?? new Uint8Array(),
  );
  t.equal(policy.name, 'istio_converted_static_strict');
});

t.test('one transaction is one change of each table it touches, policies first', async (t) => {
  const { policies, addresses, apply } = setUp();
  apply(web);
  const heard: string[] = [];
  policies.subscribe((changes) => heard.push(`policies ${changes.map(({ name }) => name)}`));
  addresses.subscribe((changes) => heard.push(`addresses ${changes.map(({ name }) => name)}`));
  apply(`
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: { name: ports, namespace: shop }
spec: { selector: { matchLabels: { app: web } }, portLevelMtls: { 80: { mode: STRICT } } }
---
apiVersion: v1
kind: Service
metadata: { name: other, namespace: shop }
spec: { clusterIP: 10.96.0.2, selector: { app: web }, ports: [{ port: 80 }] }
`);
  t.same(heard.splice(0), [
    'policies shop/converted_peer_authentication_ports',
    'addresses shop/other.shop.svc.cluster.local,c//Pod/shop/web-1',
  ]);
  apply(web.replace('name: web-1', 'name: web-1, uid: x'));
  t.same(heard, [], 'what agents do not see is no change');
});

t.test('the same mesh has the same versions, in whatever order it came about', async (t) => {
  const [a, b] = [setUp(), setUp()];
  a.apply(web);
  for (const part of web.split('---').reverse()) b.apply(part);
  const extra = 'apiVersion: v1\nkind: Pod\nmetadata: { name: x, namespace: shop }\nstatus: { podIP: 10.1.0.9 }\n';
  b.apply(extra);
  b.apply(extra, true);
  const versions = ({ addresses }: typeof a) =>
    Object.fromEntries([...addresses.all()].map((r) => [r.name, r.version]));
  t.same(versions(a), versions(b));
});
