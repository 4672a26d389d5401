import type { Collection, Context, Index } from '../../collections/collection.js';
import type { Graph } from '../../collections/graph.js';
import { TunnelProtocol } from '../../gen/istio/workload/workload_pb.js';
import type { Pod } from '../../model/kubernetes/core.js';
import { keyOf } from '../../model/kubernetes/metadata.js';
import type { EndpointSlice } from '../../model/kubernetes/service.js';
import type { Inputs } from '../inputs/inputs.js';
import { entryPorts, slicePorts } from './endpoints.js';
import type { MeshOptions } from './mesh-options.js';
import { labelSetKey } from './selection.js';
import type { MeshService } from './services.js';
import { tunnelOf } from './workload-identity.js';
import type { EndpointOf } from './workload-messages.js';

/**
 * Endpoints that somebody gives by address, and captured pods that have these addresses. There the pod stands for
 * itself, whoever names it: it is reached through its tunnel, under its identity, while it is ready. A second workload
 * at its address, of which nothing is known, would be dialled in plaintext.
 */
export interface Claims {
  /** Whether an address is a captured pod's. `network` is the claimant's; empty is the cluster's own. */
  isPods(context: Context, address: string, network: string): boolean;
  /** What a pod serves because its address was named. */
  of(context: Context, pod: Pod): readonly EndpointOf[];
}

export interface ClaimReads {
  /** EndpointSlices of Services. */
  readonly slices: Collection<EndpointSlice>;
  readonly serviceOfSlice: (context: Context, slice: EndpointSlice) => MeshService | undefined;
  readonly servicesOfEntry: Index<MeshService>;
  /** Services that select a set of labels, by `labelSetKey`. */
  readonly servicesOfLabels: (context: Context, key: string) => readonly MeshService[];
}

export function deriveClaims(graph: Graph, inputs: Inputs, reads: ClaimReads, options: MeshOptions): Claims {
  const isHere = (network: string) => network === '' || network === options.network;
  const pods = graph.index('captured Pods by address', inputs.Pod, (pod) => (isCaptured(pod) ? pod.ips : []));
  const serviceEntries = graph.index('ServiceEntries by address', inputs.ServiceEntry, ({ endpoints }) => [
    ...new Set(endpoints.filter(({ network }) => isHere(network)).map(({ address }) => address)),
  ]);
  const workloadEntries = graph.index('WorkloadEntries by address', inputs.WorkloadEntry, ({ spec }) =>
    isHere(spec.network) ? [spec.address] : [],
  );
  const slices = graph.index('EndpointSlices by address', reads.slices, (slice) => [
    ...new Set(bareEndpoints(slice).flatMap(({ addresses }) => addresses.slice(0, 1))),
  ]);

  const at = (context: Context, ip: string): readonly EndpointOf[] => [
    ...context.lookup(serviceEntries, ip).flatMap(({ metadata, endpoints }) => {
      const ports = endpoints.find(({ address, network }) => address === ip && isHere(network))?.ports ?? new Map();
      const services = context.lookup(reads.servicesOfEntry, keyOf(metadata));
      return services.map((service) => ({ key: service.key, ports: entryPorts(service, ports) }));
    }),
    ...context
      .lookup(workloadEntries, ip)
      .flatMap(({ metadata: { namespace, labels }, spec }) =>
        reads
          .servicesOfLabels(context, labelSetKey({ namespace, labels }))
          .map((service) => ({ key: service.key, ports: entryPorts(service, spec.ports) })),
      ),
    ...context.lookup(slices, ip).flatMap((slice) => {
      const service = reads.serviceOfSlice(context, slice);
      const isReady = bareEndpoints(slice).some(({ addresses, ready }) => ready && addresses[0] === ip);
      return service === undefined || !isReady ? [] : [{ key: service.key, ports: slicePorts(service, slice.ports) }];
    }),
  ];

  return {
    isPods: (context, address, network) => isHere(network) && context.lookup(pods, address).length > 0,
    of: (context, pod) => (isCaptured(pod) ? pod.ips.flatMap((ip) => at(context, ip)) : []),
  };
}

/** Endpoints of a slice that name no pod. */
export function bareEndpoints({ endpoints }: EndpointSlice): EndpointSlice['endpoints'] {
  return endpoints.filter(({ pod, addresses }) => pod === undefined && addresses.length > 0);
}

function isCaptured({ metadata, hostNetwork, phase }: Pod): boolean {
  if (hostNetwork || phase === 'Succeeded' || phase === 'Failed') return false;
  return tunnelOf(metadata.labels, metadata.annotations).tunnelProtocol === TunnelProtocol.HBONE;
}
