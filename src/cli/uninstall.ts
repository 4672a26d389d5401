import type { Command } from 'commander';
import { loadChart } from './chart/chart.js';
import { type ClusterOptions, milliseconds, waiting, withCluster, withClusterOptions } from './cluster-options.js';
import { uninstall } from './install/uninstaller.js';

/** `meltemi uninstall`: takes the mesh out of a cluster. */
export function registerUninstall(program: Command): void {
  withClusterOptions(program.command('uninstall'))
    .description('Take the mesh out of a cluster: nothing of it stays on the nodes.')
    .option('--revision <name>', 'which control plane', '')
    .option('--purge', 'also the definitions of custom resources that meltemi install brought, and their objects')
    .option('--skip-nodes', 'leave the nodes as they are')
    .option('--timeout <seconds>', 'for each part to go', '300')
    .action(async (options: Options) => {
      const { namespace, revision, purge = false, skipNodes = false, timeout } = options;
      const timeoutMs = milliseconds(timeout);
      await withCluster(options, (api) =>
        uninstall(api, loadChart(), { namespace, revision, purge, skipNodes, timeoutMs, ...waiting }),
      );
    });
}

interface Options extends ClusterOptions {
  readonly revision: string;
  readonly purge?: boolean;
  readonly skipNodes?: boolean;
  readonly timeout: string;
}
