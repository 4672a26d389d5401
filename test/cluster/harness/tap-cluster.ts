/** What tests on a cluster need of tap: a namespace that goes with the test. */
import { randomBytes } from 'node:crypto';
import { until } from './shell.js';
import type { TestCluster } from './suite.js';

interface Test {
  teardown(undo: () => Promise<void>): void;
}

/** Makes a namespace with a name of its own, labelled as given; it is deleted at the end of the test. */
export async function namespaceFor(
  t: Test,
  cluster: TestCluster,
  labels: Readonly<Record<string, string>> = {},
): Promise<string> {
  const name = `t-${randomBytes(4).toString('hex')}`;
  await cluster.kubectl(['create', '-f', '-'], { apiVersion: 'v1', kind: 'Namespace', metadata: { name, labels } });
  t.teardown(async () => {
    await cluster.kubectl(['delete', 'namespace', name, '--wait=false']);
  });
  return name;
}

/** Applies objects and waits until Deployments are rolled out and Pods are ready. */
export async function applyAndWait(cluster: TestCluster, ...objects: readonly object[]): Promise<void> {
  await cluster.kubectl(['apply', '-f', '-'], { apiVersion: 'v1', kind: 'List', items: objects });
  for (const object of objects) {
    const { kind, metadata } = object as { kind: string; metadata: { name: string; namespace: string } };
    const target = [`${kind.toLowerCase()}/${metadata.name}`, '-n', metadata.namespace, '--timeout=60s'];
    if (kind === 'Pod') await cluster.kubectl(['wait', '--for=condition=Ready', ...target], undefined, 70_000);
    if (kind === 'Deployment') await cluster.kubectl(['rollout', 'status', ...target], undefined, 70_000);
  }
}

/** Waits until a client in a pod reaches a Service: its rules come to the nodes some time after its pods are ready. */
export function awaitService(cluster: TestCluster, namespace: string, pod: string, url: string): Promise<boolean> {
  return until(`${url} answers`, async () => (await clientIn(cluster, namespace, pod, ['--url', url])).ok === 1);
}

/** What `app client` prints. */
export interface Sums {
  readonly attempts: number;
  readonly ok: number;
  readonly pods: Readonly<Record<string, number>>;
  readonly sources: Readonly<Record<string, number>>;
  readonly errors: Readonly<Record<string, number>>;
  readonly latencyMs: { readonly p50: number; readonly p99: number; readonly max: number };
}

/** Runs `app client` in a pod (or `deployment/NAME`). */
export async function clientIn(
  cluster: TestCluster,
  namespace: string,
  pod: string,
  args: readonly string[],
): Promise<Sums> {
  const output = await cluster.kubectl(['exec', '-n', namespace, pod, '--', '/bin/app', 'client', ...args]);
  return JSON.parse(output) as Sums;
}
