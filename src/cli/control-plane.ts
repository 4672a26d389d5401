import type { Command } from 'commander';
import { replaceProcess } from './replace-process.js';

/** Runs until SIGTERM or SIGINT. Rejects with what is wrong with the configuration, or what could not be listened on. */
export async function runControlPlane(configPath: string): Promise<void> {
  replaceProcess(FLAGS, ENVIRONMENT);
  // Loaded here and not above, so that the other commands do not pay for it.
  const { readConfig } = await import('../control/config.js');
  const config = readConfig(configPath);
  if (!config.ok) throw new Error(config.error);
  const { runControlPlane } = await import('../control/main.js');
  await runControlPlane(config.value);
}

export function registerControlPlane(program: Command): void {
  program
    .command('control-plane')
    .description('serve agents: discovery over xDS, certificates, and pages for operators')
    .requiredOption('--config <file>', 'YAML configuration')
    .action(async ({ config }: { config: string }) => runControlPlane(config));
}

const FLAGS: readonly string[] = [
  // A young generation that stays as it is: with less of it there is more collecting, with more of it more memory.
  '--min-semi-space-size=4',
  '--max-semi-space-size=4',
  // For what a snapshot leaves behind (src/lib/collect-young.ts).
  '--expose-gc',
];

/** Whole snapshots come and go: what they leave behind goes back to the system. */
const ENVIRONMENT: Readonly<Record<string, string>> = {
  MALLOC_ARENA_MAX: '1',
  MALLOC_MMAP_THRESHOLD_: '131072',
  MALLOC_TRIM_THRESHOLD_: '131072',
};
