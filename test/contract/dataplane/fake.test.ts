import t from 'tap';
import { FakeDataplane } from '../../../src/agent/dataplane/fake.js';
import type { Clock } from '../../../src/lib/clock.js';
import { type Harness, type HarnessOptions, POD, POD_IDENTITY } from './harness.js';
import { dataplaneSuite } from './suite.js';

/** As the system's, but worth staying alive for. */
const clock: Clock = {
  now: Date.now,
  schedule(delayMs, callback) {
    const timer = setTimeout(callback, delayMs);
    return () => clearTimeout(timer);
  },
};

dataplaneSuite(t, async (options: HarnessOptions = {}): Promise<Harness> => {
  const dataplane = new FakeDataplane(options, clock);
  return {
    dataplane,
    server: { ip: '10.99.0.9', port: 7 },
    async addPod() {
      const identity = { identity: POD_IDENTITY, name: 'client', namespace: 'default' };
      await dataplane.addPod({ uid: POD, ...identity, netns: '/nowhere', addresses: ['10.99.0.4'] });
    },
    connect: (dstIp, dstPort) => dataplane.connect({ pod: POD, dstIp, dstPort }),
    [Symbol.asyncDispose]: async () => dataplane.close(),
  };
});
