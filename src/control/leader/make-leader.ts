import { randomUUID } from 'node:crypto';
import { hostname } from 'node:os';
import type { KubeApi } from '../../kube/api.js';
import { monotonicClock } from '../../lib/clock.js';
import { logger } from '../../telemetry/log.js';
import type { MetricsRegistry } from '../../telemetry/metrics.js';
import type { ControlPlaneConfig } from '../config.js';
import { LeaseElection } from './election.js';
import { type Leader, soleLeader } from './leader.js';

/** Elected among the control planes of this revision; without an API server there is nobody else. */
export function makeLeader(config: ControlPlaneConfig, kube: KubeApi | undefined, metrics: MetricsRegistry): Leader {
  const common = { clock: monotonicClock, log: logger('leader'), metrics };
  if (kube === undefined || !config.leaderElection) return soleLeader(common);
  const name = config.revision === '' ? 'meltemi-leader' : `meltemi-leader-${config.revision}`;
  return new LeaseElection({
    ...common,
    api: kube,
    lease: { namespace: config.mesh.rootNamespace, name },
    self: `${hostname()}_${randomUUID()}`,
  });
}
