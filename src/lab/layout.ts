import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { err, ok, type Result } from '../lib/result.js';

/** Where a lab keeps its files. Everything of a lab is below its directory, and nothing of it elsewhere. */
export class LabLayout {
  readonly directory: string;

  constructor(
    readonly name: string,
    root: string = LABS_DIRECTORY,
  ) {
    this.directory = join(root, name);
  }

  /** What other processes must know of a running lab: see `LabFile`. */
  get labFile(): string {
    return join(this.directory, 'lab.json');
  }
  get socket(): string {
    return join(this.directory, 'supervisor.sock');
  }
  get log(): string {
    return join(this.directory, 'supervisor.log');
  }
  /** The control plane's source of truth: one file an object. */
  get manifests(): string {
    return join(this.directory, 'manifests');
  }
  get control(): string {
    return join(this.directory, 'control');
  }
  get ca(): string {
    return join(this.directory, 'ca');
  }
  node(name: string): string {
    return join(this.directory, 'nodes', name);
  }
  pod(namespace: string, name: string): string {
    return join(this.directory, 'pods', `${namespace}.${name}`);
  }
  podLog(namespace: string, name: string): string {
    return join(this.pod(namespace, name), 'log');
  }
}

export interface LabFile {
  readonly name: string;
  /** Of the supervisor. */
  readonly pid: number;
  /** Field 22 of /proc/PID/stat, which tells a process from a later one with the same pid. */
  readonly startTicks: string;
  /** Value of MELTEMI_LAB in the environment of every process of this lab. */
  readonly marker: string;
  readonly nodes: number;
  readonly mesh: boolean;
}

/** A name is part of paths, one of which is a Unix socket, whose path the kernel limits to 107 bytes. */
export function checkLabName(name: string): Result<string> {
  if (/^[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?$/.test(name)) return ok(name);
  return err(`lab name "${name}" is not 1 to 40 lower-case letters, digits and inner hyphens`);
}

/** Names of all labs that have a directory, dead ones too, in order. */
export function labNames(root: string = LABS_DIRECTORY): readonly string[] {
  try {
    return readdirSync(root)
      .filter((name) => checkLabName(name).ok)
      .sort();
  } catch {
    return [];
  }
}

/** Undefined when there is none, or when it is not whole. */
export function readLabFile(layout: LabLayout): LabFile | undefined {
  try {
    return JSON.parse(readFileSync(layout.labFile, 'utf8')) as LabFile;
  } catch {
    return undefined;
  }
}

/** Undefined when no such process is there, or only what is left of it until its parent takes note. */
export function processStartTicks(pid: number): string | undefined {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
    // The second field is the command in parentheses and may hold spaces.
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
    return fields[0] === 'Z' || fields[0] === 'X' ? undefined : fields[19];
  } catch {
    return undefined;
  }
}

export function isAlive(lab: LabFile | undefined): lab is LabFile {
  return lab !== undefined && processStartTicks(lab.pid) === lab.startTicks;
}

export const LABS_DIRECTORY = '/run/meltemi/labs';
