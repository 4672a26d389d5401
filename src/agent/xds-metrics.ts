import type { MetricsRegistry } from '../telemetry/metrics.js';
import type { AdsClientMetrics } from '../xds/client.js';

/** Counts what the xDS client sees, under Istio's names. */
export function xdsMetrics(registry: MetricsRegistry): AdsClientMetrics {
  const messages = registry.counter('istio_xds_message_total', 'xDS messages received.', ['url']);
  const bytes = registry.counter('istio_xds_message_bytes_total', 'Bytes of xDS messages received.', ['url']);
  const ends = registry.counter('istio_xds_connection_terminations_total', 'xDS streams that ended.', ['reason']);
  const refusals = registry.counter('meltemi_xds_refused_resources_total', 'Resources that were not accepted.', [
    'url',
  ]);
  return {
    message(url, encodedBytes) {
      messages.inc({ url });
      bytes.inc({ url }, encodedBytes);
    },
    refused: (url, resources) => refusals.inc({ url }, resources),
    terminated: (reason) => ends.inc({ reason }),
  };
}
