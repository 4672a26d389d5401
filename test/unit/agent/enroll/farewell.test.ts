import { create } from '@bufbuild/protobuf';
import { test } from 'tap';
import { untunnelled } from '../../../../src/agent/enroll/farewell.js';
import { TunnelProtocol, type Workload, WorkloadSchema } from '../../../../src/gen/istio/workload/workload_pb.js';
import { ManualClock } from '../../../../src/lib/manual-clock.js';

function rig() {
  const clock = new ManualClock();
  let workload: Workload | undefined = create(WorkloadSchema, { tunnelProtocol: TunnelProtocol.HBONE });
  let isOver = false;
  const over = untunnelled({ fullWorkload: () => workload }, 'a', clock).then(() => {
    isOver = true;
  });
  return {
    over,
    becomes: (next: Workload | undefined) => {
      workload = next;
    },
    /** Whether it is over after some time, which passes in small steps. */
    async after(ms: number): Promise<boolean> {
      for (let passed = 0; passed < ms; passed += 10) {
        clock.advance(10);
        await new Promise((resolve) => setImmediate(resolve));
      }
      return isOver;
    },
  };
}

test('a pod stays until the mesh dials it without tunnels, and a moment longer for the others', async (t) => {
  const { after, becomes, over } = rig();
  t.equal(await after(500), false);
  becomes(create(WorkloadSchema, { tunnelProtocol: TunnelProtocol.NONE }));
  t.equal(await after(50), false);
  t.equal(await after(200), true);
  await over;
});

test('nobody waits for ever for a control plane that is away, nor long for a pod that is gone', async (t) => {
  const away = rig();
  t.equal(await away.after(1900), false);
  t.equal(await away.after(200), true);
  const gone = rig();
  gone.becomes(undefined);
  t.equal(await gone.after(200), true);
});
