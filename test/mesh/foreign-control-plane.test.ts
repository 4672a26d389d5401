/** A control plane that talks nonsense: every mistake is answered, and the mesh goes on with what it knew. */
import { create, toBinary } from '@bufbuild/protobuf';
import root, { test } from 'tap';
import { AddressSchema } from '../../src/gen/istio/workload/workload_pb.js';
import { FABRIC } from '../../src/lab/addresses.js';
import { ForeignAds, type ForeignPush } from '../support/foreign-control-plane.js';
import { labCa } from '../support/lab-ca.js';
import { authorizationPolicy } from '../support/manifests.js';
import { until } from '../support/mesh.js';
import { startTown, type Town, theServers } from './town.js';

// Each test has a limit of its own, and the runner has one for the file.
root.setTimeout(0);

let town: Town;
const ADDRESS = 'type.googleapis.com/istio.workload.Address';
const AUTHORIZATION = 'type.googleapis.com/istio.security.Authorization';

test('a town comes up', async () => {
  town = await startTown('foreign');
});

test('nonsense over xDS is refused with the reason, and what was known stays', { timeout: 90_000 }, async (t) => {
  const { mesh, caller, stranger } = town;
  using ca = labCa(mesh);
  const deny = authorizationPolicy('no-strangers', 'app', {
    action: 'DENY',
    rules: [{ from: [{ source: { notPrincipals: ['*'] } }] }],
  });
  await mesh.change({ apply: [deny] });
  await mesh.daemon('stop', 'control-plane');
  const { fabric, nodes } = await mesh.status();
  const foreign = new ForeignAds({ netns: fabric.netns });
  mesh.onClose(() => foreign.close());
  const certificate = ca.issue({ uris: [], dns: ['meltemi.istio-system.svc', 'istiod.istio-system.svc'] });
  t.match(await foreign.listen({ ip: FABRIC.ipv4, port: 15012, ...certificate }), { outcome: 'connected' });
  await until(
    'both agents have come, and say what they know',
    async () => {
      const requests = await foreign.heard();
      return [ADDRESS, AUTHORIZATION].every(
        (type) => requests.filter(({ typeUrl, known }) => typeUrl === type && known > 0).length >= nodes.length,
      );
    },
    60_000,
  );

  for (const [index, { name, mistake, ...push }] of NONSENSE.entries()) {
    const nonce = `nonsense-${index}`;
    await foreign.push({ ...push, nonce });
    await until(`${name} is answered by both`, async () => {
      const answers = (await foreign.heard()).filter((each) => each.nonce === nonce);
      return answers.length >= nodes.length;
    });
    const answers = (await foreign.heard()).filter((each) => each.nonce === nonce);
    for (const { error } of answers) t.match(error, mistake, `${name}: ${error || 'ACK'}`);
  }
  t.match(await caller.churn({ ...theServers, count: 50 }), { ok: 50 }, 'the mesh goes on');
  t.match(await stranger.probe(town.at('server.app')), { outcome: 'refused' }, 'policy goes on');

  await foreign.close();
  await mesh.daemon('start', 'control-plane');
  await mesh.change({ remove: [deny] });
  t.match(
    await stranger.probe(town.at('server.app')),
    { outcome: 'connected' },
    'back under the real one, changes arrive',
  );
  const after = (await mesh.status()).nodes.map(({ agentPid }) => agentPid);
  t.same(
    after,
    nodes.map(({ agentPid }) => agentPid),
    'the same agents',
  );
});

test('the town goes', async () => {
  await town[Symbol.asyncDispose]();
});

interface Nonsense extends Omit<ForeignPush, 'nonce'> {
  readonly name: string;
  /** What the answer must say; empty: it is no mistake. */
  readonly mistake: RegExp;
}

const NONSENSE: readonly Nonsense[] = [
  one('bytes that are no message', ADDRESS, 'app/servers.app.svc.cluster.local', 'ffffffffffffff'),
  one(
    'a message cut short',
    ADDRESS,
    'a',
    Buffer.from(workload([10, 0, 0, 1]))
      .subarray(0, -2)
      .toString('hex'),
  ),
  one('an address of 5 bytes', ADDRESS, 'x//Pod/app/server', hex(workload([10, 0, 0, 1, 7]))),
  one('bytes that are no policy', AUTHORIZATION, 'app/no-strangers', '0a05'),
  {
    name: 'a resource of another type',
    mistake: /./,
    typeUrl: ADDRESS,
    resources: [{ name: 'y', typeUrl: AUTHORIZATION, hex: hex(workload([10, 0, 0, 1])) }],
  },
  {
    name: 'removals of what nobody knows',
    mistake: /^$/,
    typeUrl: ADDRESS,
    resources: [],
    removed: ['no/such', '', '💥'],
  },
  { name: 'nothing', mistake: /^$/, typeUrl: ADDRESS, resources: [] },
];

function one(name: string, typeUrl: string, resource: string, bytes: string): Nonsense {
  return { name, mistake: /./, typeUrl, resources: [{ name: resource, typeUrl, hex: bytes }] };
}

function workload(address: readonly number[]): Uint8Array {
  const message = create(AddressSchema, {
    type: {
      case: 'workload',
      value: { uid: 'x//Pod/app/server', name: 'server', namespace: 'app', addresses: [Uint8Array.from(address)] },
    },
  });
  return toBinary(AddressSchema, message);
}

function hex(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString('hex');
}
