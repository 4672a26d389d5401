import { setTimeout as sleep } from 'node:timers/promises';
import type { Command } from 'commander';
import type { KubeApi } from '../kube/api.js';

/** What every command that speaks to a cluster takes. */
export interface ClusterOptions {
  readonly kubeconfig?: string;
  readonly context?: string;
  readonly namespace: string;
}

export function withClusterOptions(command: Command): Command {
  return command
    .option('-n, --namespace <name>', 'where the mesh is installed', 'istio-system')
    .option('--kubeconfig <file>', 'instead of KUBECONFIG or ~/.kube/config')
    .option('--context <name>', "instead of the kubeconfig's current one");
}

/** Runs `work` against the cluster and closes the connection. The library is loaded only now. */
export async function withCluster<T>(options: ClusterOptions, work: (api: KubeApi) => Promise<T>): Promise<T> {
  const { kubeconfigApi } = await import('../kube/kubeconfig.js');
  const { kubeconfig, context } = options;
  const api = await kubeconfigApi(kubeconfig, context === undefined ? {} : { context });
  try {
    return await work(api);
  } finally {
    api.close();
  }
}

/** Seconds on a command line, in ms. */
export function milliseconds(text: string): number {
  const seconds = Number(text.replace(/s$/, ''));
  if (!Number.isFinite(seconds) || seconds < 0) throw new Error(`--timeout ${text}: it is a number of seconds`);
  return seconds * 1000;
}

export const waiting = {
  now: () => performance.now(),
  pause: (ms: number) => sleep(ms),
  say: (line: string) => console.log(line),
};
