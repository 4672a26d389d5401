/** How fast a change of the API server reaches the agents, and what that costs: `make bench-control-plane`. */

import { once } from 'node:events';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { cpus, loadavg, tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { inClusterApi } from '../../../src/kube/in-cluster.js';
import { startApiServer } from '../../support/api-server.js';
import { Churn, type ChurnPlan } from './churn.js';
import { Agents } from './orders.js';
import { FULL, nowMs, SMALL, seed } from './seed.js';
import { ControlPlane, type Server } from './subject.js';

const { values } = parseArgs({
  options: {
    quick: { type: 'boolean', default: false },
    only: { type: 'string', default: 'start,churn,many,stopped' },
    pods: { type: 'string' },
    seconds: { type: 'string' },
    rates: { type: 'string' },
    agents: { type: 'string' },
    /** JSON of a seeded API server that runs and is left running: `{url, ca, token}`. */
    server: { type: 'string' },
    json: { type: 'string', default: 'dist/bench-control-plane.json' },
  },
});
/** What takes longer than this to arrive is lost. Up here: a module runs from top to bottom. */
const SETTLE_MS = 20_000;
const parts = new Set(values.only.split(','));
const base = values.quick ? SMALL : FULL;
const shape = values.pods === undefined ? base : { ...base, pods: Number(values.pods) };
const results: Record<string, unknown>[] = [];

await using cleanUp = new AsyncDisposableStack();
const directory = mkdtempSync(join(tmpdir(), 'meltemi-bench-'));
cleanUp.defer(() => rmSync(directory, { recursive: true, force: true }));
for (const signal of ['SIGINT', 'SIGTERM'] as const) {
  process.once(signal, () => void cleanUp.disposeAsync().then(() => process.exit(1)));
}
say(`${cpus().length} processors, load ${loadavg()[0]?.toFixed(1)}; ${shape.services} services, ${shape.pods} pods`);
const server = values.server === undefined ? await ownServer() : (JSON.parse(values.server) as Server);
const api = inClusterApi({ server: server.url, token: server.token, ca: server.ca });
cleanUp.defer(() => api.close());
if (values.server === undefined) {
  const seedMs = nowMs();
  await seed(api, shape);
  say(`made through the API in ${((nowMs() - seedMs) / 1000).toFixed(0)} s`);
}
const port = await freePort();
const agents = new Agents();
cleanUp.defer(() => agents[Symbol.dispose]());

let subject: ControlPlane | undefined;
cleanUp.defer(() => subject?.stop());
const starts = !parts.has('start') ? [1] : values.quick ? [20, 1] : [1, 20, 20, 20, 1];
for (const [i, count] of starts.entries()) {
  await agents.order({ what: 'disconnect' });
  await subject?.stop();
  subject = await ControlPlane.start(server, directory, port);
  const { atMs = 0, bytes } = await agents.order({ what: 'connect', count, port, remember: false });
  await sleep(i === starts.length - 1 ? 15_000 / (values.quick ? 5 : 1) : 200);
  report(`cold start, ${count} agents`, {
    ms: atMs - subject.startedMs,
    cpuS: subject.cpuSeconds(),
    bytes: bytes ?? 0,
    rssMiB: subject.residentMiB(),
    peakMiB: subject.peakMiB(),
  });
}
if (subject === undefined) throw new Error('nothing was started');
const running = subject;
await agents.order({ what: 'disconnect' });

if (parts.has('start')) {
  for (let i = 0; i < (values.quick ? 2 : 3); i++) {
    const cpu = running.cpuSeconds();
    const { tookMs = [] } = await agents.order({ what: 'connect', count: 20, port, remember: false });
    const sorted = [...tookMs].sort((a, b) => a - b);
    report('20 snapshots', {
      p50Ms: sorted[10] ?? 0,
      lastMs: sorted.at(-1) ?? 0,
      cpuS: running.cpuSeconds() - cpu,
      rssMiB: running.residentMiB(),
      peakMiB: running.peakMiB(),
    });
    await agents.order({ what: 'disconnect' });
    await sleep(300);
  }
}

const churn = new Churn(api, shape);
const rates = (values.rates ?? (values.quick ? '20,100' : '1,20,100')).split(',').map(Number);
const counts = (values.agents ?? (values.quick ? '20' : '1,20')).split(',').map(Number);
if (parts.has('churn')) {
  for (const count of counts) {
    await agents.order({ what: 'connect', count, port, remember: true });
    for (const perSecond of rates) {
      for (const spacing of ['even', 'poisson'] as const) {
        await measure(`${count} agents`, { perSecond, spacing, seconds: secondsFor(perSecond) });
      }
    }
    await compare();
    await agents.order({ what: 'disconnect' });
  }
}
if (parts.has('many')) await slow(180, 20, 20);
if (parts.has('stopped')) await slow(5, 5, 100);
await churn.undo();
report('at the end', { rssMiB: running.residentMiB(), peakMiB: running.peakMiB() });
writeFileSync(values.json, JSON.stringify(results, undefined, 2));
say(`all of it in ${values.json}`);

/** Some agents take part, and some others' process is stopped for a while: it must cost nothing, and they catch up. */
async function slow(taking: number, stopped: number, perSecond: number): Promise<void> {
  const stalled = new Agents();
  cleanUp.defer(() => stalled[Symbol.dispose]());
  await stalled.order({ what: 'connect', count: stopped, port, remember: true });
  await agents.order({ what: 'connect', count: 1, port, remember: true });
  const { tookMs = [] } = await agents.order({ what: 'connect', count: taking - 1, port, remember: false });
  report(`${taking - 1} more snapshots`, {
    lastMs: Math.max(...tookMs),
    rssMiB: running.residentMiB(),
    peakMiB: running.peakMiB(),
  });
  await measure(`${taking + stopped} agents`, { perSecond, spacing: 'poisson', seconds: secondsFor(20) });
  process.kill(stalled.pid, 'SIGSTOP');
  const before = running.residentMiB();
  await measure(`${taking} and ${stopped} stopped`, { perSecond, spacing: 'poisson', seconds: secondsFor(20) });
  const grownMiB = running.residentMiB() - before;
  process.kill(stalled.pid, 'SIGCONT');
  const resumedMs = nowMs();
  const [mine = []] = (await agents.order({ what: 'names' })).names ?? [];
  const countBehind = async () =>
    ((await stalled.order({ what: 'names' })).names ?? []).filter((each) => each.join() !== mine.join()).length;
  let behind = await countBehind();
  while (behind > 0 && nowMs() - resumedMs < SETTLE_MS) {
    await sleep(100);
    behind = await countBehind();
  }
  report('resumed', { behind, afterMs: nowMs() - resumedMs, grownMiB, peakMiB: running.peakMiB() });
  stalled[Symbol.dispose]();
  await agents.order({ what: 'disconnect' });
}

async function measure(name: string, plan: ChurnPlan): Promise<void> {
  await agents.order({ what: 'forget' });
  const cpu = running.cpuSeconds();
  const changes = await churn.run(plan);
  await sleep(500);
  // What has not arrived by then is late, which its latency says; lost is what never comes.
  const startMs = nowMs();
  let found = await agents.order({ what: 'match', changes });
  while (found.lost !== 0 && nowMs() - startMs < SETTLE_MS) {
    await sleep(500);
    found = await agents.order({ what: 'match', changes });
  }
  const used = running.cpuSeconds() - cpu;
  const { latenciesMs = new Float64Array(), lost, messages = [], bytes, resources } = found;
  const at = (share: number): number =>
    latenciesMs[Math.min(latenciesMs.length - 1, Math.floor(latenciesMs.length * share))] ?? Number.NaN;
  report(`${name}, ${plan.perSecond}/s ${plan.spacing}`, {
    changes: changes.length,
    lost: lost ?? Number.NaN,
    p50Ms: at(0.5),
    p99Ms: at(0.99),
    maxMs: at(1),
    cpuSPer1000: (used / changes.length) * 1000,
    messages: Math.max(...messages),
    resources: resources ?? 0,
    bytesPerChange: (bytes ?? 0) / changes.length,
    rssMiB: running.residentMiB(),
  });
}

/** Every agent holds the same in the end. */
async function compare(): Promise<void> {
  const { names = [] } = await agents.order({ what: 'names' });
  const expected = names[0]?.join();
  report('compared', {
    agents: names.length,
    resources: names[0]?.length ?? 0,
    different: names.filter((each) => each.join() !== expected).length,
  });
}

function secondsFor(perSecond: number): number {
  if (values.seconds !== undefined) return Number(values.seconds);
  return values.quick ? 6 : perSecond === 1 ? 20 : 15;
}

function report(name: string, numbers: Readonly<Record<string, number>>): void {
  results.push({ name, ...numbers });
  const shown = Object.entries(numbers).map(([key, value]) => `${key} ${Math.round(value * 100) / 100}`);
  say(`${name.padEnd(32)} ${shown.join('  ')}`);
}

function say(line: string): void {
  process.stdout.write(`${line}\n`);
}

async function ownServer(): Promise<Server> {
  const started = await startApiServer();
  cleanUp.defer(() => started.close());
  return started;
}

async function freePort(): Promise<number> {
  const probe = createServer().listen(0, '127.0.0.1');
  await once(probe, 'listening');
  const { port } = probe.address() as { port: number };
  await new Promise((resolve) => probe.close(resolve));
  return port;
}
