import type { MetricsRegistry } from '../telemetry/metrics.js';
import type { Certificates } from './certs/certificates.js';
import type { Dataplane } from './dataplane/dataplane.js';
import type { DnsProxy } from './dns/dns-proxy.js';
import type { Enrolment } from './enroll/enrolment.js';
import type { NodeGuard } from './redirect/node-guard.js';
import type { Decider } from './route/decider.js';
import type { Store } from './store/store.js';

export interface Measured {
  readonly version: string;
  readonly dataplane: Dataplane;
  readonly guard: NodeGuard | undefined;
  readonly store: Store;
  readonly decider: Decider;
  readonly enrolment: Enrolment;
  readonly certificates: Certificates;
  readonly accessLog: { readonly dropped: number };
  readonly dns: DnsProxy | undefined;
}

/** What is read when somebody asks; what happens is counted where it happens. */
export function declareAgentMetrics(registry: MetricsRegistry, measured: Measured): void {
  const { version, dataplane, guard } = measured;
  const { store, decider, enrolment, certificates, accessLog, dns } = measured;
  registry.append(() => dataplane.metrics());
  if (dns !== undefined) registry.append(() => dns.metrics());
  registry.gauge('istio_build', 'Version of this agent.', ['component', 'tag']).set(1, {
    component: 'meltemi',
    tag: version,
  });
  const count = (name: string, help: string, read: () => number) => registry.gauge(name, help, [], read);
  count('istio_active_proxy_count', 'Enrolled pods.', () => dataplane.stats().pods);
  count('istio_pending_proxy_count', 'Captured pods that are not enrolled yet.', () => enrolment.pending);
  count('meltemi_uncaptured_pods', 'Running pods that should be captured and are not.', () => enrolment.uncaptured);
  if (guard !== undefined) declareGuardMetrics(registry, guard);
  count('meltemi_workloads', 'Workloads of the mesh known here.', () => store.sizes.workloads);
  count('meltemi_services', 'Services of the mesh known here.', () => store.sizes.services);
  count('meltemi_policies', 'Policies known here.', () => store.sizes.policies);
  count('meltemi_names_waiting', 'Connections that wait for the look-up of a name.', () => decider.held);
  count('meltemi_certificates_missing', 'Identities without a valid certificate.', () => certificates.missing().length);
  count('meltemi_access_log_unwritten', 'Access log lines that could not be written.', () => accessLog.dropped);
}

function declareGuardMetrics(registry: MetricsRegistry, guard: NodeGuard): void {
  const count = (name: string, help: string, read: () => number) => registry.gauge(name, help, [], read);
  count('meltemi_plaintext_held_total', 'Packets of captured pods to the mesh outside tunnels, refused.', () => {
    return guard.counts.held;
  });
  count('meltemi_probe_source_spoofed_total', 'Packets under the address of health probes, dropped.', () => {
    return guard.counts.spoofed;
  });
  count('meltemi_node_rules_drift_total', 'Times the rules of the node were found changed.', () => guard.drifts);
}
