import { availableParallelism } from 'node:os';
import { err, ok, type Result } from '../../lib/result.js';
import type { EngineOptions } from './dataplane.js';

/** What the engine does when the configuration says nothing. Each field is described in dataplane.ts. */
export const DEFAULT_ENGINE_OPTIONS: EngineOptions = {
  // One loop is faster than two on two cores: a tunnel and its sockets stay on one core, and the apps have the other.
  threads: Math.max(1, Math.floor(availableParallelism() / 2)),
  // Halves the round trip of a lightly loaded node; costs CPU only there. 0 where the cgroup limits CPU.
  spinUs: 50,
  congestionControl: '',
  mark: 0x539,
  outboundPort: 15001,
  inboundPlainPort: 15006,
  inboundHbonePort: 15008,
  connectTimeoutMs: 10_000,
  handshakeTimeoutMs: 10_000,
  decisionTimeoutMs: 5_000,
  poolIdleMs: 300_000,
  setAsideMs: 5_000,
  maxStreamsPerTunnel: 100,
  maxFlowsPerPod: 4096,
  maxPendingPerPod: 256,
  maxConnectionsPerPod: 65_536,
  maxHeldBytes: 65_536,
  auditOneIn: 1000,
  maxLogBytes: 8 << 20,
  rekeyAfterRecords: 2 ** 24,
  accessLog: true,
};

/** Fills in the defaults. What is out of bounds is named, all of it at once. */
export function completeEngineOptions(chosen: Partial<EngineOptions>): Result<EngineOptions, string[]> {
  const options = { ...DEFAULT_ENGINE_OPTIONS, ...chosen };
  const problems: string[] = [];
  for (const [name, [min, max]] of Object.entries(BOUNDS)) {
    const value = options[name as Bounded];
    if (Number.isInteger(value) && value >= min && value <= max) continue;
    problems.push(`engine.${name} is ${value}, not a whole number from ${min} to ${max}`);
  }
  const ports = [options.outboundPort, options.inboundPlainPort, options.inboundHbonePort];
  if (new Set(ports).size < ports.length)
    problems.push(`engine ports ${ports.join(', ')} are not three different ones`);
  if (!/^[a-z0-9_-]{0,15}$/.test(options.congestionControl)) {
    problems.push(`engine.congestionControl is '${options.congestionControl}', not a name like cubic or bbr`);
  }
  return problems.length > 0 ? err(problems) : ok(options);
}

type Bounded = { [K in keyof EngineOptions]: EngineOptions[K] extends number ? K : never }[keyof EngineOptions];

const HOUR_MS = 3_600_000;
const MAX_U32 = 2 ** 32 - 1;

/** Least and greatest value of each number. */
const BOUNDS: Readonly<Record<Bounded, readonly [number, number]>> = {
  threads: [1, 128],
  spinUs: [0, 10_000],
  mark: [1, MAX_U32],
  outboundPort: [1, 65_535],
  inboundPlainPort: [1, 65_535],
  inboundHbonePort: [1, 65_535],
  connectTimeoutMs: [1, HOUR_MS],
  handshakeTimeoutMs: [1, HOUR_MS],
  decisionTimeoutMs: [1, HOUR_MS],
  poolIdleMs: [1, 24 * HOUR_MS],
  setAsideMs: [0, HOUR_MS],
  maxStreamsPerTunnel: [1, 100_000],
  maxFlowsPerPod: [1, 1_000_000],
  maxPendingPerPod: [1, 100_000],
  maxConnectionsPerPod: [1, 1_000_000],
  maxHeldBytes: [1024, 16 << 20],
  auditOneIn: [0, MAX_U32],
  maxLogBytes: [4096, 1 << 30],
  // AES-GCM's limit is 2^24.5 full records; below that a key is replaced in time.
  rekeyAfterRecords: [2, 2 ** 24],
};
