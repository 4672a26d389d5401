import t from 'tap';
import { completeEngineOptions, DEFAULT_ENGINE_OPTIONS } from '../../../../src/agent/dataplane/options.js';

t.test('what is not chosen is the default', async (t) => {
  t.same(completeEngineOptions({}), { ok: true, value: DEFAULT_ENGINE_OPTIONS });
  t.same(completeEngineOptions({ spinUs: 0 }), { ok: true, value: { ...DEFAULT_ENGINE_OPTIONS, spinUs: 0 } });
  t.ok(DEFAULT_ENGINE_OPTIONS.threads >= 1);
});

t.test('everything out of bounds is named at once', async (t) => {
  const result = completeEngineOptions({
    threads: 0,
    rekeyAfterRecords: 2 ** 24 + 1,
    connectTimeoutMs: 1.5,
    poolIdleMs: Number.NaN,
    inboundHbonePort: 15001,
    congestionControl: 'not a name',
  });
  t.match(result, {
    ok: false,
    error: [
      'engine.threads is 0, not a whole number from 1 to 128',
      /^engine\.connectTimeoutMs is 1\.5/,
      /^engine\.poolIdleMs is NaN/,
      /^engine\.rekeyAfterRecords is 16777217/,
      'engine ports 15001, 15006, 15001 are not three different ones',
      /^engine\.congestionControl is 'not a name'/,
    ],
  });
});
