import { TunnelProtocol } from '../../gen/istio/workload/workload_pb.js';
import type { Clock } from '../../lib/clock.js';
import type { Store } from '../store/store.js';

/**
 * Resolves when the mesh can be taken to know that a pod takes no tunnels any more: the control plane has told this agent,
 * and the others had a moment, too. Without a control plane it is given up soon: the pod was told to leave.
 */
export async function untunnelled(store: Pick<Store, 'fullWorkload'>, uid: string, clock: Clock): Promise<void> {
  const pause = (ms: number) => new Promise<void>((resolve) => clock.schedule(ms, resolve));
  const deadline = clock.now() + PATIENCE_MS;
  while (store.fullWorkload(uid)?.tunnelProtocol === TunnelProtocol.HBONE) {
    if (clock.now() >= deadline) return;
    await pause(POLL_MS);
  }
  await pause(GRACE_MS);
}

const POLL_MS = 20;
const GRACE_MS = 100;
const PATIENCE_MS = 2000;
