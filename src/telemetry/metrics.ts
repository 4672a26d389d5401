import * as prometheus from 'prom-client';

/** Metrics of a process, in the Prometheus text format. The only importer of prom-client. */

/** Label values by name; a label that is left out is the empty string in no series: give all of them. */
export type Labels = Readonly<Record<string, string | number>>;

export interface Counter {
  inc(labels?: Labels, by?: number): void;
}

export interface Gauge {
  set(value: number, labels?: Labels): void;
  inc(labels?: Labels, by?: number): void;
  /** Ends a series. */
  remove(labels: Labels): void;
}

export interface Histogram {
  observe(value: number, labels?: Labels): void;
}

/** One process has one registry; each room is handed it and declares what it counts. */
export interface MetricsRegistry {
  /** Declaring a name twice returns the first. */
  counter(name: string, help: string, labelNames?: readonly string[]): Counter;
  /** With `read`, the value is asked for at each scrape instead of being set. */
  gauge(name: string, help: string, labelNames?: readonly string[], read?: () => number): Gauge;
  histogram(name: string, help: string, buckets: readonly number[], labelNames?: readonly string[]): Histogram;
  /** More text appended to every scrape: for series kept elsewhere (the engine's counters). */
  append(text: () => string | Promise<string>): void;
  /** The exposition, and the content type to send with it. */
  render(): Promise<string>;
  readonly contentType: string;
}

/** `processMetrics` adds process_* and nodejs_* series. */
export function createRegistry(options: { readonly processMetrics?: boolean } = {}): MetricsRegistry {
  const registry = new prometheus.Registry();
  const appended: (() => string | Promise<string>)[] = [];
  if (options.processMetrics === true) prometheus.collectDefaultMetrics({ register: registry });
  const registers = [registry];
  const declare = <T>(name: string, make: () => T): T => (registry.getSingleMetric(name) as T | undefined) ?? make();

  return {
    contentType: registry.contentType,
    counter(name, help, labelNames = []) {
      const metric = declare(
        name,
        () => new prometheus.Counter({ name, help, labelNames: [...labelNames], registers }),
      );
      return { inc: (labels = {}, by = 1) => metric.inc({ ...labels }, by) };
    },
    gauge(name, help, labelNames = [], read) {
      const metric = declare(
        name,
        () =>
          new prometheus.Gauge({
            name,
            help,
            labelNames: [...labelNames],
            registers,
            ...(read === undefined
              ? {}
              : {
                  collect() {
                    this.set(read());
                  },
                }),
          }),
      );
      return {
        set: (value, labels = {}) => metric.set({ ...labels }, value),
        inc: (labels = {}, by = 1) => metric.inc({ ...labels }, by),
        remove: (labels) => metric.remove({ ...labels }),
      };
    },
    histogram(name, help, buckets, labelNames = []) {
      const metric = declare(
        name,
        () => new prometheus.Histogram({ name, help, labelNames: [...labelNames], buckets: [...buckets], registers }),
      );
      return { observe: (value, labels = {}) => metric.observe({ ...labels }, value) };
    },
    append(text) {
      appended.push(text);
    },
    async render() {
      const parts = await Promise.all([registry.metrics(), ...appended.map((text) => text())]);
      return parts.map((part) => (part === '' || part.endsWith('\n') ? part : `${part}\n`)).join('');
    },
  };
}
