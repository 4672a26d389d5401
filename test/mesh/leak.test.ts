/** What is used is given back: descriptors, memory, namespaces, processes, files. */
import { existsSync, readdirSync, readFileSync, readlinkSync } from 'node:fs';
import root, { test } from 'tap';
import { idlePod, serverPod } from '../support/manifests.js';
import { until } from '../support/mesh.js';
import { CAPTURED_PODS, PORT, startTown, type Town, theServers } from './town.js';

// Each test has a limit of its own, and the runner has one for the file.
root.setTimeout(0);

let town: Town;
let before: Machine;
const CONNECTIONS = 10_000;

test('a town comes up', async () => {
  before = machine();
  town = await startTown('leak');
});

test('10,000 connections leave no descriptor and no memory behind', { timeout: 240_000 }, async (t) => {
  const round = async (count: number): Promise<Usage[]> => {
    const { ok } = await town.caller.churn({ ...theServers, count, workers: 16 });
    t.equal(ok, count);
    await town.stranger.churn({ ...town.at('server.app'), count: count / 10, workers: 8 });
    await until('no connection is open', async () => (await openConnections()) === 0, 30_000);
    return usage();
  };
  const warm = await round(2000);
  const after = await round(CONNECTIONS);
  await noMoreDescriptorsThan(warm);
  for (const [index, { pid, rssBytes }] of after.entries()) {
    const start = warm[index];
    if (start === undefined || start.pid !== pid) throw new Error('an agent was restarted');
    const grown = Math.round((rssBytes - start.rssBytes) / 1e6);
    t.ok(
      grown < 25,
      `agent ${index + 1}: ${Math.round(start.rssBytes / 1e6)} MB, ${grown} MB more after ${CONNECTIONS}`,
    );
  }
});

test('idle connections give back what they held when they go', { timeout: 60_000 }, async (t) => {
  const start = usage();
  const talks = await Promise.all(Array.from({ length: 200 }, () => town.caller.open(town.at('server.app'))));
  t.ok(talks.every(({ greeting }) => greeting.outcome === 'connected'));
  t.ok((await openConnections()) >= 400, 'each is seen by both agents');
  for (const [index, talk] of talks.entries()) await talk.close({ reset: index % 2 === 0 });
  await until('no connection is open', async () => (await openConnections()) === 0);
  await noMoreDescriptorsThan(start);
});

test('pods that come and go leave nothing in the agents', { timeout: 120_000 }, async (t) => {
  const guests = [1, 2].flatMap((node) => [
    serverPod({ name: `guest-${node}`, namespace: 'app', node, serviceAccount: 'guest' }, [PORT]),
    idlePod({ name: `idle-${node}`, namespace: 'app', node, serviceAccount: 'idle' }),
  ]);
  const keys = guests.map(({ metadata }) => `${metadata.name}.app`);
  const visit = async (): Promise<void> => {
    await town.mesh.apply(guests);
    await town.mesh.ready([...CAPTURED_PODS, ...keys]);
    const { addresses } = await town.mesh.pod('guest-2.app');
    const probed = await town.caller.probe({ host: addresses[0] ?? '', port: PORT });
    t.equal(probed.outcome, 'connected');
    await town.mesh.remove(guests);
    await town.mesh.ready(CAPTURED_PODS);
  };
  await visit();
  const settled = (): Promise<void> => until('no connection is open', async () => (await openConnections()) === 0);
  await settled();
  const [start, namespaces] = [usage(), heldNamespaces()];
  for (let round = 0; round < 5; round++) await visit();
  await settled();
  await until(
    'agents hold as many namespaces as before',
    () => Promise.resolve(heldNamespaces() <= namespaces),
    10_000,
    () => `${namespaces}, then ${heldNamespaces()}`,
  );
  await noMoreDescriptorsThan(start);
  t.pass();
});

test('lab down leaves nothing on the machine', { timeout: 60_000 }, async (t) => {
  const { directory, name } = town.mesh;
  const own = machine().namespacesOf(name);
  t.ok(own.length > 8, `${own.length} network namespaces of the lab`);
  await town[Symbol.asyncDispose]();
  t.notOk(existsSync(directory), 'no directory');
  const now = machine();
  t.same(now.marked(name), [], 'no process of the lab');
  t.same(
    now.mounts.filter((mount) => mount.includes(`/labs/${name}`)),
    [],
    'no mount',
  );
  t.same(now.links, before.links, 'no link in the network of the machine');
  t.same(
    now.namespaces.filter((namespace) => own.includes(namespace)),
    [],
    'no network namespace',
  );
});

interface Usage {
  readonly pid: number;
  readonly descriptors: number;
  readonly rssBytes: number;
}

function usage(): Usage[] {
  const pids = town.status.nodes.map(({ agentPid }) => agentPid);
  return pids.map((pid) => ({
    pid,
    descriptors: readdirSync(`/proc/${pid}/fd`).length,
    rssBytes: Number(/VmRSS:\s+(\d+) kB/.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1]) * 1000,
  }));
}

/** But for two; a program that an audit has just started has some for a moment. */
function noMoreDescriptorsThan(before: readonly Usage[]): Promise<void> {
  return until(
    'agents have no more descriptors than before',
    () => Promise.resolve(usage().every(({ descriptors }, i) => descriptors <= (before[i]?.descriptors ?? 0) + 2)),
    10_000,
    () => JSON.stringify([before, usage()]),
  );
}

/** Descriptors of the agents that keep a network namespace alive. */
function heldNamespaces(): number {
  return town.status.nodes
    .flatMap(({ agentPid }) => readdirSync(`/proc/${agentPid}/fd`).map((fd) => linkOf(`/proc/${agentPid}/fd/${fd}`)))
    .filter((target) => target.startsWith('net:') || target.includes('/ns/net')).length;
}

async function openConnections(): Promise<number> {
  const lists = await Promise.all(town.status.nodes.map(({ name }) => town.mesh.agent(name, '/connections')));
  return lists.reduce((sum, list) => {
    const parsed = JSON.parse(list) as { connections?: unknown[] } | unknown[];
    return sum + (Array.isArray(parsed) ? parsed : (parsed.connections ?? [])).length;
  }, 0);
}

interface Machine {
  /** Every network namespace that some process is in or holds open. */
  readonly namespaces: readonly string[];
  readonly mounts: readonly string[];
  readonly links: readonly string[];
  /** Command lines of processes that carry the marker of a lab. */
  marked(lab: string): string[];
  /** Network namespaces of those. */
  namespacesOf(lab: string): string[];
}

/** What of this machine a lab might leave behind. Other labs may be up at the same time. */
function machine(): Machine {
  const processes = readdirSync('/proc').filter((name) => /^\d+$/.test(name));
  const ofLab = (lab: string): string[] =>
    processes.filter((pid) => read(`/proc/${pid}/environ`).includes(`MELTEMI_LAB=${lab}-`));
  const held = (pid: string): string[] => [
    linkOf(`/proc/${pid}/ns/net`),
    ...list(`/proc/${pid}/fd`).map((fd) => linkOf(`/proc/${pid}/fd/${fd}`)),
  ];
  return {
    namespaces: [...new Set(processes.flatMap(held).filter((target) => target.startsWith('net:')))],
    mounts: readFileSync('/proc/mounts', 'utf8').split('\n'),
    links: readdirSync('/sys/class/net').sort(),
    marked: (lab) => ofLab(lab).map((pid) => read(`/proc/${pid}/cmdline`).replaceAll('\0', ' ')),
    namespacesOf: (lab) => [
      ...new Set(
        ofLab(lab)
          .map((pid) => linkOf(`/proc/${pid}/ns/net`))
          .filter((own) => own !== linkOf('/proc/self/ns/net')),
      ),
    ],
  };
}

function list(path: string): string[] {
  try {
    return readdirSync(path);
  } catch {
    return [];
  }
}

function linkOf(path: string): string {
  try {
    return readlinkSync(path);
  } catch {
    return '';
  }
}

function read(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return '';
  }
}
