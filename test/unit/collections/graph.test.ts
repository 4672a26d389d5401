import t from 'tap';
import { KEEP } from '../../../src/collections/collection.js';
import { Graph } from '../../../src/collections/graph.js';

function strict(): Graph {
  return new Graph((message, error) => {
    throw new Error(message, { cause: error });
  });
}

t.test('computes only the items whose input or whose reads have changed', async (t) => {
  const graph = strict();
  const pods = graph.source<{ node: string; app: string }>('pods');
  const nodes = graph.source<string>('nodes');
  const services = graph.source<{ app: string }>('services');
  const byApp = graph.index('services by app', services, ({ app }) => [app]);
  const computed: string[] = [];
  const workloads = graph.derive('workloads', pods, (context, pod, key) => {
    computed.push(key);
    return { zone: context.get(nodes, pod.node), services: context.lookup(byApp, pod.app).length };
  });
  graph.transact(() => {
    for (let i = 0; i < 100; i++) pods.set(`p${i}`, { node: `n${i % 10}`, app: `a${i % 20}` });
  });
  t.equal(computed.length, 100);
  computed.length = 0;
  graph.transact(() => nodes.set('n3', 'zone-1'));
  t.equal(computed.length, 10, 'a node that was not there has been read all the same');
  computed.length = 0;
  graph.transact(() => services.set('s1', { app: 'a7' }));
  t.same(computed, ['p7', 'p27', 'p47', 'p67', 'p87']);
  computed.length = 0;
  graph.transact(() => services.set('s1', { app: 'a8' }));
  t.equal(computed.length, 10, 'the former and the new index key');
  computed.length = 0;
  graph.transact(() => pods.set('p7', { node: 'n7', app: 'a8' }));
  t.same(computed, ['p7']);
  computed.length = 0;
  graph.transact(() => nodes.set('n1', 'zone-1'));
  t.equal(computed.length, 10);
  computed.length = 0;
  graph.transact(() => services.set('s2', { app: 'a7' }));
  t.notOk(computed.includes('p7'), 'a read of the last but one computation is forgotten');
  graph.transact(() => pods.delete('p7'));
  computed.length = 0;
  graph.transact(() => nodes.set('n7', 'zone-9'));
  t.notOk(computed.includes('p7'), 'who is gone reads nothing');
  t.same(workloads.get('p8'), { zone: undefined, services: 1 });
});

t.test('computes an item once in a transaction, however many ways lead to it', async (t) => {
  const graph = strict();
  const source = graph.source<number>('source');
  const left = graph.derive('left', source, (_, n) => n + 1);
  const right = graph.derive('right', source, (_, n) => n + 2);
  const seen: string[] = [];
  graph.derive('sum', left, (context, n, key) => {
    seen.push(`${n}+${context.get(right, key)}`);
    return n;
  });
  graph.transact(() => source.set('a', 1));
  graph.transact(() => source.set('a', 2));
  t.same(seen, ['2+3', '3+4'], 'and never sees one side new and the other old');
});

t.test('an equal result goes no further', async (t) => {
  const graph = strict();
  const source = graph.source<{ name: string; noise: number }>('source');
  let second = 0;
  const names = graph.derive('names', source, (_, { name }) => ({ name }));
  graph.derive('second', names, () => second++);
  graph.transact(() => source.set('a', { name: 'x', noise: 1 }));
  graph.transact(() => source.set('a', { name: 'x', noise: 2 }));
  t.equal(second, 1);
  const projected = graph.derive('projected', source, (_, value) => value, { equals: (a, b) => a.name === b.name });
  let heard = 0;
  projected.subscribe(() => heard++);
  graph.transact(() => source.set('a', { name: 'x', noise: 3 }));
  t.equal(heard, 0);
  graph.transact(() => source.set('a', { name: 'y', noise: 3 }));
  t.equal(heard, 1);
});

t.test('KEEP leaves the last good value, and is asked again when what it read changes', async (t) => {
  const graph = strict();
  const source = graph.source<number>('source');
  const limit = graph.source<number>('limit');
  const good = graph.derive('good', source, (context, n) => (n > (context.get(limit, 'max') ?? 10) ? KEEP : n));
  const many = graph.deriveMany(
    'many',
    source,
    (context, n) => (n > (context.get(limit, 'max') ?? 10) ? KEEP : [n]),
    String,
  );
  graph.transact(() => source.set('a', 20));
  t.equal(good.get('a'), undefined, 'there was none');
  graph.transact(() => source.set('a', 5));
  graph.transact(() => source.set('a', 20));
  t.equal(good.get('a'), 5);
  t.same([...many.values()], [5]);
  graph.transact(() => limit.set('max', 30));
  t.equal(good.get('a'), 20);
  t.same([...many.values()], [20]);
  graph.transact(() => source.delete('a'));
  t.equal(good.size + many.size, 0);
});

t.test('an exception in a derivation is reported and keeps the last value of that item only', async (t) => {
  const bugs: string[] = [];
  const graph = new Graph((message) => bugs.push(message));
  const source = graph.source<number>('source');
  const derived = graph.derive('halves', source, (_, n) => {
    if (n % 2 === 1) throw new Error('odd');
    return n / 2;
  });
  graph.transact(() => {
    source.set('a', 2);
    source.set('b', 2);
  });
  graph.transact(() => {
    source.set('a', 3);
    source.set('b', 4);
  });
  t.same([derived.get('a'), derived.get('b')], [1, 2]);
  t.same(bugs, ['collection halves failed at a']);
});

t.test('of two inputs that claim one key the lower has it, and the other steps in', async (t) => {
  const graph = strict();
  const source = graph.source<{ claims: string[]; by: string }>('source');
  const claims = graph.deriveMany(
    'claims',
    source,
    (_, { claims, by }) => claims.map((key) => [key, by] as const),
    ([key]) => key,
  );
  const owner = () => claims.get('x')?.[1];
  graph.transact(() => source.set('b', { claims: ['x', 'y'], by: 'b' }));
  graph.transact(() => source.set('a', { claims: ['x'], by: 'a' }));
  graph.transact(() => source.set('c', { claims: ['x'], by: 'c' }));
  t.equal(owner(), 'a');
  graph.transact(() => source.set('b', { claims: ['x', 'y'], by: 'b2' }));
  t.equal(owner(), 'a');
  graph.transact(() => source.delete('a'));
  t.equal(owner(), 'b2');
  graph.transact(() => source.set('b', { claims: ['y'], by: 'b3' }));
  t.equal(owner(), 'c');
  graph.transact(() => source.delete('c'));
  t.equal(owner(), undefined);
  t.equal(claims.size, 1);
});

t.test('a collection reads only what was made before it', async (t) => {
  const bugs: unknown[] = [];
  const graph = new Graph((_, error) => bugs.push(error));
  const source = graph.source<number>('source');
  let later = source;
  graph.derive('early', source, (context, _, key) => context.get(later, key));
  later = graph.source<number>('late');
  graph.transact(() => source.set('a', 1));
  t.match(String(bugs[0]), /early reads late, which was made after it/);
});

t.test('collections change in transactions only, and transactions do not nest', async (t) => {
  const bugs: unknown[] = [];
  const graph = new Graph((_, error) => bugs.push(error));
  const source = graph.source<number>('source');
  t.throws(() => source.set('a', 1), /outside a transaction/);
  t.throws(() => graph.transact(() => graph.transact(() => {})), /inside another/);
  source.subscribe(() => graph.transact(() => {}));
  graph.transact(() => source.set('a', 1));
  t.match(String(bugs[0]), /inside another/);
  t.throws(() => graph.transact(() => graph.derive('new', source, (_, n) => n)), /before anything runs/);
});

t.test('a context is good only while computing, and only for its own graph', async (t) => {
  const bugs: unknown[] = [];
  const graph = new Graph((_, error) => bugs.push(error));
  const source = graph.source<number>('source');
  let kept: { get: (c: typeof source, key: string) => unknown } | undefined;
  graph.derive('leaky', source, (context, n) => {
    kept = context;
    return n;
  });
  graph.transact(() => source.set('a', 1));
  t.throws(() => kept?.get(source, 'a'), /keeps its context/);
  const foreign = { ...source, name: 'foreign' } as unknown as typeof source;
  t.throws(() => graph.derive('d', foreign, (_, n) => n), /foreign is not a collection of this graph/);
});

t.test('tells the end of every transaction with an effect, after everybody has heard their part', async (t) => {
  const graph = strict();
  const source = graph.source<number>('source');
  const order: string[] = [];
  source.subscribe(() => order.push('changes'));
  graph.onCommit((version) => order.push(`commit ${version}`));
  graph.transact(() => source.set('a', 1));
  graph.transact(() => source.set('a', 1));
  graph.transact(() => source.set('a', 2));
  t.same(order, ['changes', 'commit 1', 'changes', 'commit 2']);
  t.same(graph.sizes(), [{ name: 'source', size: 1 }]);
});
