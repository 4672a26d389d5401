/** What tests on a cluster with the mesh in it say of pods and ask of agents. */
import { appPod } from './manifests.js';
import { until } from './shell.js';
import type { TestCluster } from './suite.js';
import type { Sums } from './tap-cluster.js';

/** Labels of a namespace whose pods are captured. */
export const AMBIENT = { 'istio.io/dataplane-mode': 'ambient' };
/** Labels of a pod that is left alone in such a namespace. */
export const OUT = { 'istio.io/dataplane-mode': 'none' };
export const MESH = 'istio-system';

/** A pod of the test application on a node, with what else `appPod` takes. */
export function podOn(
  nodeName: string,
  options: Parameters<typeof appPod>[0] & { readonly spec?: object },
): ReturnType<typeof appPod> {
  return appPod({ ...options, spec: { nodeName, ...options.spec } });
}

export function serviceAccount(namespace: string, name: string): object {
  return { apiVersion: 'v1', kind: 'ServiceAccount', metadata: { name, namespace } };
}

/** `spec` is that of a PeerAuthentication, or its mode. */
export function peerAuthentication(namespace: string, spec: string | object, name = 'default'): object {
  return {
    apiVersion: 'security.istio.io/v1',
    kind: 'PeerAuthentication',
    metadata: { name, namespace },
    spec: typeof spec === 'string' ? { mtls: { mode: spec } } : spec,
  };
}

export function authorizationPolicy(namespace: string, spec: object, name = 'p'): object {
  return {
    apiVersion: 'security.istio.io/v1',
    kind: 'AuthorizationPolicy',
    metadata: { name, namespace },
    spec,
  };
}

/** Waits until the agents report these pods as captured. */
export async function captured(cluster: TestCluster, namespace: string, ...names: readonly string[]): Promise<void> {
  for (const name of names) {
    const state = () => fieldOf(cluster, namespace, name, '{.metadata.annotations.ambient\\.istio\\.io/redirection}');
    await until(`${name} is captured`, async () => (await state()) === 'enabled', PATIENCE);
  }
}

/** The contrary. */
export async function released(cluster: TestCluster, namespace: string, ...names: readonly string[]): Promise<void> {
  for (const name of names) {
    const state = () => fieldOf(cluster, namespace, name, '{.metadata.annotations.ambient\\.istio\\.io/redirection}');
    await until(`${name} is released`, async () => (await state()) === '', PATIENCE);
  }
}

export function ipOf(cluster: TestCluster, namespace: string, name: string): Promise<string> {
  return fieldOf(cluster, namespace, name, '{.status.podIP}');
}

/** Runs `app client` several times in a pod, all at once, and gives what each printed, in their order. */
export async function clientsIn(
  cluster: TestCluster,
  namespace: string,
  pod: string,
  runs: readonly (readonly string[])[],
): Promise<readonly Sums[]> {
  const each = 'i=0; for run in "$@"; do i=$((i+1)); ';
  const script = `${each} /bin/app client $run > /tmp/$$.$i & done; wait; ${each} cat /tmp/$$.$i; rm /tmp/$$.$i; done`;
  const words = runs.map((run) => run.join(' '));
  const exec = ['exec', '-n', namespace, pod, '--', '/bin/sh', '-c', script, 'sh', ...words];
  const output = await cluster.kubectl(exec, undefined, 120_000);
  return output
    .split('\n')
    .filter(Boolean)
    .map((line) => JSON.parse(line) as Sums);
}

/** By client, by target: `yes`, `no` (refused, reset or closed), or another kind of error. */
export type Reach = Readonly<Record<string, Readonly<Record<string, string>>>>;

/** Who reaches what now. `targets` are arguments of `app client` by name. */
export async function reach(
  cluster: TestCluster,
  namespace: string,
  clients: readonly string[],
  targets: Readonly<Record<string, readonly string[]>>,
): Promise<Reach> {
  const rows = clients.map(async (client) => {
    const sums = await clientsIn(cluster, namespace, client, Object.values(targets));
    const cells = Object.keys(targets).map((target, at) => [target, outcome(sums[at])]);
    return [client, Object.fromEntries(cells)];
  });
  return Object.fromEntries(await Promise.all(rows));
}

/** Waits until `reach` is as wanted: policies take effect some time after they are written. Gives what it is at last. */
export async function reachBecomes(wanted: Reach, ask: () => Promise<Reach>): Promise<Reach> {
  let found: Reach = {};
  const same = async () => {
    found = await ask();
    return JSON.stringify(found) === JSON.stringify(wanted);
  };
  await until('who reaches whom is as it should be', same, { timeoutMs: 30_000 }).catch(() => undefined);
  return found;
}

function outcome(sums: Sums | undefined): string {
  const kinds = Object.keys(sums?.errors ?? { unknown: 1 });
  if (kinds.length === 0) return 'yes';
  return kinds.every((kind) => ['refused', 'reset', 'closed'].includes(kind)) ? 'no' : kinds.join(' ');
}

/** A line of the agents' access log. */
export type AccessRecord = Readonly<Record<string, string | undefined>>;

/** Access-log lines of all agents, those that this namespace's pods are in. */
export async function accessRecords(cluster: TestCluster, namespace: string): Promise<readonly AccessRecord[]> {
  const select = ['-l', 'app.kubernetes.io/name=meltemi-agent', '--tail=-1', '--since=10m', '--max-log-requests=20'];
  const text = await cluster.kubectl(['logs', '-n', MESH, ...select]);
  return text
    .split('\n')
    .filter((line) => line.includes('"scope":"access"') && line.includes(`"${namespace}"`))
    .map((line) => JSON.parse(line) as AccessRecord);
}

/** Sum of a counter over all agents. `name` may have labels: `istio_build{component="agent"}`. */
export async function agentMetric(cluster: TestCluster, name: string): Promise<number> {
  let sum = 0;
  for (const pod of await agentPods(cluster)) {
    const text = await cluster.kubectl(['get', '--raw', `/api/v1/namespaces/${MESH}/pods/${pod}:15020/proxy/metrics`]);
    const line = text.split('\n').find((each) => each.startsWith(`${name} `));
    sum += Number(line?.slice(name.length + 1) ?? 0);
  }
  return sum;
}

/** Names of the agents' pods; those on one node, if one is named. */
export async function agentPods(cluster: TestCluster, node?: string): Promise<readonly string[]> {
  const fields = node === undefined ? [] : ['--field-selector', `spec.nodeName=${node}`];
  const select = ['-l', 'app.kubernetes.io/name=meltemi-agent', ...fields, '-o', 'name'];
  const names = await cluster.kubectl(['get', 'pods', '-n', MESH, ...select]);
  return names
    .split('\n')
    .filter(Boolean)
    .map((each) => each.replace('pod/', ''));
}

export async function fieldOf(cluster: TestCluster, namespace: string, pod: string, path: string): Promise<string> {
  return (await cluster.kubectl(['get', 'pod', '-n', namespace, pod, '-o', `jsonpath=${path}`])).trim();
}

const PATIENCE = { timeoutMs: 90_000, everyMs: 100 };
