import assert from 'node:assert/strict';
import fc from 'fast-check';
import t from 'tap';
import { ListSplitter } from '../../../src/kube/list-splitter.js';

function split(bytes: Buffer, pieces: readonly number[]): { elements: unknown[]; around: unknown } {
  const elements: unknown[] = [];
  const splitter = new ListSplitter((element) => elements.push(JSON.parse(element)));
  let from = 0;
  for (let i = 0; from < bytes.length; i++) {
    const length = pieces[i % pieces.length] ?? bytes.length;
    splitter.push(bytes.subarray(from, from + length));
    from += length;
  }
  return { elements, around: JSON.parse(splitter.end()) };
}

t.test('a list is taken apart wherever the pieces are cut, whatever its objects hold', async () => {
  fc.assert(
    fc.property(
      fc.array(fc.dictionary(fc.string({ unit: 'binary' }), fc.jsonValue())),
      fc.dictionary(fc.string(), fc.jsonValue()),
      fc.boolean(),
      fc.constantFrom(undefined, 1, '\t'),
      fc.array(fc.integer({ min: 1, max: 40 }), { minLength: 1 }),
      (items, metadata, itemsFirst, indent, pieces) => {
        const list = itemsFirst ? { kind: 'L{[', items, metadata } : { kind: '\\"[{', metadata, items };
        const { elements, around } = split(Buffer.from(JSON.stringify(list, undefined, indent)), pieces);
        assert.equal(JSON.stringify(elements), JSON.stringify(items));
        assert.equal(JSON.stringify(around), JSON.stringify({ ...list, items: [] }));
      },
    ),
    { numRuns: 300 },
  );
});

t.test('a list of nothing is a list', async (t) => {
  for (const text of [
    '{"metadata":{"resourceVersion":"7"},"items":[]}',
    '{"metadata":{"resourceVersion":"7"},"items":null}',
  ]) {
    const { elements, around } = split(Buffer.from(text), [5]);
    t.same(elements, []);
    t.match(around, { metadata: { resourceVersion: '7' } });
  }
});
