import { spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { closeSync, existsSync, mkdirSync, openSync, readFileSync } from 'node:fs';
import { setTimeout as delay } from 'node:timers/promises';
import { LabClient } from './client.js';
import { checkLabName, isAlive, LabLayout, readLabFile } from './layout.js';
import { type SuperviseOptions, writeLabFile } from './main.js';
import { reap, reapDead } from './reap.js';

export interface UpOptions extends Omit<SuperviseOptions, 'marker'> {
  /** The interpreter, its options and the script of this program. */
  readonly program: readonly string[];
}

/** Starts a detached lab and resolves when it answers. What dead labs left is removed first. */
export async function startLab(options: UpOptions): Promise<LabClient> {
  const checked = checkLabName(options.name);
  if (!checked.ok) throw new Error(checked.error);
  if (process.getuid?.() !== 0) throw new Error('the lab makes network namespaces, for which it must be root');
  await reapDead();
  const layout = new LabLayout(options.name);
  if (isAlive(readLabFile(layout)))
    throw new Error(`lab ${options.name} is up already; take it down with: meltemi lab down --name ${options.name}`);
  await reap(layout);
  mkdirSync(layout.directory, { recursive: true, mode: 0o755 });
  const marker = `${options.name}-${randomBytes(6).toString('hex')}`;
  const log = openSync(layout.log, 'a');
  const { name, nodes, mtu, mesh } = options;
  const flags = [
    '--name',
    name,
    '--nodes',
    String(nodes),
    '--mtu',
    String(mtu),
    '--marker',
    marker,
    ...(mesh ? [] : ['--no-mesh']),
  ];
  const child = spawn('unshare', ['--net', '--', ...options.program, 'lab', 'supervise', ...flags], {
    cwd: '/',
    detached: true,
    stdio: ['ignore', log, log],
    env: { ...process.env, MELTEMI_LAB: marker },
  });
  closeSync(log);
  let failure = '';
  child.once('error', ({ message }) => {
    failure = `unshare cannot be started: ${message}`;
  });
  child.once('exit', (code) => {
    failure ||= `the supervisor ended with ${code}: ${tail(layout.log)}`;
  });
  if (child.pid !== undefined) writeLabFile(layout, child.pid, { ...options, marker });
  const deadline = Date.now() + START_TIMEOUT_MS;
  while (!existsSync(layout.socket)) {
    if (failure === '' && Date.now() > deadline) failure = `the supervisor does not answer: ${tail(layout.log)}`;
    if (failure !== '') {
      await takeDown(name);
      throw new Error(`lab ${name} cannot be started: ${failure}`);
    }
    await delay(POLL_MS);
  }
  child.removeAllListeners();
  child.unref();
  return new LabClient(name);
}

/** Ends a lab, whatever state it is in, and removes all of it. True when there was anything. */
export async function takeDown(name: string): Promise<boolean> {
  const layout = new LabLayout(name);
  if (!existsSync(layout.directory)) return false;
  const lab = readLabFile(layout);
  if (isAlive(lab)) {
    await new LabClient(name).down().catch(() => kill(lab.pid));
    const deadline = Date.now() + STOP_TIMEOUT_MS;
    while (isAlive(lab)) {
      if (Date.now() > deadline) kill(lab.pid);
      await delay(POLL_MS);
    }
  }
  await reap(layout);
  return true;
}

function kill(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL');
  } catch {
    // It has ended meanwhile.
  }
}

function tail(path: string): string {
  try {
    return readFileSync(path, 'utf8').trimEnd().slice(-MAX_TAIL);
  } catch {
    return '';
  }
}

const START_TIMEOUT_MS = 20_000;
const STOP_TIMEOUT_MS = 10_000;
const POLL_MS = 15;
const MAX_TAIL = 2000;
