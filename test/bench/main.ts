/**
 * Measures speed and size beside peers, in one run: `make bench`. Every round starts each variant in turn, so that the
 * machine's moods fall on all alike; what is printed are medians and ratios of the same run.
 *
 *   --rounds N (3)  --seconds S (2) per measurement  --only a,b  --peer-ztunnel PATH  --json PATH  --no-memory
 */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { cpus, homedir, loadavg, release, tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { setTimeout as wait } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { envoyPair, installEnvoy } from './envoy.js';
import { Load } from './load.js';
import { type Memory, measureMemory, measureSpeed } from './measure.js';
import { meltemi } from './meltemi.js';
import { Background, residentMegabytes } from './process.js';
import { type Results, renderMemory, renderSpeed } from './report.js';
import { buildTopology, inNamespace, must, type Topology } from './topology.js';
import { direct, type Variant } from './variant.js';
import { ztunnelPair } from './ztunnel.js';

const { values: options } = parseArgs({
  options: {
    rounds: { type: 'string', default: '3' },
    seconds: { type: 'string', default: '2' },
    only: { type: 'string' },
    'peer-ztunnel': { type: 'string' },
    json: { type: 'string' },
    'no-memory': { type: 'boolean', default: false },
    congestion: { type: 'string', default: 'cubic' },
    keep: { type: 'boolean', default: false },
  },
});

const root = join(import.meta.dirname, '../../..');
const work = mkdtempSync(join(tmpdir(), 'meltemi-bench-'));
const cache = join(process.env.XDG_CACHE_HOME ?? join(homedir(), '.cache'), 'meltemi');
const PRODUCT = 'meltemi';
const IDLE_TUNNELS = 4000;
const WORKLOADS = [10_000, 100_000];
const SETTLE_MS = 5000;
let server: Background | undefined;

process.exitCode = await bench();

async function bench(): Promise<number> {
  const topology = await buildTopology(options.congestion);
  for (const signal of ['SIGINT', 'SIGTERM'] as const) {
    process.on(signal, async () => {
      Background.killAll();
      await topology.close();
      rmSync(work, { recursive: true, force: true });
      process.exit(130);
    });
  }
  try {
    const load = await startLoad(topology);
    const variants = await chosenVariants();
    const results: Results = {
      machine: `${cpus().length} × ${cpus()[0]?.model.trim() ?? 'unknown CPU'}, Linux ${release()}`,
      congestion: options.congestion,
      rounds: Object.fromEntries(variants.map((variant) => [variant.name, []])),
      memory: {},
      failures: [],
    };
    console.log(`${results.machine}; ${options.congestion}; ${options.rounds} rounds of ${options.seconds} s`);
    for (const variant of variants) console.log(`  ${variant.name}: ${variant.about}`);
    if ((loadavg()[0] ?? 0) > 1)
      console.log(`  BUSY: load ${loadavg()[0]?.toFixed(1)} before the start; ratios will mislead`);
    for (let round = 1; round <= Number(options.rounds); round++) {
      for (const variant of variants) await speedRound(round, variant, topology, load, results);
    }
    if (!options['no-memory']) for (const variant of variants) await memoryOf(variant, topology, load, results);
    console.log(`\n${renderSpeed(results, PRODUCT)}\n\n${renderMemory(results)}`);
    for (const failure of results.failures) console.log(`FAILED ${failure.split('\n')[0]}`);
    const path = options.json ?? join(root, 'dist/bench.json');
    writeFileSync(path, `${JSON.stringify(results, undefined, 2)}\n`);
    console.log(`\nwritten to ${path}`);
    return results.failures.length > 0 ? 1 : 0;
  } finally {
    await server?.stop();
    await topology.close();
    if (!options.keep) rmSync(work, { recursive: true, force: true });
  }
}

async function speedRound(
  round: number,
  variant: Variant,
  topology: Topology,
  load: Load,
  results: Results,
): Promise<void> {
  try {
    const running = await variant.start(topology, { workloads: 0 });
    try {
      if (variant.name !== direct.name) await proveTunnel(load, topology);
      const sample = await measureSpeed(load, running, Number(options.seconds));
      results.rounds[variant.name]?.push(sample);
      const brief = `bulk ${sample.bulk1?.toFixed(1)} / ${sample.bulk4?.toFixed(1)} Gbit/s, ping p50 ${sample.ping1P50} µs, 16: ${sample.ping16Rate?.toFixed(0)}/s, connects ${sample.connect1Rate?.toFixed(0)} / ${sample.connect8Rate?.toFixed(0)}/s`;
      console.log(`round ${round} ${variant.name}: ${brief}`);
    } finally {
      await running.stop();
    }
  } catch (error) {
    results.failures.push(`round ${round} of ${variant.name}: ${String(error)}`);
    console.log(`round ${round} ${variant.name}: FAILED ${String(error)}`);
  }
}

/** A fast variant that sends plaintext past its proxies would win: look at the wire's end. */
async function proveTunnel(load: Load, topology: Topology): Promise<void> {
  const held = await load.hold(1);
  const tunnels = await inNamespace(topology.server.netns, 'ss', ['-Htn', 'state', 'established', 'sport = :15008']);
  await held.release();
  if (held.open !== 1) throw new Error('no connection comes through');
  if (tunnels.trim() === '') throw new Error('the connection goes past the tunnel');
}

async function memoryOf(variant: Variant, topology: Topology, load: Load, results: Results): Promise<void> {
  if (variant.name === direct.name) return;
  try {
    const small = await withVariant(variant, topology, 0, (running) => measureMemory(load, running, IDLE_TUNNELS));
    const byWorkloads: Record<string, number[]> = {};
    results.memory[variant.name] = { ...small, byWorkloads };
    if (variant.knowsWorkloads !== true) return;
    for (const workloads of WORKLOADS) {
      byWorkloads[workloads] = await withVariant(variant, topology, workloads, async (running) => {
        await load.pingpong(1, 0.5);
        // Both give memory back a while after they have read their mesh.
        await wait(SETTLE_MS);
        return residentMegabytes(running.pids);
      });
    }
  } catch (error) {
    results.failures.push(`memory of ${variant.name}: ${String(error)}`);
  }
}

async function withVariant<T extends Memory | number[]>(
  variant: Variant,
  topology: Topology,
  workloads: number,
  measure: (running: Awaited<ReturnType<Variant['start']>>) => Promise<T>,
): Promise<T> {
  const running = await variant.start(topology, { workloads });
  try {
    return await measure(running);
  } finally {
    await running.stop();
  }
}

async function chosenVariants(): Promise<Variant[]> {
  const wanted = options.only?.split(',');
  const all: [string, () => Promise<Variant>][] = [
    ['direct', async () => direct],
    [PRODUCT, async () => meltemi(join(root, 'dist/src/cli/main.js'), join(work, PRODUCT), options.congestion)],
    ['envoy', async () => envoyPair(await installEnvoy(cache), join(work, 'envoy'))],
  ];
  const ztunnel = options['peer-ztunnel'];
  if (ztunnel !== undefined) all.push(['ztunnel', async () => ztunnelPair(resolve(ztunnel), join(work, 'ztunnel'))]);
  const chosen = all.filter(([name]) => wanted === undefined || wanted.includes(name));
  const made = chosen.map(async ([name, make]) => {
    try {
      return [await make()];
    } catch (error) {
      console.log(`without ${name}: ${String(error)}`);
      return [];
    }
  });
  return (await Promise.all(made)).flat();
}

async function startLoad(topology: Topology): Promise<Load> {
  const manifest = ['--manifest-path', join(root, 'native/Cargo.toml'), '-p', 'meltemi-load'];
  await must('cargo', ['build', '--quiet', '--release', ...manifest], { timeoutMs: 600_000 });
  const program = join(process.env.CARGO_TARGET_DIR ?? join(root, 'native/target'), 'release/meltemi-load');
  const address = `${topology.server.ip}:${topology.port}`;
  const command = [program, 'server', '--listen', address, '--threads', '2', '--congestion', options.congestion];
  server = Background.start('load server', topology.server.netns, command, join(work, 'server.log'));
  await server.until(async () => (await inNamespace(topology.server.netns, 'ss', ['-Hltn'])).includes(address), 5000);
  return new Load(program, topology);
}
