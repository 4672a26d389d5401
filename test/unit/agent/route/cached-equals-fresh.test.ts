import assert from 'node:assert/strict';
import fc from 'fast-check';
import t from 'tap';
import { type Offer, OfferField, type Read, type Verdict } from '../../../../src/agent/dataplane/dataplane.js';
import { candidatesOf } from '../../../../src/agent/route/candidates.js';
import { decide } from '../../../../src/agent/route/decide.js';
import { Groups } from '../../../../src/agent/route/groups.js';
import type { World } from '../../../../src/agent/route/observed.js';
import { ReadFilter } from '../../../../src/agent/route/read-filter.js';
import { type Change, Store } from '../../../../src/agent/store/store.js';
import { parsePrefix, prefixContains } from '../../../../src/lib/ip.js';
import { type Edit, edit, FOUNDATION, offers, podOf } from '../mesh-arbitrary.js';
import { SELF, worldOf } from '../mesh-fixture.js';

/** The engine's flow table in its plainest form: verdicts under the fields looked at, dropped by what they read. */
class Cache {
  #flows: { readonly key: string; readonly fields: number; readonly verdict: Verdict }[] = [];

  find(asked: Offer): Verdict | undefined {
    return this.#flows.find(({ key, fields }) => key === flowKey(asked, fields))?.verdict;
  }

  put(asked: Offer, verdict: Verdict): void {
    this.#flows.push({ key: flowKey(asked, verdict.fields), fields: verdict.fields, verdict });
  }

  invalidate(reads: readonly Read[]): void {
    this.#flows = this.#flows.filter(
      ({ verdict }) => !verdict.reads.some((read) => reads.some((each) => hits(each, read))),
    );
  }
}

function flowKey(asked: Offer, fields: number): string {
  const { dstIp, dstPort, srcIp, peerIdentity, authority } = asked;
  const looked = { dstIp, dstPort, srcIp, peerIdentity, authority };
  const seen = Object.entries(looked).filter(([name]) => (fields & OfferField[name as keyof typeof OfferField]) !== 0);
  return JSON.stringify([asked.pod, asked.direction, fields, seen]);
}

function hits(changed: Read, read: Read): boolean {
  if (changed.table !== read.table || changed.prefix !== read.prefix) return false;
  if (!changed.prefix) return changed.key === read.key;
  const prefix = parsePrefix(changed.key);
  return prefix !== undefined && prefixContains(prefix, read.key);
}

function apply(store: Store, each: Edit): Change {
  switch (each.kind) {
    case 'addresses':
      return store.applyAddresses(each);
    case 'policies':
      return store.applyPolicies(each);
    case 'pod':
      return store.applyPod(podOf(each));
    case 'no-pod':
      return store.removePod(each.uid);
    case 'name':
      return store.applyName(each.host, each.known);
  }
}

function essence({ offerId: _id, version: _version, ...verdict }: Verdict) {
  return verdict;
}

t.test('whatever changes, what the cache answers equals a fresh decision', async (t) => {
  let hitCount = 0;
  let missCount = 0;
  const reasons = new Map<string, number>();
  const story = fc.array(fc.oneof({ weight: 1, arbitrary: edit }, { weight: 3, arbitrary: offers }), {
    minLength: 20,
    maxLength: 60,
  });
  fc.assert(
    fc.property(story, (steps) => {
      const filter = new ReadFilter();
      // So few that removed policies are forgotten all the time.
      const store = new Store((read) => filter.has(read), 2);
      // A limit so low that groups are given up all the time.
      const groups = new Groups(store, SELF, 4);
      const world: World = {
        snapshot: store,
        usable: (spec) => groups.usable(spec),
        namesIn: (spec) => groups.namesIn(spec),
      };
      const cache = new Cache();
      const asked: Offer[] = [];
      const ask = (each: Offer): void => {
        const fresh = decide(each, worldOf(store), SELF);
        const cached = cache.find(each);
        if (cached !== undefined) {
          hitCount++;
          assert.deepStrictEqual(essence(cached), essence(fresh));
          return;
        }
        missCount++;
        reasons.set(fresh.because, (reasons.get(fresh.because) ?? 0) + 1);
        const verdict = decide(each, world, SELF);
        assert.deepStrictEqual(essence(verdict), essence(fresh));
        filter.answered(verdict.reads);
        cache.put(each, verdict);
        cache.invalidate(filter.affected(groups.take().reads));
      };
      for (const step of [...FOUNDATION, ...steps]) {
        if ('kind' in step) {
          const change = apply(store, step);
          groups.apply(change);
          cache.invalidate(filter.affected([...change.reads, ...groups.take().reads]));
          // Whatever was asked before is asked again after each change.
          for (const each of asked) ask(each);
        } else {
          asked.push(step);
          ask(step);
        }
      }
    }),
    { numRuns: 300 },
  );
  t.comment(JSON.stringify(Object.fromEntries(reasons)));
  t.ok(hitCount > 5000, `${hitCount} hits, ${missCount} misses`);
  t.ok((reasons.get('service-endpoint') ?? 0) > 100, 'with connections to services');
  t.ok((reasons.get('policy-deny') ?? 0) > 20, 'with refusals by policy');
  t.ok((reasons.get('name-pending') ?? 0) > 20, 'with names that nobody has looked up');
  t.ok((reasons.get('policy-not-known') ?? 0) > 20, 'with policies that have not come');
});

t.test('groups kept as the mesh changes equal groups made anew', async (t) => {
  let compared = 0;
  fc.assert(
    fc.property(fc.array(fc.oneof(edit, offers), { minLength: 10, maxLength: 60 }), (steps) => {
      const store = new Store();
      const groups = new Groups(store, SELF);
      const pushed = new Map<string, unknown>();
      const world: World = {
        snapshot: store,
        usable: (spec) => groups.usable(spec),
        namesIn: (spec) => groups.namesIn(spec),
      };
      for (const step of [...FOUNDATION, ...steps]) {
        if ('kind' in step) groups.apply(apply(store, step));
        else decide(step, world, SELF);
        for (const { id, endpoints } of groups.take().puts) pushed.set(id, endpoints);
      }
      for (const { id, spec, endpoints } of groups.all()) {
        compared++;
        const anew = candidatesOf(spec, store, SELF).flatMap((each) => ('endpoint' in each ? [each.endpoint] : []));
        const sorted = (each: readonly { id: string }[]) => [...each].sort((a, b) => (a.id < b.id ? -1 : 1));
        t.strictSame(sorted(endpoints), sorted(anew), id);
        if (pushed.has(id)) t.strictSame(pushed.get(id), endpoints, `${id} is pushed`);
        else
          t.notOk(
            endpoints.some(({ healthy }) => healthy),
            `${id} was usable and not pushed`,
          );
      }
    }),
    { numRuns: 200 },
  );
  t.ok(compared > 100, `${compared} groups compared`);
});
