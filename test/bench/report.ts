import { METRICS, type Memory, type MetricName, type Sample } from './measure.js';

/** Everything a run found out; written as JSON and printed as tables. */
export interface Results {
  readonly machine: string;
  readonly congestion: string;
  readonly rounds: Record<string, Sample[]>;
  readonly memory: Record<string, Memory & { byWorkloads: Record<string, number[]> }>;
  readonly failures: string[];
}

/** The middle of the values; of an even number the mean of the two in the middle. NaN of none. */
export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length / 2;
  if (sorted.length % 2 === 1) return sorted[Math.floor(middle)] ?? Number.NaN;
  return ((sorted[middle - 1] ?? Number.NaN) + (sorted[middle] ?? Number.NaN)) / 2;
}

/** The medians of a variant's rounds. */
export function medians(samples: readonly Sample[]): Sample {
  const out: Sample = {};
  for (const { name } of METRICS) {
    const values = samples.flatMap((sample) => sample[name] ?? []);
    if (values.length > 0) out[name] = median(values);
  }
  return out;
}

/** Each cell: the median, and `product`'s ratio to the row's variant in brackets (for its own row, nothing). */
export function renderSpeed(results: Results, product: string): string {
  const rows = Object.entries(results.rounds).map(([name, samples]) => ({ name, values: medians(samples) }));
  const ours = rows.find((row) => row.name === product)?.values ?? {};
  const header = ['', ...METRICS.map((metric) => metric.title)];
  const body = rows.flatMap(({ name, values }) => {
    const medianCells = METRICS.map((metric) => show(values[metric.name]));
    if (name === product) return [[name, ...medianCells]];
    const ratios = METRICS.map((metric) => ratio(ours, values, metric.name));
    return [
      [name, ...medianCells],
      [`  ${product} / ${name}`, ...ratios],
    ];
  });
  return table([header, ...body]);
}

export function renderMemory(results: Results): string {
  const counts = [...new Set(Object.values(results.memory).flatMap((memory) => Object.keys(memory.byWorkloads)))];
  const header = ['memory', 'start MB', 'KB per idle tunnel', ...counts.map((count) => `MB, ${count} workloads`)];
  const body = Object.entries(results.memory).map(([name, memory]) => [
    name,
    sides(memory.start),
    sides(memory.perIdleTunnelKb),
    ...counts.map((count) => sides(memory.byWorkloads[count])),
  ]);
  return table([header, ...body]);
}

function ratio(ours: Sample, theirs: Sample, name: MetricName): string {
  const [a, b] = [ours[name], theirs[name]];
  return a === undefined || b === undefined || b === 0 ? '' : `×${(a / b).toFixed(2)}`;
}

function sides(values: readonly number[] | undefined): string {
  return values === undefined || values.length === 0 ? '-' : values.map((value) => show(value)).join(' / ');
}

function show(value: number | undefined): string {
  if (value === undefined || Number.isNaN(value)) return '-';
  if (value >= 1000) return String(Math.round(value));
  return value >= 100 ? value.toFixed(0) : value.toFixed(2);
}

function table(rows: readonly (readonly string[])[]): string {
  const widths = (rows[0] ?? []).map((_, i) => Math.max(...rows.map((row) => (row[i] ?? '').length)));
  const line = (row: readonly string[]) =>
    row.map((cell, i) => (i === 0 ? cell.padEnd(widths[i] ?? 0) : cell.padStart(widths[i] ?? 0))).join('  ');
  return rows.map(line).join('\n');
}
