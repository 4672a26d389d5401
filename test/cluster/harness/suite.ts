/**
 * The cluster that the tests of this suite share. It is brought up by the first file that asks for it and stays for the
 * others; the runner takes it down. With TEST_KUBECONFIG set it is that cluster instead: kind, or any other.
 */
import { readFileSync } from 'node:fs';
import { parseYaml } from '../../../src/lib/yaml.js';
import { artefacts } from './artefacts.js';
import { Cluster } from './cluster.js';
import { sh } from './shell.js';

export interface TestCluster {
  readonly kubeconfig: string;
  /** Our own machines; undefined on a cluster of somebody else, where tests that reboot nodes and the like skip. */
  readonly own: Cluster | undefined;
  kubectl(args: readonly string[], input?: string | object, timeoutMs?: number): Promise<string>;
  /** The command line for it, for those who start it themselves. */
  kubectlCommand(args: readonly string[]): readonly string[];
  /** Imports a docker-archive into every node. */
  load(archive: string): Promise<void>;
  /** Names of the nodes that pods run on. */
  nodes(): Promise<readonly string[]>;
  /** Runs a program on a node. Only on our own clusters and on kind. */
  exec(node: string, command: readonly string[]): Promise<string>;
}

/** Brings it up if need be. Takes some ten seconds then. */
export async function suiteCluster(): Promise<TestCluster> {
  const kubeconfig = process.env.TEST_KUBECONFIG;
  if (kubeconfig !== undefined && kubeconfig !== '') return foreignCluster(kubeconfig);
  const name = process.env.CLUSTER || suiteName('suite');
  const own = (await Cluster.find(name)) ?? (await Cluster.up({ name }));
  return {
    kubeconfig: own.kubeconfig,
    own,
    kubectl: (args, input, timeoutMs) => own.kubectl(args, input, timeoutMs),
    kubectlCommand: (args) => own.kubectlCommand(args),
    load: (archive) => own.load(archive),
    nodes: async () => own.nodes.map((node) => node.name),
    exec: (node, command) => own.node(node).exec(command),
  };
}

/** A name that the runner knows for this run's, so that it ends what a test left up. */
export function suiteName(name: string): string {
  return `${name}${process.env.LAB_SUFFIX ?? ''}`;
}

async function foreignCluster(kubeconfig: string): Promise<TestCluster> {
  const built = await artefacts();
  const kind = kindCluster(kubeconfig);
  const kubectlCommand = (args: readonly string[]) => [
    built.kubernetes,
    'kubectl',
    '--kubeconfig',
    kubeconfig,
    ...args,
  ];
  const cluster: TestCluster = {
    kubeconfig,
    own: undefined,
    kubectlCommand,
    kubectl: (args, input, timeoutMs = 60_000) =>
      sh(kubectlCommand(args), {
        ...(input === undefined ? {} : { input: typeof input === 'string' ? input : JSON.stringify(input) }),
        timeoutMs,
      }),
    load: async (archive) => {
      // Elsewhere the images have to be on the nodes already.
      if (kind !== undefined) {
        await sh(['kind', 'load', 'image-archive', archive, '--name', kind], { timeoutMs: 300_000 });
      }
    },
    nodes: async () => {
      const workers = ['get', 'nodes', '-o', 'jsonpath={range .items[?(!@.spec.taints)]}{.metadata.name}{"\\n"}{end}'];
      return (await cluster.kubectl(workers)).split('\n').filter(Boolean);
    },
    exec: (node, command) => {
      if (kind === undefined) throw new Error('programs can be run on the nodes of kind, not of any cluster');
      return sh(['docker', 'exec', node, ...command]);
    },
  };
  await cluster.load(built.appImage);
  return cluster;
}

/** The name that kind knows the cluster by; undefined when it is not kind's. */
function kindCluster(kubeconfig: string): string | undefined {
  const parsed = parseYaml(readFileSync(kubeconfig, 'utf8'));
  const context = parsed.ok ? (parsed.value as { 'current-context'?: string })['current-context'] : undefined;
  return context?.startsWith('kind-') ? context.slice('kind-'.length) : undefined;
}
