import type { MetricsRegistry } from '../../telemetry/metrics.js';

/** What the CA counts, under the names that dashboards know. */
export interface CaMetrics {
  requested(): void;
  issued(): void;
  refused(reason: RefusalKind): void;
}

/** At which step a request failed. */
export type RefusalKind = 'authentication' | 'csr' | 'identity' | 'signing';

/** `expiry` is asked at each scrape; seconds since the epoch. */
export function caMetrics(
  registry: MetricsRegistry,
  expiry: { readonly root: () => number; readonly chain: () => number; readonly now: () => number },
): CaMetrics {
  const requested = registry.counter('citadel_server_csr_count', 'Certificate requests received.');
  const issued = registry.counter('citadel_server_success_cert_issuance_count', 'Certificates issued.');
  const refused: Readonly<Record<RefusalKind, { inc(): void }>> = {
    authentication: registry.counter(
      'citadel_server_authentication_failure_count',
      'Requests whose sender is unknown or may not have the identity.',
    ),
    csr: registry.counter('citadel_server_csr_parsing_err_count', 'Requests whose CSR is no good.'),
    identity: registry.counter('citadel_server_id_extraction_err_count', 'Requests whose CSR names another identity.'),
    signing: registry.counter('citadel_server_csr_sign_err_count', 'Requests that could not be signed.'),
  };
  const gauge = (name: string, help: string, read: () => number): void => void registry.gauge(name, help, [], read);
  gauge('citadel_server_root_cert_expiry_timestamp', 'When the signing root ends, Unix time.', expiry.root);
  gauge(
    'citadel_server_root_cert_expiry_seconds',
    'Seconds until the signing root ends.',
    () => expiry.root() - expiry.now(),
  );
  gauge('citadel_server_cert_chain_expiry_timestamp', 'When the issuing CA ends, Unix time.', expiry.chain);
  gauge(
    'citadel_server_cert_chain_expiry_seconds',
    'Seconds until the issuing CA ends.',
    () => expiry.chain() - expiry.now(),
  );
  return {
    requested: () => requested.inc(),
    issued: () => issued.inc(),
    refused: (kind) => refused[kind].inc(),
  };
}
