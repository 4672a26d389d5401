import { existsSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { isConfName, planUninstall } from './conf-dir.js';
import { applyEdits, readConfFiles, removeLeftovers } from './conf-files.js';
import { PLUGIN } from './conflist.js';

/** What was done, and what could not be, a sentence each. */
export interface Cleanup {
  readonly done: readonly string[];
  readonly problems: readonly string[];
}

/**
 * Takes the plugin out of every CNI configuration, which then is byte for byte what it was without it. Idempotent. No
 * agent may be running that would put it back.
 */
export function removeEntries(confDir: string): Cleanup {
  const done: string[] = [];
  const problems: string[] = [];
  attempt(problems, confDir, () => {
    const plan = planUninstall(readConfFiles(confDir));
    problems.push(...plan.problems.map((problem) => `${confDir}: ${problem}`));
    for (const edit of plan.edits) {
      const path = join(confDir, edit.name);
      attempt(problems, path, () => {
        applyEdits(confDir, [edit]);
        done.push(edit.action === 'remove' ? `removed ${path}` : `removed the plugin from ${path}`);
      });
    }
    done.push(...removeLeftovers(confDir, isConfName).map((name) => `removed ${join(confDir, name)}`));
  });
  return { done, problems };
}

/** Takes the binary away. After all entries: a chain that named a missing one would start no pod. Idempotent. */
export function removeBinary(binDir: string): Cleanup {
  const done: string[] = [];
  const problems: string[] = [];
  attempt(problems, binDir, () => {
    const binary = join(binDir, PLUGIN);
    if (existsSync(binary)) {
      rmSync(binary);
      done.push(`removed ${binary}`);
    }
    done.push(...removeLeftovers(binDir, (name) => name === PLUGIN).map((name) => `removed ${join(binDir, name)}`));
  });
  return { done, problems };
}

function attempt(problems: string[], what: string, act: () => void): void {
  try {
    act();
  } catch (error) {
    problems.push(`${what}: ${error instanceof Error ? error.message : error}`);
  }
}
