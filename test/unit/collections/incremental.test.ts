import fc from 'fast-check';
import t from 'tap';
import type { Collection } from '../../../src/collections/collection.js';
import { Graph, type Source } from '../../../src/collections/graph.js';

/** A small mesh with every kind of collection in it. */
function build(graph: Graph): { sources: Source<Row>[]; outcome: () => unknown } {
  const pods = graph.source<Row>('pods');
  const services = graph.source<Row>('services');
  const policies = graph.source<Row>('policies');
  const bySelector = graph.index('services by selector', services, ({ labels }) => labels);
  const byOwner = graph.index('pods by owner', pods, ({ owner }) => [owner]);
  const workloads = graph.derive('workloads', pods, (context, pod, key) => ({
    key,
    weight: pod.weight,
    services: pod.labels.flatMap((label) => context.lookup(bySelector, label).map((s) => s.owner)),
    policy: context.get(policies, pod.owner)?.weight,
  }));
  const heavy = graph.derive('heavy', workloads, (_, w) => (w.weight > 2 ? { ...w, heavy: true } : undefined));
  const ports = graph.deriveMany(
    'ports',
    services,
    (context, service) =>
      service.labels.map((label) => [label, context.lookup(byOwner, service.owner).length] as const),
    ([key]) => key,
  );
  const owners = graph.groups('owners', byOwner);
  const counts = graph.derive('counts', owners, (context, members, owner) => ({
    members: members.length,
    own: context.get(ports, owner)?.[1],
    heavy: members.filter(({ key }) => context.get(heavy, key) !== undefined).length,
  }));
  const either = graph.join<unknown>('either', [heavy as Collection<unknown>, workloads]);
  const once = graph.constant('once', 'once', true);
  const total = graph.derive('total', once, (context) => context.list(counts).reduce((sum, c) => sum + c.members, 0));
  const all: Collection<unknown>[] = [workloads, heavy, ports, owners, counts, either, total];
  const outcome = () => all.map((c) => [c.name, [...c.entries()].sort(([a], [b]) => (a < b ? -1 : 1))]);
  return { sources: [pods, services, policies], outcome };
}

interface Row {
  readonly key: string;
  readonly owner: string;
  readonly labels: readonly string[];
  readonly weight: number;
}

const key = fc.constantFrom('a', 'b', 'c', 'd', 'e', 'f');
const row = fc.record({ owner: key, labels: fc.uniqueArray(key, { maxLength: 3 }), weight: fc.nat(4) });
const edit = fc.record({ source: fc.nat(2), key, row: fc.option(row, { nil: undefined }) });
const history = fc.array(fc.array(edit, { minLength: 1, maxLength: 5 }), { maxLength: 20 });

t.test('after any history of edits, what was computed step by step equals what is computed from scratch', async (t) => {
  fc.assert(
    fc.property(history, (transactions) => {
      const fail = (message: string, error: unknown) => {
        throw new Error(message, { cause: error });
      };
      const graph = new Graph(fail);
      const stepwise = build(graph);
      const mirrored = new Map<string, Map<string, unknown>>();
      for (const source of stepwise.sources) {
        const mirror = new Map<string, unknown>();
        mirrored.set(source.name, mirror);
        source.subscribe((changes) => {
          for (const { key, after } of changes) after === undefined ? mirror.delete(key) : mirror.set(key, after);
        });
      }
      for (const edits of transactions) {
        graph.transact(() => {
          for (const { source, key, row } of edits) {
            const into = stepwise.sources[source];
            row === undefined ? into?.delete(key) : into?.set(key, { key, ...row });
          }
        });
      }
      const fresh = new Graph(fail);
      const atOnce = build(fresh);
      fresh.transact(() => {
        stepwise.sources.forEach((from, i) => {
          for (const [key, value] of from.entries()) atOnce.sources[i]?.set(key, value);
        });
      });
      t.strictSame(stepwise.outcome(), atOnce.outcome());
      for (const source of stepwise.sources) t.strictSame(new Map(source.entries()), mirrored.get(source.name));
    }),
    { numRuns: 300 },
  );
});
