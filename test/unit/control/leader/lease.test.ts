import t from 'tap';
import { decide, leaseSpec, microTime, readLease } from '../../../../src/control/leader/lease.js';

const record = { holder: 'other', durationMs: 10_000, transitions: 3, acquired: '', renewed: '' };

t.test('a lease is taken when there is none, when nobody holds it, and when it has run out', async (t) => {
  t.match(decide(undefined, 'me', 0), { action: 'acquire' });
  t.match(decide({ record: { ...record, holder: '' }, sinceMs: 0 }, 'me', 1), { action: 'acquire' });
  t.match(decide({ record, sinceMs: 500 }, 'me', 10_500), { action: 'acquire', because: /other has not renewed/ });
});

t.test('a lease of another is left alone for its whole duration since it was first seen', async (t) => {
  t.same(decide({ record, sinceMs: 500 }, 'me', 10_499), { action: 'wait', forMs: 1, because: 'other holds it' });
});

t.test('one’s own lease is renewed, also when it has run out: nobody took it', async (t) => {
  t.match(decide({ record: { ...record, holder: 'me' }, sinceMs: 0 }, 'me', 60_000), { action: 'renew' });
});

t.test('a Lease is written as the API wants it, and read back', async (t) => {
  const full = {
    holder: 'me',
    durationMs: 10_000,
    transitions: 4,
    acquired: microTime(new Date(0)),
    renewed: microTime(new Date(1)),
  };
  t.equal(full.renewed, '1970-01-01T00:00:00.001000Z');
  t.same(readLease({ metadata: { name: 'x' }, spec: leaseSpec(full) }), full);
});

t.test('a Lease that makes no sense is held by nobody', async (t) => {
  for (const spec of [undefined, null, 'x', { holderIdentity: 3, leaseDurationSeconds: 'x' }]) {
    t.match(decide({ record: readLease({ metadata: { name: 'x' }, spec }), sinceMs: 0 }, 'me', 0), {
      action: 'acquire',
    });
  }
});
