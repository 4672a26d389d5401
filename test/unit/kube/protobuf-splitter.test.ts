import { BinaryWriter } from '@bufbuild/protobuf/wire';
import t from 'tap';
import type { Shape } from '../../../src/kube/protobuf-shape.js';
import { ProtobufSplitter } from '../../../src/kube/protobuf-splitter.js';

const SHAPE: Shape = {
  1: ['name', 'string'],
  2: ['labels', 'map'],
  3: ['made', 'time'],
  4: ['ports', [{ 1: ['number', 'int32'] }]],
  5: ['open', 'bool'],
};

/** Two objects with everything, and fields that nobody asks for. */
const LIST = envelope((list) => {
  for (const name of ['a', 'b'.repeat(300)]) {
    list.uint32((2 << 3) | 2).fork();
    list.uint32((9 << 3) | 2).bytes(new Uint8Array(500));
    list.uint32((1 << 3) | 2).string(name);
    for (const [key, value] of Object.entries({ app: 'web', empty: '' })) {
      list.uint32((2 << 3) | 2).fork();
      list.uint32((1 << 3) | 2).string(key);
      list.uint32((2 << 3) | 2).string(value);
      list.join();
    }
    list.uint32((3 << 3) | 2).fork();
    list.uint32(1 << 3).int64(1_767_225_600);
    list.join();
    for (const number of [80, 65_535]) {
      list.uint32((4 << 3) | 2).fork();
      list.uint32(1 << 3).int32(number);
      list.join();
    }
    list.uint32(5 << 3).bool(true);
    list.uint32((8 << 3) | 1).fixed64(1n);
    list.uint32((8 << 3) | 5).fixed32(1);
    list.join();
  }
});

function envelope(write: (list: BinaryWriter) => void): Buffer {
  const writer = new BinaryWriter();
  writer.uint32((1 << 3) | 2).fork();
  writer.uint32((1 << 3) | 2).string('v1');
  writer.join();
  writer.uint32((2 << 3) | 2).fork();
  writer.uint32((1 << 3) | 2).fork();
  writer.uint32((2 << 3) | 2).string('77');
  writer.join();
  write(writer);
  writer.join();
  writer.uint32((3 << 3) | 2).string('');
  writer.uint32((4 << 3) | 2).string('');
  return Buffer.concat([Buffer.from('k8s\0'), writer.finish()]);
}

function split(bytes: Buffer, size: number) {
  const objects: unknown[] = [];
  const splitter = new ProtobufSplitter(SHAPE, (object) => objects.push(object));
  for (let from = 0; from < bytes.length; from += size) splitter.push(bytes.subarray(from, from + size));
  splitter.end();
  return { objects, resourceVersion: splitter.resourceVersion };
}

t.test('a list is read wherever its pieces are cut', async (t) => {
  const rest = {
    labels: { app: 'web', empty: '' },
    made: '2026-01-01T00:00:00.000Z',
    ports: [{ number: 80 }, { number: 65_535 }],
    open: true,
  };
  const whole = split(LIST, LIST.length);
  t.same(whole, {
    objects: [
      { name: 'a', ...rest },
      { name: 'b'.repeat(300), ...rest },
    ],
    resourceVersion: '77',
  });
  for (let size = 1; size < 200; size++) t.strictSame(JSON.stringify(split(LIST, size)), JSON.stringify(whole));
});

t.test('a list that breaks off is none, wherever it does', async (t) => {
  const end = LIST.length - 4;
  for (let length = 0; length < end; length++) t.throws(() => split(LIST.subarray(0, length), 64), `at ${length}`);
});

t.test('something else is no list', async (t) => {
  t.throws(() => split(Buffer.from('{"kind":"PodList","items":[]}'), 10), /does not start as/);
});

t.test('a list of nothing is a list', async (t) => {
  t.same(
    split(
      envelope(() => {}),
      3,
    ),
    { objects: [], resourceVersion: '77' },
  );
});
