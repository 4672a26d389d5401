import { writeFileSync } from 'node:fs';
import { systemClock } from '../lib/clock.js';
import { logger } from '../telemetry/log.js';
import { serveApi } from './api.js';
import { type LabFile, LabLayout, processStartTicks } from './layout.js';
import { Supervisor } from './supervisor.js';

export interface SuperviseOptions {
  readonly name: string;
  readonly nodes: number;
  readonly mesh: boolean;
  readonly mtu: number;
  readonly marker: string;
}

/** Runs a lab until it is taken down. The process must be in a new network namespace: it becomes the lab's fabric. */
export async function supervise(options: SuperviseOptions): Promise<void> {
  const log = logger('lab');
  const layout = new LabLayout(options.name);
  const supervisor = new Supervisor({
    ...options,
    layout,
    clock: systemClock,
    log,
    program: [process.execPath, ...process.execArgv, process.argv[1] ?? ''],
  });
  const end = (): void => process.exit(0);
  for (const signal of ['SIGTERM', 'SIGINT', 'SIGHUP'] as const)
    process.once(signal, () => void supervisor.stop().finally(end));
  await supervisor.start();
  serveApi(supervisor, layout.socket, end).once('listening', () => {
    log.info({ name: options.name, nodes: options.nodes, mesh: options.mesh }, 'the lab is up');
  });
}

/** Called by the supervisor's starter, once it knows the pid. */
export function writeLabFile(layout: LabLayout, pid: number, { name, marker, nodes, mesh }: SuperviseOptions): void {
  const file: LabFile = { name, pid, startTicks: processStartTicks(pid) ?? '', marker, nodes, mesh };
  writeFileSync(layout.labFile, JSON.stringify(file));
}
