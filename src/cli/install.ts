import { readFileSync } from 'node:fs';
import type { Command } from 'commander';
import { formatYamlDocuments } from '../lib/yaml.js';
import { loadChart } from './chart/chart.js';
import { mergeSet, parseSet, parseValues, type Values } from './chart/values.js';
import { type ClusterOptions, milliseconds, waiting, withCluster, withClusterOptions } from './cluster-options.js';
import { formerValues, install } from './install/installer.js';

/** `meltemi install`: puts the mesh into a cluster. */
export function registerInstall(program: Command): void {
  withInstallOptions(program.command('install'))
    .description('Put the mesh into a cluster, or bring what is there to this version and exactly these values.')
    .action((options: Options) => run(options, async () => ({})));
}

/** `meltemi upgrade`: like install, with the values that were chosen before. */
export function registerUpgrade(program: Command): void {
  withInstallOptions(program.command('upgrade'))
    .description('Bring an installation to this version, with the values chosen before and those given now.')
    .action((options: Options) =>
      run(options, async (api, revision) => {
        const former = await formerValues(api, options.namespace, revision);
        if (former !== undefined) return former;
        throw new Error(`nothing is installed in ${options.namespace} as revision "${revision}": use meltemi install`);
      }),
    );
}

interface Options extends ClusterOptions {
  readonly revision?: string;
  readonly image?: string;
  readonly values: readonly string[];
  readonly set: readonly string[];
  readonly dryRun?: boolean;
  readonly output?: string;
  readonly skipCrds?: boolean;
  readonly wait: boolean;
  readonly timeout: string;
}

function withInstallOptions(command: Command): Command {
  const collect = (value: string, all: readonly string[]) => [...all, value];
  return withClusterOptions(command)
    .option('--revision <name>', 'a control plane and agents beside the others, for pods with istio.io/rev=NAME')
    .option('--image <repository[:tag]>', 'instead of meltemi:VERSION')
    .option('-f, --values <file>', 'YAML in the shape of daemonset/chart/values.yaml; several are merged', collect, [])
    .option('--set <name=value>', 'one value, as Helm reads it; several are merged', collect, [])
    .option('--dry-run', 'ask the cluster what would change, and change nothing')
    .option('-o, --output <format>', 'yaml: print the manifests and speak to no cluster')
    .option('--skip-crds', 'leave the definitions of custom resources as they are')
    .option('--no-wait', 'do not wait for pods')
    .option('--timeout <seconds>', 'for each part to become ready', '300');
}

async function run(
  options: Options,
  former: (api: Parameters<typeof formerValues>[0], revision: string) => Promise<Values>,
): Promise<void> {
  const { namespace, output, dryRun = false, skipCrds = false, wait, timeout } = options;
  const chart = loadChart();
  const chosen = chosenValues(options);
  const revision = typeof chosen.revision === 'string' ? chosen.revision : '';
  if (output !== undefined) {
    if (output !== 'yaml') throw new Error(`--output ${output}: yaml is the only format`);
    process.stdout.write(formatYamlDocuments(chart.render(namespace, chosen)));
    return;
  }
  const timeoutMs = milliseconds(timeout);
  await withCluster(options, async (api) => {
    const values = mergeSet(await former(api, revision), chosen);
    await install(api, chart, { namespace, values, dryRun, skipCrds, noWait: !wait, timeoutMs, ...waiting });
  });
}

/** Files first, then what is set, then what has an option of its own. */
function chosenValues({ values: files, set, revision, image }: Options): Values {
  const fromFiles = files.map((path) => parseValues(path, readFileSync(path, 'utf8')));
  const own: Values[] = [];
  if (revision !== undefined) own.push({ revision });
  if (image !== undefined) own.push({ image: imageOf(image) });
  return [...own, ...fromFiles, ...set.map(parseSet)].reduce<Values>(mergeSet, {});
}

/** `registry:5000/meltemi:1.2.3`; without a tag the chart's version. */
function imageOf(image: string): Values {
  const [, repository, tag] = /^(.*?)(?::([^:/]+))?$/.exec(image) ?? [];
  return { repository, ...(tag === undefined ? {} : { tag }) };
}
