import type { Collection, Context } from '../../collections/collection.js';
import type { Graph } from '../../collections/graph.js';
import type { Authorization } from '../../gen/istio/security/authorization_pb.js';
import type { Workload } from '../../gen/istio/workload/workload_pb.js';
import type { KubernetesObject } from '../../model/kubernetes/object.js';
import { formatSpiffeId } from '../../model/spiffe-id.js';
import type { Inputs } from '../inputs/inputs.js';
import type { MeshOptions } from './mesh-options.js';
import { derivePolicies } from './policies.js';
import { labelSets } from './selection.js';
import { deriveServices, type MeshService } from './services.js';
import { type WarningFacts, warningsOf } from './warnings.js';
import { deriveWorkloads } from './workloads.js';

/** The mesh as it follows from the inputs. All collections are derived; nothing here is ever written to. */
export interface Mesh {
  /** By `namespace/hostname`. */
  readonly services: Collection<MeshService>;
  /** By uid. */
  readonly workloads: Collection<Workload>;
  /** By `namespace/name`. */
  readonly authorizations: Collection<Authorization>;
  /** Sentences on what has no effect, by `Kind namespace/name`. */
  readonly warnings: Collection<readonly string[]>;
  /** What warnings on any other object depend on, as it is now. */
  readonly facts: WarningFacts;
  /** The SPIFFE ids of the pods that live on a node: what its agent may ask certificates for. */
  identitiesOfNode(node: string): ReadonlySet<string>;
}

export function deriveMesh(graph: Graph, inputs: Inputs, options: MeshOptions): Mesh {
  const services = deriveServices(graph, inputs, options);
  const policies = derivePolicies(graph, inputs, options);
  const sets = labelSets(graph, inputs);
  const policyNames = graph.derive('policies of label sets', sets, (context, set) => policies.namesOf(context, set));
  const workloads = deriveWorkloads(
    graph,
    inputs,
    { services, labelSets: sets, policyNames, policyNamesOf: policies.namesOf },
    options,
  );
  const podsByNode = graph.index('Pods by node', inputs.Pod, ({ nodeName, phase }) =>
    nodeName === '' || phase === 'Succeeded' || phase === 'Failed' ? [] : [nodeName],
  );
  return {
    services,
    workloads,
    authorizations: policies.authorizations,
    warnings: deriveWarnings(graph, inputs, (context) => ({
      rootNamespace: options.rootNamespace,
      namespace: (name) => context.get(inputs.Namespace, name),
      generalPeerAuthentications: (name) => context.lookup(policies.generalPeerAuthentications, name),
      service: (key) => context.get(services, key),
    })),
    facts: {
      rootNamespace: options.rootNamespace,
      namespace: (name) => inputs.Namespace.get(name),
      generalPeerAuthentications: (name) => policies.generalPeerAuthentications.lookup(name),
      service: (key) => services.get(key),
    },
    identitiesOfNode(node) {
      return new Set(
        podsByNode
          .lookup(node)
          .map(({ metadata, serviceAccount }) =>
            formatSpiffeId({ trustDomain: options.trustDomain, namespace: metadata.namespace, serviceAccount }),
          ),
      );
    },
  };
}

/** One collection a kind of which something can be without effect. Pods are left out: there are too many of them. */
function deriveWarnings(
  graph: Graph,
  inputs: Inputs,
  facts: (context: Context) => WarningFacts,
): Collection<readonly string[]> {
  const of = <T extends KubernetesObject>(kind: T['kind'], input: Collection<T>) =>
    graph.derive(
      `warnings of ${input.name}`,
      input,
      (context, object) => {
        const sentences = warningsOf(object, facts(context));
        return sentences.length === 0 ? undefined : sentences;
      },
      { rekey: (key) => `${kind} ${key}` },
    );
  return graph.join('warnings', [
    of('Namespace', inputs.Namespace),
    of('Service', inputs.Service),
    of('ServiceEntry', inputs.ServiceEntry),
    of('WorkloadEntry', inputs.WorkloadEntry),
    of('AuthorizationPolicy', inputs.AuthorizationPolicy),
    of('PeerAuthentication', inputs.PeerAuthentication),
  ]);
}
