import t from 'tap';
import { createRegistry } from '../../../src/telemetry/metrics.js';

t.test('counters, gauges and histograms are rendered with their labels', async (t) => {
  const registry = createRegistry();
  registry.counter('meltemi_things_total', 'Things.', ['kind']).inc({ kind: 'a' }, 2);
  registry.gauge('meltemi_level', 'Level.').set(7);
  registry.gauge('meltemi_asked', 'Asked.', [], () => 5);
  registry.histogram('meltemi_seconds', 'Seconds.', [0.1, 1]).observe(0.5);
  registry.append(() => 'engine_bytes_total 9');
  const text = await registry.render();
  t.match(text, 'meltemi_things_total{kind="a"} 2\n');
  t.match(text, 'meltemi_level 7\n');
  t.match(text, 'meltemi_asked 5\n');
  t.match(text, 'meltemi_seconds_bucket{le="1"} 1\n');
  t.match(text, /engine_bytes_total 9\n$/);
});

t.test('declaring a name twice gives the same series', async (t) => {
  const registry = createRegistry();
  registry.counter('meltemi_once_total', 'Once.').inc();
  registry.counter('meltemi_once_total', 'Once.').inc();
  t.match(await registry.render(), 'meltemi_once_total 2\n');
});
