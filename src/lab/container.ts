import type { ChildProcess } from 'node:child_process';
import { closeSync, openSync, readFileSync, statSync, truncateSync } from 'node:fs';
import { constants } from 'node:os';
import type { BackOff } from '../lib/back-off.js';
import type { Clock } from '../lib/clock.js';
import { childrenOf, endChild, hasExited, spawnBound } from './children.js';

export interface ContainerStart {
  readonly name: string;
  readonly argv: readonly string[];
  readonly workingDir: string;
  readonly env: Readonly<Record<string, string>>;
  /** Of the process that holds the pod's namespaces. */
  readonly sandboxPid: number;
  /** Output is appended here. */
  readonly log: string;
  readonly restartPolicy: 'Always' | 'OnFailure' | 'Never';
  readonly backOff: BackOff;
  readonly clock: Clock;
  /** Called whenever `state` changed. */
  readonly onChange: () => void;
}

export type ContainerState =
  /** The namespaces are being made; the command is not there yet. */
  | { readonly type: 'starting' }
  | { readonly type: 'running' }
  | { readonly type: 'waiting'; readonly reason: 'CrashLoopBackOff'; readonly exitCode: number }
  | { readonly type: 'terminated'; readonly exitCode: number };

/** A command that runs, alone in a process namespace of its own, and is started again as its restart policy says. */
export class Container {
  state: ContainerState = { type: 'starting' };
  restarts = 0;
  #child: ChildProcess | undefined;
  #stopped = false;
  #cancelTimer: () => void = () => {};
  #cancelLimit: () => void = () => {};

  constructor(readonly start: ContainerStart) {}

  run(): void {
    const { start } = this;
    this.#limitLog();
    const log = openSync(start.log, 'a');
    const began = start.clock.now();
    const child = spawnBound(containerArgv(start), { stdio: ['ignore', log, log], detached: true, env: start.env });
    closeSync(log);
    this.#child = child;
    this.#turn({ type: 'starting' });
    this.#awaitCommand(child);
    child.once('exit', (code, signal) =>
      this.#onExit(code ?? 128 + (signal === 'SIGKILL' ? 9 : 15), start.clock.now() - began),
    );
  }

  /** Pids of the command itself, as this machine sees them. */
  get pids(): readonly number[] {
    const pid = this.#child?.pid;
    return pid === undefined ? [] : childrenOf(pid);
  }

  /** The process whose namespaces `lab exec` enters; undefined while nothing runs. */
  get holderPid(): number | undefined {
    return this.state.type === 'running' ? this.#child?.pid : undefined;
  }

  /** SIGTERM, after `graceMs` SIGKILL to everything in the container; resolves when nothing of it is left. */
  async stop(graceMs: number): Promise<void> {
    this.#stopped = true;
    this.#cancelTimer();
    this.#cancelLimit();
    const child = this.#child;
    if (child === undefined) return;
    // The first process of a namespace does not get a signal it has no handler for: nothing to wait for then.
    const listens = this.pids.some(catchesSigterm);
    await endChild(child, listens ? graceMs : 0, () => {
      for (const pid of this.pids) signal(pid, 'SIGTERM');
      return true;
    });
  }

  #awaitCommand(child: ChildProcess): void {
    this.#cancelTimer = this.start.clock.schedule(FORK_POLL_MS, () => {
      if (this.#child !== child || hasExited(child)) return;
      if (childrenOf(child.pid ?? 0).length > 0) this.#turn({ type: 'running' });
      else this.#awaitCommand(child);
    });
  }

  /** Looked at now and then while it runs: what writes without end must not fill the machine's memory. */
  #limitLog(): void {
    const { log, clock } = this.start;
    this.#cancelLimit();
    try {
      if (statSync(log).size > MAX_LOG_BYTES) truncateSync(log);
    } catch {
      // There is none yet.
    }
    if (!this.#stopped) this.#cancelLimit = clock.schedule(LOG_INTERVAL_MS, () => this.#limitLog());
  }

  #onExit(exitCode: number, livedMs: number): void {
    const { restartPolicy, backOff, clock } = this.start;
    this.#cancelTimer();
    if (this.#stopped || restartPolicy === 'Never' || (restartPolicy === 'OnFailure' && exitCode === 0)) {
      this.#turn({ type: 'terminated', exitCode });
      return;
    }
    if (livedMs > STEADY_MS) backOff.reset();
    this.#turn({ type: 'waiting', reason: 'CrashLoopBackOff', exitCode });
    this.#cancelTimer = clock.schedule(backOff.next(), () => {
      this.restarts += 1;
      this.run();
    });
  }

  #turn(state: ContainerState): void {
    this.state = state;
    this.start.onChange();
  }
}

/** Runs `argv` in a pod as `lab exec` does: in all namespaces of a container, killed when the caller is. */
export function execArgv(
  holderPid: number,
  env: Readonly<Record<string, string>>,
  workingDir: string,
  argv: readonly string[],
): string[] {
  const at = `/proc/${holderPid}/ns`;
  return [
    ...['nsenter', `--net=${at}/net`, `--uts=${at}/uts`, `--mount=${at}/mnt`, `--pid=${at}/pid_for_children`, '--'],
    ...['setpriv', '--pdeathsig', 'KILL', '--'],
    ...envArgv(env, workingDir),
    ...argv,
  ];
}

function containerArgv({ sandboxPid, env, workingDir, argv }: ContainerStart): readonly string[] {
  const at = `/proc/${sandboxPid}/ns`;
  return [
    ...['nsenter', `--net=${at}/net`, `--uts=${at}/uts`, `--mount=${at}/mnt`, '--'],
    ...['unshare', '--pid', '--fork', '--kill-child=KILL', '--mount', '--mount-proc', '--propagation', 'private', '--'],
    ...envArgv(env, workingDir),
    ...argv,
  ];
}

function envArgv(env: Readonly<Record<string, string>>, workingDir: string): readonly string[] {
  return ['env', '-i', '-C', workingDir, ...Object.entries(env).map(([name, value]) => `${name}=${value}`)];
}

function catchesSigterm(pid: number): boolean {
  try {
    const caught = /^SigCgt:\s*([0-9a-f]+)$/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1] ?? '0';
    return (BigInt(`0x${caught}`) & SIGTERM_BIT) !== 0n;
  } catch {
    return false;
  }
}

function signal(pid: number, name: 'SIGTERM'): void {
  try {
    process.kill(pid, name);
  } catch {
    // It has ended already.
  }
}

const FORK_POLL_MS = 4;
/** A container that ran this long is not in a crash loop. */
const STEADY_MS = 10_000;
/** A log that is longer starts anew. */
const MAX_LOG_BYTES = 64 * 1024 * 1024;
const LOG_INTERVAL_MS = 5_000;
const SIGTERM_BIT = 1n << BigInt(constants.signals.SIGTERM - 1);
