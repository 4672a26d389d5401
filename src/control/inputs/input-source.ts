import type { Graph } from '../../collections/graph.js';
import type { KubeApi } from '../../kube/api.js';
import type { SourceConfig } from '../config.js';
import { directoryInput } from './directory/directory-input.js';
import type { InputContext, InputSource, Inputs } from './inputs.js';
import { kubernetesInput } from './kubernetes/kubernetes-input.js';

/** The source of truth that the configuration names, ready to be started. */
export function inputSource(
  config: SourceConfig,
  kube: KubeApi | undefined,
  graph: Graph,
  inputs: Inputs,
  context: InputContext,
): InputSource {
  if ('directory' in config) return directoryInput(config.directory, graph, inputs, context);
  if (kube === undefined) throw new Error('a bug: the source is the API server, and nobody has connected to it');
  return kubernetesInput(kube, graph, inputs, context);
}
