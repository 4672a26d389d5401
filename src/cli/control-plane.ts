import type { Command } from 'commander';
import { readConfig } from '../control/config.js';
import { runControlPlane as run } from '../control/main.js';

/** Runs until SIGTERM or SIGINT. Rejects with what is wrong with the configuration, or what could not be listened on. */
export async function runControlPlane(configPath: string): Promise<void> {
  const config = readConfig(configPath);
  if (!config.ok) throw new Error(config.error);
  await run(config.value);
}

export function registerControlPlane(program: Command): void {
  program
    .command('control-plane')
    .description('serve agents: discovery over xDS, certificates, and pages for operators')
    .requiredOption('--config <file>', 'YAML configuration')
    .action(async ({ config }: { config: string }) => runControlPlane(config));
}
