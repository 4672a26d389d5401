import type { Collection } from '../../collections/collection.js';
import type { Graph } from '../../collections/graph.js';
import type { Authorization } from '../../gen/istio/security/authorization_pb.js';
import type { Workload } from '../../gen/istio/workload/workload_pb.js';
import { keyOf } from '../../model/kubernetes/metadata.js';
import { formatSpiffeId } from '../../model/spiffe-id.js';
import type { Inputs } from '../inputs/inputs.js';
import type { MeshOptions } from './mesh-options.js';
import { derivePolicies } from './policies.js';
import { labelSets } from './selection.js';
import { deriveServices, type MeshService } from './services.js';
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
    warnings: graph.join('warnings', [policies.warnings, deriveServiceWarnings(graph, inputs, services)]),
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

function deriveServiceWarnings(
  graph: Graph,
  inputs: Inputs,
  services: Collection<MeshService>,
): Collection<readonly string[]> {
  const warnings = graph.deriveMany(
    'service warnings',
    inputs.ServiceEntry,
    (context, entry) => {
      const { namespace } = entry.metadata;
      const source = keyOf(entry.metadata);
      const sentences = entry.hosts.flatMap((host) => {
        const winner = context.get(services, `${namespace}/${host}`);
        const lost = winner !== undefined && (winner.from !== 'ServiceEntry' || winner.source !== source);
        return [
          ...(lost ? [`host ${host} has no effect: ${winner.from} ${winner.source} has it already`] : []),
          ...(host.startsWith('*') ? [`host ${host} needs a waypoint: node agents cannot resolve it`] : []),
        ];
      });
      const unix = entry.endpoints.filter(({ address }) => address.startsWith('unix:'));
      sentences.push(
        ...unix.map(({ address }) => `endpoint ${address} has no effect: it cannot be reached from elsewhere`),
      );
      if (entry.exportTo.some((each) => each !== '*')) {
        sentences.push('exportTo has no effect: agents show its hosts to every namespace');
      }
      return sentences.length === 0 ? [] : [{ object: `ServiceEntry ${source}`, sentences }];
    },
    ({ object }) => object,
  );
  return graph.derive('sentences of service warnings', warnings, (_, { sentences }) => sentences);
}
