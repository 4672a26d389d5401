import { existsSync, readdirSync, rmdirSync, rmSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { type Run, run } from '../lib/command.js';
import type { Result } from '../lib/result.js';
import { type Cleanup, removeBinary, removeEntries } from './cni/uninstall.js';
import { type AgentConfig, parseAgentConfig } from './config.js';
import { openNetnsTools } from './dataplane/native.js';
import { netnsIdOf } from './enroll/netns-search.js';
import { NftRedirector } from './redirect/nft.js';
import { removeNodeGuard } from './redirect/node-guard.js';
import type { RedirectedPod } from './redirect/redirector.js';
import { TABLE } from './redirect/ruleset.js';

/** What touches the machine. */
export interface CleanupParts {
  /** Removes the redirection of a pod. */
  readonly remove: (pod: RedirectedPod) => Promise<Result<void>>;
  readonly run: Run;
  /** Where processes are listed. */
  readonly proc: string;
}

/**
 * `meltemi node-cleanup`: takes back what agents did on this node, in the order in which nothing is missed: the entry in
 * the CNI chain, the rules in pods and on the node, the state, and the plugin. `configText` is the content of
 * `configPath`, the agent's. Idempotent. Rejects when the configuration cannot be read.
 */
export async function cleanNode(configPath: string, configText: string): Promise<Cleanup> {
  const parsed = parseAgentConfig(configText, process.env.NODE_NAME ?? 'this');
  if (!parsed.ok) throw new Error(`${configPath}:\n  ${parsed.error.join('\n  ')}`);
  const redirector = new NftRedirector({ tools: openNetnsTools() });
  return await cleanUp(parsed.value, { remove: (pod) => redirector.remove(pod), run, proc: '/proc' });
}

/** As `cleanNode`, with the machine as a parameter. What cannot be done does not hold up the rest. */
export async function cleanUp(config: AgentConfig, parts: CleanupParts): Promise<Cleanup> {
  const { cni, hostNetns, stateDir, admin } = config;
  const none: Cleanup = { done: [], problems: [] };
  const entries = cni === undefined ? none : removeEntries(cni.confDir);
  const rules = [await cleanPods(parts), hostNetns === '' ? none : await cleanHost(hostNetns, parts)];
  const state = cleanState(stateDir, [admin.socket, cni?.socket ?? '']);
  const binary = cni === undefined || entries.problems.length > 0 ? none : removeBinary(cni.binDir);
  const kept =
    entries.problems.length > 0 ? [`the plugin stays in ${cni?.binDir}, as a configuration may name it still`] : [];
  const all = [entries, ...rules, state, binary];
  return { done: all.flatMap(({ done }) => done), problems: [...all.flatMap(({ problems }) => problems), ...kept] };
}

/** Every network namespace in which a process runs and our table is. */
async function cleanPods({ remove, run, proc }: CleanupParts): Promise<Cleanup> {
  const done: string[] = [];
  const problems: string[] = [];
  for (const [netns, pid] of namespacesIn(proc)) {
    const tables = await run('nsenter', [`--net=${netns}`, 'nft', 'list', 'tables', 'inet']);
    // The process may have ended since; else the namespace is unusual, and cannot have come from an agent.
    if (!tables.ok || !tables.value.split('\n').includes(`table inet ${TABLE}`)) continue;
    const removed = await remove({ name: `process ${pid}`, netns, ipv6: true, nameservers: [] });
    if (removed.ok) done.push(`removed the redirection of the pod with process ${pid}`);
    else problems.push(removed.error);
  }
  return { done, problems };
}

/** One path, and a process, for each namespace but the node's own. */
function namespacesIn(proc: string): Map<string, number> {
  const seen = new Set([netnsIdOf(join(proc, '1/ns/net')), netnsIdOf(join(proc, 'self/ns/net')), '']);
  const found = new Map<string, number>();
  for (const name of readdirSync(proc).filter((each) => /^\d+$/.test(each))) {
    const path = join(proc, name, 'ns/net');
    const id = netnsIdOf(path);
    if (seen.has(id)) continue;
    seen.add(id);
    found.set(path, Number(name));
  }
  return found;
}

async function cleanHost(netns: string, { run }: CleanupParts): Promise<Cleanup> {
  const removed = await removeNodeGuard(netns, run);
  return removed.ok
    ? { done: ['removed the rules of the node'], problems: [] }
    : { done: [], problems: [removed.error] };
}

/** What is in the state directory, and sockets beside it. The directory itself may be a mount of a container. */
function cleanState(stateDir: string, sockets: readonly string[]): Cleanup {
  const done: string[] = [];
  const problems: string[] = [];
  const directory = resolve(stateDir);
  if (directory.split('/').length < 3) {
    return { done, problems: [`stateDir is ${directory}, which is more than an agent's: it is left alone`] };
  }
  const inside = existsSync(directory) ? readdirSync(directory).map((name) => join(directory, name)) : [];
  for (const path of [...inside, ...sockets.filter((path) => path !== '' && existsSync(path))]) {
    try {
      rmSync(path, { recursive: true, force: true });
      done.push(`removed ${path}`);
    } catch (error) {
      problems.push(`${path}: ${error instanceof Error ? error.message : error}`);
    }
  }
  try {
    rmdirSync(join(NODE_ROOT, directory));
  } catch {
    // Not there, or no container's view of a node: an empty directory until the next boot at worst.
  }
  return { done: [...new Set(done)], problems };
}

const NODE_ROOT = '/proc/1/root';
