import type { Graph } from '../../../collections/graph.js';
import type { KubeApi } from '../../../kube/api.js';
import { applyChanges, type InputContext, type Inputs } from '../inputs.js';
import { type KubernetesOptions, KubernetesSource } from './kubernetes-source.js';

/** Feeds the inputs from the API server, says in the log what is wrong with it, and counts. */
export function kubernetesInput(
  api: KubeApi,
  graph: Graph,
  inputs: Inputs,
  { clock, log, metrics, ...context }: InputContext,
  options: Partial<KubernetesOptions> = {},
): KubernetesSource {
  const transactions = metrics.counter('meltemi_source_transactions_total', 'Changes of the source that took effect.');
  const rejected = metrics.counter('meltemi_source_rejected_total', 'Versions of objects that were no good.');
  const troubles = metrics.counter('meltemi_source_troubles_total', 'Times the source could not be read or watched.');
  const source = new KubernetesSource(
    api,
    {
      apply(changes) {
        const before = graph.version;
        graph.transact(() => applyChanges(inputs, changes));
        if (graph.version === before) return;
        transactions.inc();
        log.debug({ objects: changes.length, version: graph.version }, 'source changed');
      },
      rejected({ object, problems, kept, closed }) {
        rejected.inc();
        context.rejected?.(object);
        const consequence = kept
          ? 'its last good version stays in force'
          : closed
            ? 'whatever it selects is held to the strictest it may have meant'
            : 'it is not in force';
        log.error({ object, problems, kept, closed }, `an object is no good: ${consequence}`);
      },
      trouble(kind, { what, message }) {
        troubles.inc();
        log.warn({ kind, error: message }, `${what}; what is known stays in force`);
      },
    },
    clock,
    options,
  );
  metrics.gauge('meltemi_source_objects', 'Objects in force.', [], () => source.counts().objects);
  metrics.gauge('meltemi_source_bad_objects', 'Objects that are no good now.', [], () => source.counts().badObjects);
  metrics.gauge('meltemi_source_closed_policies', 'Policies that are no good and deny in full.', [], () => {
    return source.counts().closedPolicies;
  });
  return source;
}
