import type { Collection, Context, Index } from '../../collections/collection.js';
import type { Graph } from '../../collections/graph.js';
import type { Pod } from '../../model/kubernetes/core.js';
import { type Labels, type Selector, selects } from '../../model/kubernetes/metadata.js';
import type { WorkloadEntry } from '../../model/kubernetes/networking.js';
import type { Inputs } from '../inputs/inputs.js';

/**
 * Who is selected by what. Pods of one Deployment share their labels, so selectors are matched once for each set of
 * labels and not once for each pod.
 */
export interface LabelSet {
  readonly namespace: string;
  readonly labels: Labels;
}

/** The sets of labels in use by anything that can be selected, by `labelSetKey`. */
export function labelSets(graph: Graph, inputs: Inputs): Collection<LabelSet> {
  const of = ({ metadata }: Pod | WorkloadEntry): readonly LabelSet[] => [
    { namespace: metadata.namespace, labels: metadata.labels },
  ];
  return graph.join('label sets', [
    graph.deriveMany('label sets of Pods', inputs.Pod, (_, pod) => of(pod), labelSetKey),
    graph.deriveMany('label sets of WorkloadEntries', inputs.WorkloadEntry, (_, entry) => of(entry), labelSetKey),
  ]);
}

export function labelSetKey({ namespace, labels }: LabelSet): string {
  const pairs = Object.keys(labels).sort();
  return `${namespace}\n${pairs.map((key) => `${key}=${labels[key]}`).join('\n')}`;
}

/**
 * An index of things with a selector, such that whatever selects a set of labels is found under one of its labels.
 * Without a selector a thing is not found.
 */
export function indexBySelector<T>(
  graph: Graph,
  name: string,
  of: Collection<T>,
  selection: (value: T) => { readonly namespace: string; readonly selector: Selector },
): Index<T> {
  return graph.index(name, of, (value) => {
    const { namespace, selector } = selection(value);
    if (selector === undefined) return [];
    const first = Object.keys(selector).sort()[0];
    return [first === undefined ? `${namespace}\n` : `${namespace}\n${first}=${selector[first]}`];
  });
}

/** Everything in `namespace` that selects `labels`. */
export function selecting<T>(
  context: Context,
  index: Index<T>,
  namespace: string,
  labels: Labels,
  selectorOf: (value: T) => Selector,
): readonly T[] {
  const keys = [`${namespace}\n`, ...Object.keys(labels).map((key) => `${namespace}\n${key}=${labels[key]}`)];
  return keys.flatMap((key) => context.lookup(index, key)).filter((value) => selects(selectorOf(value) ?? {}, labels));
}
