import { readFileSync } from 'node:fs';
import type { Command } from 'commander';

/** `meltemi node-cleanup`: takes back what agents did on a node. */
export function registerNodeCleanup(program: Command): void {
  program
    .command('node-cleanup')
    .description('Takes back what agents did on this node: CNI entry, rules, state, plugin. No agent may be running.')
    .requiredOption('--config <file>', 'that of the agent')
    .action(async ({ config }: { config: string }) => {
      const { cleanNode } = await import('../agent/node-cleanup.js');
      const { done, problems } = await cleanNode(config, readFileSync(config, 'utf8'));
      for (const line of done) console.log(line);
      for (const problem of problems) console.error(`meltemi: ${problem}`);
      if (problems.length > 0) process.exitCode = 1;
      else if (done.length === 0) console.log('there was nothing to clean');
    });
}
