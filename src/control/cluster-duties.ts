import type { KubeApi } from '../kube/api.js';
import type { Clock } from '../lib/clock.js';
import { logger } from '../telemetry/log.js';
import type { MetricsRegistry } from '../telemetry/metrics.js';
import type { Authority } from './ca/authority.js';
import type { ControlPlaneConfig } from './config.js';
import type { Inputs } from './inputs/inputs.js';
import { whileLeading } from './leader/fenced-api.js';
import type { Leader } from './leader/leader.js';
import type { Mesh } from './mesh/mesh.js';
import { StatusWriter } from './status/status-writer.js';
import { keepWebhookConfiguration } from './validate/webhook-configuration.js';

export interface ClusterParts {
  readonly kube: KubeApi;
  readonly leader: Leader;
  readonly authority: Authority;
  readonly inputs: Inputs;
  readonly mesh: Mesh;
  readonly clock: Clock;
  readonly metrics: MetricsRegistry;
}

export interface ClusterDuties {
  /** An object of the source is no good: `Kind namespace/name`. */
  rejected(object: string): void;
  /** To be called when the source has been read: nothing is said of objects before. */
  start(): void;
}

/** What the leader writes to the cluster of what this control plane knows: conditions, and how the webhook is found. */
export function clusterDuties(config: ControlPlaneConfig, parts: ClusterParts): ClusterDuties {
  const { kube, leader, authority, inputs, mesh, clock, metrics } = parts;
  const api = whileLeading(kube, leader);
  const status = new StatusWriter({ api, inputs, mesh, clock, log: logger('status'), metrics });
  return {
    rejected: (object) => status.rejected(object),
    start() {
      if ('kubernetes' in config.source) leader.run('status', (signal) => status.run(signal));
      if (config.webhook.port === 0) return;
      const namespace = config.mesh.rootNamespace;
      const revision = config.revision === '' ? '' : `-${config.revision}`;
      const options = {
        api,
        name: `meltemi-validator${revision}-${namespace}`,
        namespace,
        failurePolicy: config.webhook.failurePolicy,
        roots: () => authority.material.roots.map(({ pem }) => pem).join(''),
        subscribe: (listener: () => void) => authority.subscribe(listener),
        clock,
        log: logger('webhook'),
        metrics,
      };
      leader.run('webhook', (signal) => keepWebhookConfiguration(options, signal));
    },
  };
}
