import type { Command } from 'commander';
import { loadChart } from './chart/chart.js';
import { gatherFacts } from './check/gather.js';
import { formatFindings, judge } from './check/judge.js';
import { type ClusterOptions, withCluster, withClusterOptions } from './cluster-options.js';

/** `meltemi check`: what is wrong with a cluster or an installation, and what helps. */
export function registerCheck(program: Command): void {
  withClusterOptions(program.command('check'))
    .description('Look for what keeps the mesh from working, and say what helps. Ends with 1 when there are errors.')
    .option('--pre', 'before an installation: is the cluster fit for one?')
    .option('--json', 'for programs')
    .action(async (options: Options) => {
      const { pre = false, json = false, namespace } = options;
      const findings = await withCluster(options, async (api) =>
        judge(await gatherFacts(api, loadChart(), { namespace, now: () => Date.now() }), pre),
      );
      console.log(json ? JSON.stringify(findings, undefined, 2) : formatFindings(findings));
      if (findings.some(({ severity }) => severity === 'error')) process.exitCode = 1;
    });
}

interface Options extends ClusterOptions {
  readonly pre?: boolean;
  readonly json?: boolean;
}
