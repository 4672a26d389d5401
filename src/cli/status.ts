import type { Command } from 'commander';
import { type ClusterOptions, withCluster, withClusterOptions } from './cluster-options.js';
import { formatMeshStatus, meshStatus } from './status/mesh-status.js';

/** `meltemi status`: the control planes and the agents, and how far they are. */
export function registerStatus(program: Command): void {
  withClusterOptions(program.command('status'))
    .description('Show the control planes and the agents, and what they know of each other.')
    .option('--json', 'for programs')
    .action(async (options: ClusterOptions & { readonly json?: boolean }) => {
      const status = await withCluster(options, (api) => meshStatus(api, options.namespace));
      console.log(options.json === true ? JSON.stringify(status, undefined, 2) : formatMeshStatus(status));
    });
}
