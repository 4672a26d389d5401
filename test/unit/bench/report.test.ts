import t from 'tap';
import { median, medians, type Results, renderSpeed } from '../../bench/report.js';

t.test('the median is the middle value, or the mean of the two in the middle', async (t) => {
  t.equal(median([3, 1, 2]), 2);
  t.equal(median([4, 1, 2, 3]), 2.5);
  t.ok(Number.isNaN(median([])));
});

t.test('medians leave out what no round has measured', async (t) => {
  t.same(medians([{ bulk1: 1 }, { bulk1: 3, errors: 0 }]), { bulk1: 2, errors: 0 });
});

t.test('each peer has a row of ratios of the product to it', async (t) => {
  const rounds = {
    direct: [{ bulk1: 40 }],
    meltemi: [{ bulk1: 20, ping1P50: 90 }],
    other: [{ bulk1: 10, ping1P50: 180 }],
  };
  const results: Results = { machine: 'm', congestion: 'cubic', rounds, memory: {}, failures: [] };
  const lines = renderSpeed(results, 'meltemi').split('\n');
  t.match(lines[2], /meltemi \/ direct\s+×0\.50/);
  t.match(lines[5], /meltemi \/ other\s+×2\.00\s+×0\.50/);
});
