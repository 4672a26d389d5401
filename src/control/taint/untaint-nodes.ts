import { ApiError, type KubeApi } from '../../kube/api.js';
import { type ReflectHandler, reflect } from '../../kube/reflect.js';
import { RESOURCES } from '../../kube/resources.js';
import type { Clock } from '../../lib/clock.js';
import { logger } from '../../telemetry/log.js';
import type { MetricsRegistry } from '../../telemetry/metrics.js';
import { whileLeading } from '../leader/fenced-api.js';
import type { Leader } from '../leader/leader.js';
import { type AgentPod, agentPod, decideTaint, STARTUP_TAINT, type TaintedNode, taintedNode } from './decide.js';

export interface UntaintParts {
  readonly kube: KubeApi;
  readonly leader: Leader;
  /** Where the agents are. */
  readonly rootNamespace: string;
  readonly clock: Clock;
  readonly metrics: MetricsRegistry;
}

/**
 * Takes the startup taint off a node once its agent is ready, as long as this process leads. Nobody puts it on again
 * here: a node whose agent goes away later holds its pods by the CNI plugin.
 */
export function untaintNodes({ kube, leader, rootNamespace, clock, metrics }: UntaintParts): void {
  const log = logger('taint');
  const api = whileLeading(kube, leader);
  const removed = metrics.counter('meltemi_nodes_untainted_total', 'Startup taints that were removed.');
  const nodes = new Map<string, TaintedNode>();
  const agents = new Map<string, AgentPod>();
  const tainted = () => [...nodes.values()].filter(({ taints }) => taints.some(({ key }) => key === STARTUP_TAINT));
  metrics.gauge('meltemi_tainted_nodes', 'Nodes that wait for their agent; known to the leader.', [], () => {
    return tainted().length;
  });

  const remove = async (node: TaintedNode): Promise<void> => {
    const decision = decideTaint(node, agents.values());
    if (decision.action === 'keep') return;
    // Of a list a merge patch knows only the whole: with the version, it is that of the node as it was read.
    const { name, resourceVersion } = node;
    const taints = decision.taints.length === 0 ? null : decision.taints;
    await api.patch(RESOURCES.Node, { name }, { metadata: { resourceVersion }, spec: { taints } });
    nodes.set(name, { ...node, taints: decision.taints });
    removed.inc();
    log.info({ node: name, because: decision.because }, 'the startup taint is removed');
  };

  leader.run('startup taints', async (signal) => {
    const failed = Promise.withResolvers<never>();
    let looking = Promise.resolve();
    const look = (): void => {
      looking = looking
        .then(async () => {
          for (const node of signal.aborted ? [] : tainted()) await remove(node).catch(unlessConflict);
        })
        .catch(failed.reject);
    };
    const watched = [
      reflect(kube, RESOURCES.Node, { clock, read: taintedNode, handler: into(nodes, look) }),
      reflect(kube, RESOURCES.Pod, {
        clock,
        selection: { namespace: rootNamespace, labelSelector: 'app.kubernetes.io/name=meltemi-agent' },
        read: agentPod,
        handler: into(agents, look),
      }),
    ];
    try {
      await Promise.race([aborted(signal), failed.promise]);
    } finally {
      for (const each of watched) each.close();
      await looking;
      nodes.clear();
      agents.clear();
    }
  });
}

/** Keeps what there is by name, and says when it is another. */
function into<T extends { readonly name: string }>(known: Map<string, T>, changed: () => void): ReflectHandler<T> {
  return {
    synced(all) {
      known.clear();
      for (const each of all) known.set(each.name, each);
      changed();
    },
    changed({ type, object }) {
      if (type === 'deleted') known.delete(object.name);
      else known.set(object.name, object);
      changed();
    },
  };
}

/** Somebody has changed the node since, or it is gone: its next version is on its way, and is looked at. */
function unlessConflict(error: unknown): void {
  if (!(error instanceof ApiError) || (error.status !== 409 && error.status !== 404)) throw error;
}

function aborted(signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal.aborted) resolve();
    else signal.addEventListener('abort', () => resolve(), { once: true });
  });
}
