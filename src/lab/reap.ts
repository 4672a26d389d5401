import { readdirSync, readFileSync, rmSync } from 'node:fs';
import { setTimeout as delay } from 'node:timers/promises';
import { isAlive, type LabLayout, LabLayout as Layout, labNames, readLabFile } from './layout.js';

/**
 * Removes what a lab left: its processes (every one has the lab's marker in its environment; the namespaces go with
 * them) and its directory. Only for labs whose supervisor is gone. Returns how many processes had to be killed.
 */
export async function reap(layout: LabLayout): Promise<number> {
  const lab = readLabFile(layout);
  let killed = 0;
  if (lab !== undefined && lab.marker !== '') {
    const deadline = Date.now() + REAP_TIMEOUT_MS;
    for (let left = markedProcesses(lab.marker); left.length > 0; left = markedProcesses(lab.marker)) {
      if (Date.now() > deadline) throw new Error(`lab ${layout.name}: processes ${left.join(', ')} cannot be ended`);
      for (const pid of left) {
        try {
          process.kill(pid, 'SIGKILL');
          killed += 1;
        } catch {
          // It has ended meanwhile.
        }
      }
      await delay(REAP_POLL_MS);
    }
  }
  rmSync(layout.directory, { recursive: true, force: true });
  return killed;
}

/** Removes what dead labs left. Returns their names. */
export async function reapDead(): Promise<readonly string[]> {
  const dead = labNames().filter((name) => {
    const lab = readLabFile(new Layout(name));
    return lab !== undefined && !isAlive(lab);
  });
  for (const name of dead) await reap(new Layout(name));
  return dead;
}

/** Pids of the processes that belong to the lab with this marker; zombies have no environment and do not count. */
export function markedProcesses(marker: string): readonly number[] {
  const wanted = `MELTEMI_LAB=${marker}`;
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name) && environmentOf(name).split('\0').includes(wanted))
    .map(Number)
    .filter((pid) => pid !== process.pid);
}

function environmentOf(pid: string): string {
  try {
    return readFileSync(`/proc/${pid}/environ`, 'utf8');
  } catch {
    return '';
  }
}

const REAP_TIMEOUT_MS = 10_000;
const REAP_POLL_MS = 20;
