import assert from 'node:assert/strict';
import { create, toBinary } from '@bufbuild/protobuf';
import fc from 'fast-check';
import t from 'tap';
import { DeltaDiscoveryResponseSchema } from '../../../src/gen/envoy/service/discovery/v3/discovery_pb.js';
import { EncodedResource } from '../../../src/xds/encoded-resource.js';

t.test('a frame is what the library would encode', async () => {
  const text = fc.string({ unit: 'binary', minLength: 1, maxLength: 300 });
  const bytes = fc.uint8Array({ minLength: 1, maxLength: 40_000, size: 'max' });
  fc.assert(
    fc.property(text, text, bytes, fc.array(text), (typeUrl, name, value, aliases) => {
      const encoded = new EncodedResource(typeUrl, { name, bytes: value, aliases });
      const encode = (aliases: string[]) => {
        const resource = { name, version: encoded.version, aliases, resource: { typeUrl, value } };
        return toBinary(DeltaDiscoveryResponseSchema, create(DeltaDiscoveryResponseSchema, { resources: [resource] }));
      };
      assert.deepEqual(Uint8Array.from(encoded.frame), Uint8Array.from(encode([])));
      assert.deepEqual(Uint8Array.from(encoded.frameWithAliases), Uint8Array.from(encode(aliases)));
      assert.deepEqual(Uint8Array.from(encoded.bytes), value);
    }),
  );
});

t.test('a version follows from content and aliases alone', async (t) => {
  const versionOf = (bytes: number[], aliases: string[]) =>
    new EncodedResource('t', { name: 'n', bytes: Uint8Array.from(bytes), aliases }).version;
  t.equal(versionOf([1], ['a', 'b']), versionOf([1], ['a', 'b']));
  const all = [versionOf([1], []), versionOf([2], []), versionOf([1], ['a', 'b']), versionOf([1], ['ab'])];
  t.equal(new Set(all).size, all.length);
  // For good: agents that come back with what they have need not be sent it again.
  t.equal(versionOf([], []), '47DEQpj8HBSa-_TI');
});
