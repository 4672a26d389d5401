import t, { type Test } from 'tap';
import { Graph } from '../../../src/collections/graph.js';
import {
  applyChanges,
  type InputSource,
  type Inputs,
  makeInputs,
  type ObjectChange,
} from '../../../src/control/inputs/inputs.js';
import { until } from '../../support/mesh.js';

/** An object as a person writes it. */
export interface Manifest {
  readonly apiVersion: string;
  readonly kind: string;
  readonly metadata: { readonly name: string; readonly namespace?: string; readonly [field: string]: unknown };
  readonly [field: string]: unknown;
}

/** A truth that tests write, and the source that reads it. */
export interface Truth {
  readonly source: InputSource;
  /** Makes the object what it says. Resolves when it is written, not when it is read. */
  put(object: Manifest): Promise<void>;
  remove(object: Manifest): Promise<void>;
  /** Makes the truth unreachable, and reachable again. */
  hide(): Promise<void>;
  show(): Promise<void>;
}

export interface TruthEvents {
  apply(changes: readonly ObjectChange[]): void;
  rejected(): void;
}

/** What every source of truth holds to. `open` gives one that nobody else writes to, of which nothing has been read. */
export function inputsSuite(name: string, open: (t: Test, events: TruthEvents) => Promise<Truth>): void {
  const scene = async (t: Test) => {
    const graph = new Graph((message, error) => t.fail(message, { error }));
    const inputs = makeInputs(graph);
    const transactions: (readonly ObjectChange[])[] = [];
    const counts = { rejected: 0 };
    const truth = await open(t, {
      apply(changes) {
        transactions.push(changes);
        graph.transact(() => applyChanges(inputs, changes));
      },
      rejected: () => counts.rejected++,
    });
    t.teardown(() => truth.source.close());
    const sees = (what: string, condition: () => boolean) => until(what, async () => condition());
    return { ...truth, graph, inputs, transactions, counts, sees };
  };

  t.test(`${name}: everything there is comes in one transaction, and start waits for it`, async (t) => {
    const { source, put, inputs, transactions } = await scene(t);
    await put(namespace('shop'));
    await put(service('web'));
    await put(pod('web-1'));
    await put(policy('allow'));
    await source.start();
    t.same(keys(inputs), {
      Namespace: ['shop'],
      Service: ['shop/web'],
      Pod: ['shop/web-1'],
      AuthorizationPolicy: ['shop/allow'],
    });
    t.equal(transactions.length, 1);
    t.match(inputs.Pod.get('shop/web-1'), {
      metadata: { labels: { app: 'web' } },
      nodeName: 'n1',
      serviceAccount: 'web',
    });
    t.equal((source.counts().objects as number) >= 4, true);
  });

  t.test(`${name}: an object comes, changes, goes, and comes again`, async (t) => {
    const { source, put, remove, inputs, sees } = await scene(t);
    await put(namespace('shop'));
    await source.start();
    await put(service('web'));
    await sees('it has come', () => inputs.Service.has('shop/web'));
    await put(service('web', { version: '2' }));
    await sees('it has changed', () => inputs.Service.get('shop/web')?.metadata.labels.version === '2');
    await remove(service('web'));
    await sees('it has gone', () => !inputs.Service.has('shop/web'));
    await put(service('web', { version: '3' }));
    await sees('it has come again', () => inputs.Service.get('shop/web')?.metadata.labels.version === '3');
  });

  t.test(`${name}: what is no good keeps its last good version and stops nothing else`, async (t) => {
    const { source, put, remove, inputs, counts, sees } = await scene(t);
    await put(namespace('shop'));
    await put(policy('allow'));
    await source.start();
    await put(badPolicy('allow'));
    await put(badPolicy('born-bad'));
    await put(service('web'));
    await sees('the good one has come', () => inputs.Service.has('shop/web'));
    await sees('both are reported', () => counts.rejected === 2);
    await sees('the one that never was good denies', () => inputs.AuthorizationPolicy.has('shop/born-bad'));
    t.same(keys(inputs).AuthorizationPolicy, ['shop/allow', 'shop/born-bad']);
    t.equal(inputs.AuthorizationPolicy.get('shop/allow')?.closed, undefined);
    t.match(inputs.AuthorizationPolicy.get('shop/born-bad'), { action: 'DENY', closed: { problems: [/rules/] } });
    t.equal(inputs.AuthorizationPolicy.get('shop/allow')?.rules.length, 1);
    t.match(JSON.stringify(source.status()), /born-bad.*rules/s);
    await put(policy('born-bad'));
    await sees('it is good now', () => inputs.AuthorizationPolicy.get('shop/born-bad')?.action === 'ALLOW');
    await put(badPolicy('allow', 2));
    await sees('another bad version is reported', () => counts.rejected === 3);
    await remove(policy('allow'));
    await sees('its last good version goes with it', () => !inputs.AuthorizationPolicy.has('shop/allow'));
    await put(badPolicy('short-lived'));
    await sees('it denies', () => inputs.AuthorizationPolicy.get('shop/short-lived')?.closed !== undefined);
    await remove(policy('short-lived'));
    await sees('not when it is gone', () => !inputs.AuthorizationPolicy.has('shop/short-lived'));
  });

  t.test(`${name}: many changes at once are few transactions, and none is lost`, async (t) => {
    const { source, put, remove, inputs, transactions, sees } = await scene(t);
    await put(namespace('shop'));
    await source.start();
    const names = Array.from({ length: 60 }, (_, i) => `pod-${i}`);
    await Promise.all(names.map((name) => put(pod(name))));
    await sees('all have come', () => inputs.Pod.size === 60);
    await Promise.all(names.map((name, i) => (i % 3 === 0 ? remove(pod(name)) : put(pod(name, { round: '2' })))));
    await sees(
      'all have changed',
      () =>
        [...inputs.Pod.values()].length === 40 &&
        [...inputs.Pod.values()].every(({ metadata }) => metadata.labels.round === '2'),
    );
    t.ok(transactions.length < 100, `${transactions.length} transactions`);
    const seen = new Map<string, boolean>();
    for (const { object, gone } of transactions.flat()) {
      const key = `${object.metadata.namespace}/${object.metadata.name}`;
      t.notOk(gone && seen.get(key) !== true, 'what goes was there');
      seen.set(key, !gone);
    }
  });

  t.test(`${name}: while the truth is away, what it said stays; then nothing is lost`, async (t) => {
    const { source, put, remove, inputs, sees, hide, show } = await scene(t);
    await put(namespace('shop'));
    await put(pod('a'));
    await put(pod('b'));
    await source.start();
    await hide();
    t.same(keys(inputs).Pod, ['shop/a', 'shop/b']);
    await show();
    await remove(pod('a'));
    await put(pod('c'));
    await sees('it has caught up', () => !inputs.Pod.has('shop/a') && inputs.Pod.has('shop/c'));
    t.same(keys(inputs).Pod, ['shop/b', 'shop/c']);
  });

  t.test(`${name}: nothing is told after close`, async (t) => {
    const { source, put, transactions } = await scene(t);
    await put(namespace('shop'));
    await source.start();
    source.close();
    const before = transactions.length;
    await put(pod('late'));
    await new Promise((resolve) => setTimeout(resolve, 100));
    t.equal(transactions.length, before);
  });
}

/** Names of what is in the namespace `shop`, and itself: an API server has more of its own. */
function keys(inputs: Inputs): Record<string, readonly string[]> {
  return Object.fromEntries(
    Object.entries(inputs)
      .map(([kind, source]) => {
        const all: string[] = [...source.entries()].map(([key]: readonly [string, unknown]) => key);
        return [kind, all.filter((key) => key === 'shop' || key.startsWith('shop/')).sort()] as const;
      })
      .filter(([, all]) => all.length > 0),
  );
}

function namespace(name: string): Manifest {
  return { apiVersion: 'v1', kind: 'Namespace', metadata: { name } };
}

function service(name: string, labels: Record<string, string> = {}): Manifest {
  return {
    apiVersion: 'v1',
    kind: 'Service',
    metadata: { name, namespace: 'shop', labels },
    spec: { ports: [{ name: 'http', port: 80 }], selector: { app: name } },
  };
}

function pod(name: string, labels: Record<string, string> = {}): Manifest {
  return {
    apiVersion: 'v1',
    kind: 'Pod',
    metadata: { name, namespace: 'shop', labels: { app: 'web', ...labels } },
    spec: { nodeName: 'n1', serviceAccountName: 'web', containers: [{ name: 'main', image: 'none' }] },
  };
}

function policy(name: string): Manifest {
  return {
    apiVersion: 'security.istio.io/v1',
    kind: 'AuthorizationPolicy',
    metadata: { name, namespace: 'shop' },
    spec: { action: 'ALLOW', rules: [{ from: [{ source: { namespaces: ['shop'] } }] }] },
  };
}

/** What an API server without a schema lets through. */
function badPolicy(name: string, version = 1): Manifest {
  return {
    apiVersion: 'security.istio.io/v1',
    kind: 'AuthorizationPolicy',
    metadata: { name, namespace: 'shop' },
    spec: { rules: `no list ${version}` },
  };
}
