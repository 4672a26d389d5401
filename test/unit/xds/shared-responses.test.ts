import { fromBinary } from '@bufbuild/protobuf';
import t from 'tap';
import { DeltaDiscoveryResponseSchema } from '../../../src/gen/envoy/service/discovery/v3/discovery_pb.js';
import { ResourceTable } from '../../../src/xds/resource-table.js';
import { SharedResponses } from '../../../src/xds/shared-responses.js';

const table = new ResourceTable('type.test/Thing');
table.apply([
  { name: 'a', bytes: Buffer.from('1'), aliases: ['x'] },
  { name: 'b', bytes: Buffer.from('2') },
]);

t.test('what is the same is encoded once; who has had that nonce gets another', async (t) => {
  const responses = new SharedResponses();
  const all = { changed: table.all(), removed: [], withAliases: false };
  const one = responses.encode(table, all, '');
  const two = responses.encode(table, { ...all, changed: [...table.all()] }, '7');
  t.equal(two.bytes, one.bytes);
  t.equal(two.nonce, one.nonce);
  const again = responses.encode(table, all, one.nonce);
  t.not(again.nonce, one.nonce);
  t.match(fromBinary(DeltaDiscoveryResponseSchema, one.bytes), {
    nonce: one.nonce,
    resources: [{ name: 'a' }, { name: 'b' }],
  });
});

t.test('what differs in anything is encoded for itself', async (t) => {
  const responses = new SharedResponses();
  const push = { changed: table.all(), removed: ['c'], withAliases: false };
  const bytes = new Set([
    responses.encode(table, push, '').bytes,
    responses.encode(table, { ...push, removed: [] }, '').bytes,
    responses.encode(table, { ...push, removed: ['d'] }, '').bytes,
    responses.encode(table, { ...push, withAliases: true }, '').bytes,
    responses.encode(table, { ...push, changed: table.all().slice(1) }, '').bytes,
  ]);
  t.equal(bytes.size, 5);
  const before = responses.encode(table, push, '');
  table.apply([{ name: 'z', bytes: Buffer.from('3') }], ['z']);
  table.apply([], ['z']);
  t.not(responses.encode(table, push, '').nonce, before.nonce, 'another version of the table');
});
