import { readdirSync, readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import type * as Prometheus from 'prom-client';

/**
 * Metrics of a process, in the Prometheus text format. The only importer of prom-client, and only of what is used of
 * it: the whole (push gateway, clusters, OpenTelemetry) costs a process 15 MB.
 */

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

/** `processMetrics` adds the usual process_* series. */
export function createRegistry(options: { readonly processMetrics?: boolean } = {}): MetricsRegistry {
  const registry = new prom.Registry();
  const appended: (() => string | Promise<string>)[] = [];
  const registers = [registry];
  const declare = <T>(name: string, make: () => T): T => (registry.getSingleMetric(name) as T | undefined) ?? make();

  const metrics: MetricsRegistry = {
    contentType: registry.contentType,
    counter(name, help, labelNames = []) {
      const metric = declare(name, () => new prom.Counter({ name, help, labelNames: [...labelNames], registers }));
      return { inc: (labels = {}, by = 1) => metric.inc({ ...labels }, by) };
    },
    gauge(name, help, labelNames = [], read) {
      const metric = declare(
        name,
        () =>
          new prom.Gauge({
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
        () => new prom.Histogram({ name, help, labelNames: [...labelNames], buckets: [...buckets], registers }),
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
  if (options.processMetrics === true) addProcessMetrics(metrics);
  return metrics;
}

function addProcessMetrics(metrics: MetricsRegistry): void {
  const gauge = (name: string, help: string, read: () => number) => metrics.gauge(name, help, [], read);
  gauge('process_resident_memory_bytes', 'Resident memory.', () => process.memoryUsage.rss());
  gauge('process_heap_bytes', 'JavaScript heap.', () => process.memoryUsage().heapTotal);
  gauge('process_open_fds', 'Open file descriptors.', () => readdirSync('/proc/self/fd').length);
  gauge('process_max_fds', 'Most file descriptors that may be open.', maxOpenFiles);
  gauge('process_cpu_seconds_total', 'User and system CPU time.', () => {
    const { user, system } = process.cpuUsage();
    return (user + system) / 1e6;
  });
  gauge('process_start_time_seconds', 'Start of the process since the epoch.', () => {
    return Math.round(performance.timeOrigin / 1000);
  });
}

function maxOpenFiles(): number {
  return Number(/^Max open files\s+(\d+)/m.exec(readFileSync('/proc/self/limits', 'utf8'))?.[1] ?? 0);
}

const load = createRequire(import.meta.url);
const prom = {
  Registry: load('prom-client/lib/registry.js') as typeof Prometheus.Registry,
  Counter: load('prom-client/lib/counter.js') as typeof Prometheus.Counter,
  Gauge: load('prom-client/lib/gauge.js') as typeof Prometheus.Gauge,
  Histogram: load('prom-client/lib/histogram.js') as typeof Prometheus.Histogram,
};
