/**
 * Counts of the DNS proxy, kept in the worker that does the counting and rendered there at a scrape. Series belong to
 * the asking workload's canonical service and end when its last pod has gone from the node.
 */
export class DnsMetrics {
  readonly #sources = new Map<string, Source>();
  #overLimit = 0;
  #malformed = 0;

  /** The counters of one pod's canonical service. Give them back with `release`. */
  retain(canonicalName: string, canonicalRevision: string): DnsCounters {
    const labels = `source_canonical_service="${escapeLabel(canonicalName)}",source_canonical_revision="${escapeLabel(canonicalRevision)}"`;
    const source = this.#sources.get(labels) ?? { pods: 0, series: new Map<string, Series>() };
    source.pods += 1;
    this.#sources.set(labels, source);
    const series = (ask: AskLabels) => seriesOf(source, ask);
    return {
      request: (ask) => {
        series(ask).requests += 1;
      },
      upstream: (ask) => {
        series(ask).upstream += 1;
      },
      upstreamDone: (ask, seconds, failed) => observe(series(ask), seconds, failed),
      overLimit: () => {
        this.#overLimit += 1;
      },
      malformed: () => {
        this.#malformed += 1;
      },
      release: () => {
        source.pods -= 1;
        if (source.pods === 0) this.#sources.delete(labels);
      },
    };
  }

  /** Prometheus text. */
  render(): string {
    const all = [...this.#sources].flatMap(([source, { series }]) =>
      [...series].map(([ask, values]) => ({ labels: `${ask},${source}`, values })),
    );
    const counter = (name: string, help: string, value: (series: Series) => number) => [
      `# HELP ${name} ${help}`,
      `# TYPE ${name} counter`,
      ...all.map(({ labels, values }) => `${name}{${labels}} ${value(values)}`),
    ];
    return [
      ...counter('istio_dns_requests_total', 'DNS requests of captured pods.', (s) => s.requests),
      ...counter(
        'istio_dns_upstream_requests_total',
        'DNS requests passed on to the nameservers of the pod.',
        (s) => s.upstream,
      ),
      ...counter('istio_dns_upstream_failures_total', 'DNS requests that no nameserver answered.', (s) => s.failures),
      `# HELP ${DURATION} Time until a nameserver answered.`,
      `# TYPE ${DURATION} histogram`,
      ...all.filter(({ values }) => values.count > 0).flatMap(({ labels, values }) => histogram(labels, values)),
      '# HELP meltemi_dns_dropped_total DNS messages answered with an error or not at all.',
      '# TYPE meltemi_dns_dropped_total counter',
      `meltemi_dns_dropped_total{reason="in-flight-limit"} ${this.#overLimit}`,
      `meltemi_dns_dropped_total{reason="malformed"} ${this.#malformed}`,
      '',
    ].join('\n');
  }
}

export interface DnsCounters {
  request(ask: AskLabels): void;
  upstream(ask: AskLabels): void;
  upstreamDone(ask: AskLabels, seconds: number, failed: boolean): void;
  overLimit(): void;
  malformed(): void;
  release(): void;
}

export interface AskLabels {
  /** `A`, `AAAA` …; types that have no name here share one series. */
  readonly type: string;
  readonly protocol: 'udp' | 'tcp';
}

interface Source {
  pods: number;
  readonly series: Map<string, Series>;
}

interface Series {
  requests: number;
  upstream: number;
  failures: number;
  readonly buckets: number[];
  sumSeconds: number;
  count: number;
}

function seriesOf(source: Source, { type, protocol }: AskLabels): Series {
  const name = type.startsWith('UNKNOWN_') ? 'unknown' : type.toLowerCase();
  const labels = `request_query_type="${name}",request_protocol="${protocol}"`;
  let series = source.series.get(labels);
  if (series === undefined) {
    series = { requests: 0, upstream: 0, failures: 0, buckets: BUCKETS_SECONDS.map(() => 0), sumSeconds: 0, count: 0 };
    source.series.set(labels, series);
  }
  return series;
}

function observe(series: Series, seconds: number, failed: boolean): void {
  if (failed) series.failures += 1;
  series.count += 1;
  series.sumSeconds += seconds;
  BUCKETS_SECONDS.forEach((limit, i) => {
    if (seconds <= limit) series.buckets[i] = (series.buckets[i] ?? 0) + 1;
  });
}

function histogram(labels: string, series: Series): string[] {
  return [
    ...BUCKETS_SECONDS.map((limit, i) => `${DURATION}_bucket{${labels},le="${limit}"} ${series.buckets[i]}`),
    `${DURATION}_bucket{${labels},le="+Inf"} ${series.count}`,
    `${DURATION}_sum{${labels}} ${series.sumSeconds}`,
    `${DURATION}_count{${labels}} ${series.count}`,
  ];
}

function escapeLabel(value: string): string {
  return value.replace(/[\\"\n]/g, (c) => (c === '\n' ? '\\n' : `\\${c}`));
}

const DURATION = 'istio_dns_upstream_request_duration_seconds';
const BUCKETS_SECONDS = [0.0005, 0.001, 0.01, 0.1, 1, 5];
