/**
 * A machine of a cluster, as test/cluster/programs/node makes it: its state is a directory, and its first process has
 * that directory in its command line. So it is found again by whoever looks, whatever became of those who started it.
 */
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { sh, until } from './shell.js';

export interface MachineSpec {
  readonly hostname: string;
  readonly binds: readonly { readonly from: string; readonly to: string }[];
  readonly sysctls: Readonly<Record<string, string>>;
  /** Files under /proc/sys of the whole machine, and what they are to read as inside. */
  readonly pinned: Readonly<Record<string, string>>;
  readonly cgroup: string;
  /** The machine waits for this link, then runs `setup`. */
  readonly link: string;
  readonly setup: readonly (readonly string[])[];
  readonly services: readonly ServiceSpec[];
}

export interface ServiceSpec {
  readonly name: string;
  readonly command: readonly string[];
  readonly env?: readonly string[];
  /** Not started until `release` is called. */
  readonly held?: boolean;
}

/** Starts a machine; gives the process id of its first process. */
export async function startMachine(program: string, directory: string, spec: MachineSpec): Promise<number> {
  mkdirSync(directory, { recursive: true });
  writeFileSync(join(directory, 'spec.json'), JSON.stringify(spec, undefined, 2));
  return Number(await sh([program, 'start', directory]));
}

/** Ends everything on it, as if the power went. */
export async function killMachine(directory: string): Promise<void> {
  const pids = machinePids(directory);
  for (const pid of pids) signal(pid, 'SIGKILL');
  await until(`${directory} has ended`, () => pids.every((pid) => !existsSync(`/proc/${pid}`)), { everyMs: 10 });
}

/** First processes of the machine in `directory`, or of all machines below it. */
export function machinePids(directory: string): readonly number[] {
  return readdirSync('/proc')
    .map(Number)
    .filter((pid) => {
      if (Number.isNaN(pid)) return false;
      try {
        const [program, verb, state] = readFileSync(`/proc/${pid}/cmdline`, 'utf8').split('\0');
        if (program !== PROGRAM || verb !== 'init' || state === undefined) return false;
        return state === directory || state.startsWith(`${directory}/`);
      } catch {
        return false;
      }
    });
}

export function machinePid(directory: string): number {
  const [pid] = machinePids(directory);
  if (pid === undefined) throw new Error(`the machine of ${directory} does not run`);
  return pid;
}

/** The command line that runs `command` on the machine, in all its namespaces. */
export function on(directory: string, command: readonly string[]): readonly string[] {
  return ['nsenter', '--target', String(machinePid(directory)), '--all', '--', ...command];
}

/** A path of the machine as it is seen from outside. */
export function outside(directory: string, path: string): string {
  return join('/proc', String(machinePid(directory)), 'root', path);
}

/** Keeps a service from running: it is killed, and not started again until `release`. */
export function hold(directory: string, service: string): void {
  writeFileSync(outside(directory, `/run/services/${service}.hold`), '');
  killService(directory, service);
}

export function release(directory: string, service: string): void {
  rmSync(outside(directory, `/run/services/${service}.hold`), { force: true });
}

/** SIGKILL; the machine starts it again after half a second. */
export function killService(directory: string, service: string): void {
  const file = outside(directory, `/run/services/${service}.pid`);
  if (!existsSync(file)) return;
  const inner = Number(readFileSync(file, 'utf8'));
  const pid = machineProcesses(directory).find((each) => each.inner === inner)?.pid;
  if (pid !== undefined) signal(pid, 'SIGKILL');
}

/** All processes of the machine's own PID namespace, by both numbers. */
export function machineProcesses(directory: string): readonly { readonly pid: number; readonly inner: number }[] {
  const root = machinePid(directory);
  const depth = levels(root).length;
  return processTree(root).flatMap((pid) => {
    const all = levels(pid);
    const inner = all[depth - 1];
    return inner === undefined || all.length !== depth ? [] : [{ pid, inner }];
  });
}

function processTree(root: number): readonly number[] {
  try {
    const children = readdirSync(`/proc/${root}/task`).flatMap((task) =>
      readFileSync(`/proc/${root}/task/${task}/children`, 'utf8').trim().split(/\s+/).filter(Boolean).map(Number),
    );
    return [root, ...children.flatMap(processTree)];
  } catch {
    return [];
  }
}

/** Its process ids, from the outermost PID namespace inwards. */
function levels(pid: number): readonly number[] {
  try {
    const line = /^NSpid:(.*)$/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'));
    return line?.[1]?.trim().split(/\s+/).map(Number) ?? [];
  } catch {
    return [];
  }
}

function signal(pid: number, name: NodeJS.Signals): void {
  try {
    process.kill(pid, name);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error;
  }
}

const PROGRAM = 'meltemi-test-node';
