import fc from 'fast-check';
import t from 'tap';
import type { Clock } from '../../../src/lib/clock.js';
import { setLevel } from '../../../src/telemetry/log.js';
import { type AdsClient, connectAds } from '../../../src/xds/client.js';
import { ResourceTable } from '../../../src/xds/resource-table.js';
import type { Update } from '../../../src/xds/update.js';
import { type RunningAdsServer, resource, startAdsServer } from '../../support/ads-server.js';

// Whatever is edited, subscribed, refused or restarted in between: in the end every client holds exactly what the
// server has of its subscription, and what it refused is what it held before.

setLevel('silent');

const TYPE = 'type.googleapis.com/test.Thing';
/** Reconnects at once, but not in the same turn. */
const EAGER: Clock = {
  now: () => 0,
  schedule(_delayMs, callback) {
    const timer = setImmediate(callback);
    return () => clearImmediate(timer);
  },
};

type Step =
  | { readonly kind: 'edit'; readonly changed: [string, string, string[]][]; readonly removed: string[] }
  | { readonly kind: 'subscribe' | 'unsubscribe'; readonly names: string[] }
  | { readonly kind: 'restart' | 'turn' };

const name = fc.constantFrom('a', 'b', 'c', 'd', 'e');
const alias = fc.constantFrom('ip-1', 'ip-2', 'ip-3');
const anyName = fc.oneof(name, alias);
const content = fc.constantFrom('1', '2', '3');
const step: fc.Arbitrary<Step> = fc.oneof(
  {
    weight: 5,
    arbitrary: fc.record({
      kind: fc.constant('edit' as const),
      changed: fc.array(fc.tuple(name, content, fc.uniqueArray(alias, { maxLength: 2 })), { maxLength: 3 }),
      removed: fc.array(name, { maxLength: 2 }),
    }),
  },
  {
    weight: 4,
    arbitrary: fc.record({
      kind: fc.constantFrom('subscribe' as const, 'unsubscribe' as const),
      names: fc.array(anyName, { minLength: 1, maxLength: 3 }),
    }),
  },
  { weight: 3, arbitrary: fc.constant({ kind: 'turn' as const }) },
  { weight: 1, arbitrary: fc.constant({ kind: 'restart' as const }) },
);

t.test(
  'after random edits, subscriptions and restarts each client holds the server’s view',
  { timeout: 120_000 },
  async () => {
    await fc.assert(
      fc.asyncProperty(fc.array(step, { maxLength: 25 }), async (steps) => {
        const world = await World.start();
        try {
          for (const each of steps) await world.take(each);
          await world.settle();
          world.check();
        } finally {
          await world.close();
        }
      }),
      { numRuns: 150 },
    );
  },
);

class World {
  readonly wanted = new Set<string>();
  readonly everything = new Follower('wildcard');
  readonly some = new Follower('onDemand');
  markers = 0;

  constructor(
    public table: ResourceTable,
    public server: RunningAdsServer,
  ) {}

  static async start(): Promise<World> {
    const table = new ResourceTable(TYPE);
    const world = new World(table, await startAdsServer([table]));
    for (const each of [world.everything, world.some]) each.connect(world.server.port);
    return world;
  }

  async take(step: Step): Promise<void> {
    if (step.kind === 'edit') {
      this.table.apply(
        step.changed.map(([name, content, aliases]) => resource(name, content, aliases)),
        step.removed,
      );
    } else if (step.kind === 'subscribe') {
      for (const each of step.names) this.wanted.add(each);
      this.some.client?.subscribe(TYPE, step.names);
    } else if (step.kind === 'unsubscribe') {
      for (const each of step.names) this.wanted.delete(each);
      this.some.client?.unsubscribe(TYPE, step.names);
    } else if (step.kind === 'turn') {
      await new Promise((resolve) => setTimeout(resolve, 1));
    } else {
      await this.server.close();
      const reborn = new ResourceTable(TYPE);
      reborn.apply(
        [...this.table.all()].map(({ name, aliases }) => ({
          name,
          aliases,
          bytes: this.table.bytes(name) ?? new Uint8Array(),
        })),
      );
      this.table = reborn;
      this.server = await startAdsServer([reborn], { port: this.server.port });
    }
  }

  /** A marker travels behind everything that was said before it, both ways. */
  async settle(): Promise<void> {
    const marker = `marker-${this.markers++}`;
    this.some.client?.subscribe(TYPE, [marker]);
    this.table.apply([resource(marker, '1')]);
    await Promise.all([this.everything.until(marker), this.some.until(marker)]);
    this.wanted.add(marker);
  }

  check(): void {
    const all: Record<string, string> = {};
    const asked: Record<string, string> = {};
    for (const { name, aliases } of this.table.all()) {
      const text = Buffer.from(this.table.bytes(name) ?? '').toString();
      all[name] = text;
      if ([name, ...aliases].some((each) => this.wanted.has(each))) asked[name] = text;
    }
    same(this.everything.held, all);
    same(this.some.held, asked);
  }

  async close(): Promise<void> {
    this.everything.client?.close();
    this.some.client?.close();
    await this.server.close();
  }
}

class Follower {
  readonly held = new Map<string, string>();
  client: AdsClient | undefined;
  #waiting: { name: string; resolve: () => void } | undefined;

  constructor(readonly mode: 'wildcard' | 'onDemand') {}

  connect(port: number): void {
    this.client = connectAds({
      address: `127.0.0.1:${port}`,
      rootCerts: async () => undefined,
      node: { id: this.mode },
      clock: EAGER,
      types: [{ typeUrl: TYPE, mode: this.mode, onUpdate: (update) => this.#apply(update) }],
    });
  }

  until(name: string): Promise<void> {
    return this.held.has(name)
      ? Promise.resolve()
      : new Promise((resolve) => {
          this.#waiting = { name, resolve };
        });
  }

  #apply({ changed, removed }: Update) {
    for (const each of removed) this.held.delete(each);
    for (const { name, bytes } of changed) this.held.set(name, Buffer.from(bytes).toString());
    if (this.#waiting !== undefined && this.held.has(this.#waiting.name)) this.#waiting.resolve();
    return [];
  }
}

function same(held: ReadonlyMap<string, string>, expected: Readonly<Record<string, string>>): void {
  const sorted = (entries: Iterable<[string, string]>): string => JSON.stringify([...entries].sort());
  if (sorted(held) !== sorted(Object.entries(expected))) {
    throw new Error(`held ${sorted(held)}, expected ${sorted(Object.entries(expected))}`);
  }
}
