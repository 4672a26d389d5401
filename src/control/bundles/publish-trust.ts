import type { Collection } from '../../collections/collection.js';
import type { KubeApi } from '../../kube/api.js';
import type { Clock } from '../../lib/clock.js';
import { logger } from '../../telemetry/log.js';
import type { MetricsRegistry } from '../../telemetry/metrics.js';
import type { Authority } from '../ca/authority.js';
import { whileLeading } from '../leader/fenced-api.js';
import type { Leader } from '../leader/leader.js';
import { keepClusterTrustBundle } from './cluster-trust-bundle.js';
import { ConfigMaps } from './config-maps.js';

export interface TrustParts {
  readonly kube: KubeApi;
  readonly leader: Leader;
  readonly authority: Pick<Authority, 'bundle' | 'revocationLists' | 'subscribe'>;
  /** By name. */
  readonly namespaces: Collection<unknown>;
  /** Where the agents are. */
  readonly rootNamespace: string;
  readonly clock: Clock;
  readonly metrics: MetricsRegistry;
}

/**
 * Lets the cluster know whom to trust, as long as this process leads: the roots as ConfigMap `istio-ca-root-cert` in
 * every namespace and as a ClusterTrustBundle, the revocation lists as ConfigMap `istio-ca-crl` beside the agents.
 * Nothing is written before the source has been read: start it then.
 */
export function publishTrust({ kube, leader, authority, namespaces, rootNamespace, clock, metrics }: TrustParts): void {
  const log = logger('trust');
  const common = {
    api: whileLeading(kube, leader),
    clock,
    log,
    writes: metrics.counter('meltemi_trust_writes_total', 'Objects that tell the cluster whom to trust, written.'),
    failures: metrics.counter('meltemi_trust_write_failures_total', 'Those that could not be written.'),
  };
  let pending = () => 0;
  metrics.gauge('meltemi_trust_pending', 'Namespaces that lack the newest roots.', [], () => pending());

  leader.run('root bundles', async (signal) => {
    const roots = new ConfigMaps({
      ...common,
      name: 'istio-ca-root-cert',
      key: 'root-cert.pem',
      text: () => authority.bundle,
      namespaces,
    });
    const lists = new ConfigMaps({
      ...common,
      name: 'istio-ca-crl',
      key: 'ca-crl.pem',
      text: () => authority.revocationLists,
      namespaces: rootNamespace,
    });
    const unsubscribe = authority.subscribe((change) => (change === 'material' ? roots : lists).check());
    pending = () => roots.pending;
    roots.start();
    lists.start();
    await aborted(signal);
    unsubscribe();
    roots.close();
    lists.close();
    pending = () => 0;
  });

  leader.run('cluster trust bundle', (signal) =>
    keepClusterTrustBundle(
      {
        ...common,
        bundle: () => authority.bundle,
        subscribe: (changed) =>
          authority.subscribe((change) => {
            if (change === 'material') changed();
          }),
      },
      signal,
    ),
  );
}

function aborted(signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    signal.addEventListener('abort', () => resolve(), { once: true });
    if (signal.aborted) resolve();
  });
}
