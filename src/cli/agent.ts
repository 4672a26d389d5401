import type { Command } from 'commander';

/** `meltemi agent`: the agent of one node. */
export function registerAgent(program: Command): void {
  program
    .command('agent')
    .description('The agent of one node: enrols its pods, and carries and judges their connections.')
    .requiredOption('--config <file>', 'YAML; docs/reference/agent-config.md lists the settings')
    .action(async ({ config }: { config: string }) => {
      const { runAgent } = await import('../agent/main.js');
      await runAgent(config);
    });
}
