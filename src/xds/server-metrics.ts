import type { MetricsRegistry } from '../telemetry/metrics.js';

/** What an ADS server counts. `type` is the source's metric name. */
export interface AdsServerMetrics {
  /** Number of streams open now. */
  streams(count: number): void;
  pushed(type: string, bytes: number): void;
  /** From the first change that a response carries until flow control took it. */
  converged(seconds: number): void;
  rejected(type: string): void;
  unauthenticated(): void;
  /** A stream was ended since its token had. */
  expired(): void;
}

/** The same under the names that dashboards know. */
export function adsServerMetrics(registry: MetricsRegistry): AdsServerMetrics {
  const streams = registry.gauge('pilot_xds', 'Number of proxies connected over xDS.');
  const pushes = registry.counter('pilot_xds_pushes', 'xDS responses sent, by type.', ['type']);
  const bytes = registry.counter('pilot_xds_push_bytes_total', 'Bytes of xDS responses sent, by type.', ['type']);
  const convergence = registry.histogram(
    'pilot_proxy_convergence_time',
    'Seconds between a change of configuration and a proxy receiving it.',
    [0.01, 0.1, 0.5, 1, 3, 5, 10, 20, 30],
  );
  const rejects = registry.counter('pilot_total_xds_rejects', 'xDS responses that a proxy refused, by type.', ['type']);
  const failures = registry.counter(
    'pilot_xds_authentication_failures_total',
    'xDS streams refused for want of proof.',
  );
  const expiries = registry.counter('meltemi_xds_expired_streams_total', 'xDS streams ended with their token.');
  return {
    streams: (count) => streams.set(count),
    pushed(type, size) {
      pushes.inc({ type });
      bytes.inc({ type }, size);
    },
    converged: (seconds) => convergence.observe(seconds),
    rejected: (type) => rejects.inc({ type }),
    unauthenticated: () => failures.inc(),
    expired: () => expiries.inc(),
  };
}
