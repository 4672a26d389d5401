import { setTimeout as wait } from 'node:timers/promises';
import type { Load } from './load.js';
import { cpuSeconds, residentMegabytes } from './process.js';
import type { RunningVariant } from './variant.js';

/** What is measured in each round, by name; `betterIsMore` says which way a ratio is good. */
export const METRICS = [
  { name: 'bulk1', title: 'bulk 1 Gbit/s', betterIsMore: true },
  { name: 'bulk4', title: 'bulk 4 Gbit/s', betterIsMore: true },
  { name: 'cpuPerGb', title: 'CPU s/GB', betterIsMore: false },
  { name: 'ping1Rate', title: 'ping 1 /s', betterIsMore: true },
  { name: 'ping1P50', title: 'p50 µs', betterIsMore: false },
  { name: 'ping1P99', title: 'p99 µs', betterIsMore: false },
  { name: 'ping16Rate', title: 'ping 16 /s', betterIsMore: true },
  { name: 'ping16P50', title: 'p50 µs', betterIsMore: false },
  { name: 'ping16P99', title: 'p99 µs', betterIsMore: false },
  { name: 'connect1Rate', title: 'conn 1 /s', betterIsMore: true },
  { name: 'connect1P50', title: 'p50 µs', betterIsMore: false },
  { name: 'connect8Rate', title: 'conn 8 /s', betterIsMore: true },
  { name: 'errors', title: 'errors', betterIsMore: false },
] as const;

export type MetricName = (typeof METRICS)[number]['name'];
export type Sample = Partial<Record<MetricName, number>>;

/** One round of one variant: about seven times `seconds`. */
export async function measureSpeed(load: Load, { pids }: RunningVariant, seconds: number): Promise<Sample> {
  await load.pingpong(1, 0.3);
  const before = cpuSeconds(pids);
  const bulk1 = await load.bulk(1, seconds);
  const bulk4 = await load.bulk(4, seconds);
  const cpu = cpuSeconds(pids) - before;
  const ping1 = await load.pingpong(1, seconds);
  const ping16 = await load.pingpong(16, seconds);
  const connect1 = await load.connects(1, seconds);
  const connect8 = await load.connects(8, seconds);
  return {
    bulk1: bulk1.gbitPerSecond,
    bulk4: bulk4.gbitPerSecond,
    ...(pids.length === 0 ? {} : { cpuPerGb: cpu / ((bulk1.bytes + bulk4.bytes) / 1e9) }),
    ping1Rate: ping1.perSecond,
    ping1P50: ping1.p50Us,
    ping1P99: ping1.p99Us,
    ping16Rate: ping16.perSecond,
    ping16P50: ping16.p50Us,
    ping16P99: ping16.p99Us,
    connect1Rate: connect1.perSecond,
    connect1P50: connect1.p50Us,
    connect8Rate: connect8.perSecond,
    errors: ping1.errors + ping16.errors + connect1.errors + connect8.errors,
  };
}

/** Memory of each process (client's side, server's side), megabytes; kilobytes per idle tunnel. */
export interface Memory {
  start: number[];
  perIdleTunnelKb?: number[];
}

/** A few seconds after the start, and what each of `tunnels` idle connections adds, after one that warms up. */
export async function measureMemory(load: Load, { pids }: RunningVariant, tunnels: number): Promise<Memory> {
  await wait(SETTLE_MS);
  const start = residentMegabytes(pids);
  const warm = await load.hold(100);
  await warm.release();
  const before = residentMegabytes(pids);
  const held = await load.hold(tunnels);
  const after = residentMegabytes(pids);
  await held.release();
  return { start, perIdleTunnelKb: after.map((megabytes, i) => ((megabytes - (before[i] ?? 0)) * 1000) / held.open) };
}

const SETTLE_MS = 5000;
