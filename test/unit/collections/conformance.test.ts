import t from 'tap';
import type { Change, Collection } from '../../../src/collections/collection.js';
import { Graph, type Source } from '../../../src/collections/graph.js';

/** One suite, every kind of collection: each rig shows `feed` through a collection of its kind, key and value unchanged. */
const rigs: Record<string, (graph: Graph, feed: Source<Item>) => Collection<Item>> = {
  source: (_, feed) => feed,
  derive: (graph, feed) => graph.derive('derived', feed, (_, item) => item),
  'derive under other keys': (graph, feed) => {
    const away = graph.derive('away', feed, (_, item) => item, { rekey: (key) => `-${key}` });
    return graph.derive('back', away, (_, item) => item, { rekey: (key) => key.slice(1) });
  },
  'derive through a read': (graph, feed) => {
    const keys = graph.derive('keys', feed, (_, __, key) => key);
    return graph.derive('derived', keys, (context, key) => context.get(feed, key));
  },
  'derive through an index': (graph, feed) => {
    const byName = graph.index('by name', feed, (item) => [item.name]);
    return graph.derive('derived', feed, (context, item, key) =>
      context.lookup(byName, item.name).find((other) => other.key === key),
    );
  },
  deriveMany: (graph, feed) =>
    graph.deriveMany(
      'derived',
      feed,
      (_, item) => [item],
      (item) => item.key,
    ),
  'derive from everything': (graph, feed) => {
    const once = graph.constant('once', 'once', 1);
    return graph.deriveMany(
      'derived',
      once,
      (context) => context.list(feed),
      (item) => item.key,
    );
  },
  join: (graph, feed) => graph.join('joined', [graph.source<Item>('empty'), feed]),
  groups: (graph, feed) => {
    const byKey = graph.groups(
      'groups',
      graph.index('by key', feed, (item) => [item.key]),
    );
    return graph.derive('derived', byKey, (_, [item]) => item);
  },
};

interface Item {
  readonly key: string;
  readonly name: string;
}

function item(key: string, name: string): Item {
  return { key, name };
}

function setUp(rig: (graph: Graph, feed: Source<Item>) => Collection<Item>) {
  const graph = new Graph((message, error) => {
    throw new Error(message, { cause: error });
  });
  const feed = graph.source<Item>('feed');
  graph.transact(() => feed.set('early', item('early', 'x')));
  const collection = rig(graph, feed);
  const heard: (readonly Change<Item>[])[] = [];
  const stop = collection.subscribe((changes) => heard.push(changes));
  const apply = (edits: Record<string, string | undefined>) => {
    heard.length = 0;
    graph.transact(() => {
      for (const [key, name] of Object.entries(edits)) {
        if (name === undefined) feed.delete(key);
        else feed.set(key, item(key, name));
      }
    });
  };
  return { graph, feed, collection, heard, stop, apply };
}

for (const [name, rig] of Object.entries(rigs)) {
  t.test(`${name}: holds what was there before it was made`, async (t) => {
    const { collection } = setUp(rig);
    t.same(collection.get('early'), item('early', 'x'));
    t.equal(collection.size, 1);
  });

  t.test(`${name}: tells of additions, changes and removals of one transaction in one go`, async (t) => {
    const { collection, heard, apply } = setUp(rig);
    apply({ a: '1', b: '1' });
    t.equal(heard.length, 1);
    apply({ a: '2', b: undefined, c: '1' });
    t.equal(heard.length, 1);
    t.same(
      [...(heard[0] ?? [])].sort((x, y) => (x.key < y.key ? -1 : 1)),
      [
        { key: 'a', before: item('a', '1'), after: item('a', '2') },
        { key: 'b', before: item('b', '1'), after: undefined },
        { key: 'c', before: undefined, after: item('c', '1') },
      ],
    );
    t.same(
      new Map(collection.entries()),
      new Map(
        ['early:x', 'a:2', 'c:1'].map((s) => [s.split(':')[0], item(s.split(':')[0] ?? '', s.split(':')[1] ?? '')]),
      ),
    );
    t.ok(collection.has('a'));
    t.notOk(collection.has('b'));
    t.same([...collection.values()].map((v) => v.key).sort(), ['a', 'c', 'early']);
  });

  t.test(`${name}: says nothing of an equal value, and nothing of what came and went`, async (t) => {
    const { heard, apply, graph, feed } = setUp(rig);
    apply({ a: '1' });
    const version = graph.version;
    apply({ a: '1' });
    t.equal(heard.length, 0);
    graph.transact(() => {
      feed.set('a', item('a', '2'));
      feed.set('a', item('a', '1'));
      feed.set('z', item('z', '1'));
      feed.delete('z');
    });
    t.equal(heard.length, 0);
    t.equal(graph.version, version, 'a transaction without effect has no version');
  });

  t.test(`${name}: is silent to whoever has left`, async (t) => {
    const { heard, apply, stop } = setUp(rig);
    stop();
    apply({ a: '1' });
    t.equal(heard.length, 0);
  });

  t.test(`${name}: a transaction that throws has not happened`, async (t) => {
    const { graph, feed, collection, heard } = setUp(rig);
    t.throws(() =>
      graph.transact(() => {
        feed.set('a', item('a', '1'));
        feed.delete('early');
        throw new Error('half way');
      }),
    );
    t.equal(heard.length, 0);
    t.same([...collection.entries()], [['early', item('early', 'x')]]);
    graph.transact(() => feed.set('b', item('b', '1')));
    t.same(heard, [[{ key: 'b', before: undefined, after: item('b', '1') }]]);
  });
}
