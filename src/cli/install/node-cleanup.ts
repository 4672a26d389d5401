import type { ApiObject, KubeApi } from '../../kube/api.js';
import { RESOURCES } from '../../kube/resources.js';
import { INSTANCE, listAll } from './objects.js';
import { type RolloutOptions, waitForRollout } from './rollout.js';

/**
 * A short-lived DaemonSet that takes back on every node what agents did there. It is the agent's with another command,
 * so it runs where agents ran, sees the same paths and may do the same; its pods are ready when their node is clean.
 */
export function cleanupDaemonSet(agent: ApiObject): ApiObject {
  const spec = agent.spec as { template: { spec: PodSpec; metadata: object } };
  const pod = spec.template.spec;
  const container = pod.containers[0];
  if (container === undefined) throw new Error('a bug: the agents have no container');
  // Without the identity: there may be no control plane any more, and nobody is asked.
  const gone = new Set(['root-cert', 'crl', 'token']);
  const { readinessProbe, ports, ...kept } = container;
  const labels = { 'app.kubernetes.io/name': CLEANUP, 'istio.io/dataplane-mode': 'none' };
  const { serviceAccountName, ...rest } = pod;
  return {
    apiVersion: 'apps/v1',
    kind: 'DaemonSet',
    metadata: { ...agent.metadata, name: CLEANUP },
    spec: {
      selector: { matchLabels: { 'app.kubernetes.io/name': CLEANUP } },
      template: {
        metadata: { labels },
        spec: {
          ...rest,
          automountServiceAccountToken: false,
          terminationGracePeriodSeconds: 1,
          initContainers: [
            {
              ...kept,
              name: 'cleanup',
              args: ['node-cleanup', '--config', '/etc/meltemi/agent.yaml'],
              volumeMounts: container.volumeMounts.filter(({ name }) => !gone.has(name)),
            },
          ],
          containers: [
            {
              name: 'done',
              image: container.image,
              imagePullPolicy: container.imagePullPolicy,
              command: ['/usr/bin/node', '-e', 'setInterval(() => {}, 2 ** 30)'],
              securityContext: { ...NOTHING_ALLOWED },
            },
          ],
          volumes: pod.volumes.filter(({ name }) => !gone.has(name)),
        },
      },
    },
  };
}

/**
 * Cleans every node, and goes again. Rejects when some node did not get clean in time; the message has what its pod
 * printed.
 */
export async function cleanNodes(api: KubeApi, agent: ApiObject, options: RolloutOptions): Promise<void> {
  const wanted = cleanupDaemonSet(agent);
  const { namespace = '' } = wanted.metadata;
  await api.apply(RESOURCES.DaemonSet, wanted, { force: true });
  try {
    await waitForRollout(api, RESOURCES.DaemonSet, wanted, options);
  } catch (error) {
    const said = await whatTheySaid(api, namespace);
    throw new Error(`${error instanceof Error ? error.message : String(error)}${said}`);
  }
  await deleteDaemonSet(api, namespace, CLEANUP, options);
}

/** Deletes a DaemonSet, and waits until its pods are gone. */
export async function deleteDaemonSet(
  api: KubeApi,
  namespace: string,
  name: string,
  { timeoutMs, now, pause, say }: RolloutOptions,
): Promise<void> {
  const until = now() + timeoutMs;
  const found = await api.delete(RESOURCES.DaemonSet, { namespace, name }, { propagation: 'Foreground' });
  const labelSelector = podsOf(name);
  const pods = () => listAll(api, RESOURCES.Pod, { namespace, labelSelector });
  let left = await pods();
  if (found) say(`DaemonSet ${namespace}/${name}: removed, waiting for ${left.length} pods to end`);
  while (left.length > 0) {
    if (now() > until) {
      const names = left.map(({ metadata }) => metadata.name).join(', ');
      throw new Error(`these pods do not end: ${names}; is their node there?`);
    }
    await pause(500);
    left = await pods();
  }
}

/** Agents of a revision have the name of all agents, and their revision's instance. */
function podsOf(daemonSet: string): string {
  if (daemonSet === CLEANUP) return `app.kubernetes.io/name=${CLEANUP}`;
  return `app.kubernetes.io/name=meltemi-agent,${INSTANCE}=${daemonSet.replace('-agent', '')}`;
}

async function whatTheySaid(api: KubeApi, namespace: string): Promise<string> {
  const pods = await listAll(api, RESOURCES.Pod, { namespace, labelSelector: `app.kubernetes.io/name=${CLEANUP}` });
  const logs = await Promise.all(
    pods.map(async ({ metadata, spec }) => {
      const path = `/api/v1/namespaces/${namespace}/pods/${metadata.name}/log?container=cleanup&tailLines=20`;
      const text = await api.request('GET', path).catch(() => '');
      const { nodeName = '?' } = (spec ?? {}) as { nodeName?: string };
      return typeof text === 'string' && text !== '' ? `\n${nodeName} said:\n${text.trimEnd()}` : '';
    }),
  );
  return logs.join('');
}

interface PodSpec {
  readonly serviceAccountName?: string;
  readonly containers: readonly {
    readonly image: string;
    readonly imagePullPolicy: string;
    readonly readinessProbe?: unknown;
    readonly ports?: unknown;
    readonly volumeMounts: readonly { readonly name: string }[];
  }[];
  readonly volumes: readonly { readonly name: string }[];
}

const NOTHING_ALLOWED = {
  runAsNonRoot: true,
  runAsUser: 1337,
  allowPrivilegeEscalation: false,
  readOnlyRootFilesystem: true,
  capabilities: { drop: ['ALL'] },
} as const;
const CLEANUP = 'meltemi-node-cleanup';
