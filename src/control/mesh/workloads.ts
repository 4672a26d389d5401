import type { Collection, Context } from '../../collections/collection.js';
import type { Graph } from '../../collections/graph.js';
import type { Workload } from '../../gen/istio/workload/workload_pb.js';
import { keyOf } from '../../model/kubernetes/metadata.js';
import type { EndpointSlice } from '../../model/kubernetes/service.js';
import type { Inputs } from '../inputs/inputs.js';
import { bareEndpoints, deriveClaims } from './claims.js';
import { entryPorts, podPorts, slicePorts } from './endpoints.js';
import { nodeLocality } from './locality.js';
import type { MeshOptions } from './mesh-options.js';
import { indexBySelector, type LabelSet, labelSetKey, selecting } from './selection.js';
import { type MeshService, serviceHostname } from './services.js';
import {
  entryUid,
  entryWorkload,
  podUid,
  podWorkload,
  serviceEntryWorkloads,
  sliceWorkloads,
} from './workload-messages.js';

/** Everything a workload's derivation reads. */
export interface WorkloadReads {
  readonly services: Collection<MeshService>;
  readonly labelSets: Collection<LabelSet>;
  /** Names of the policies that select a set of labels, by `labelSetKey`. */
  readonly policyNames: Collection<readonly string[]>;
  /** The same for labels that no pod or WorkloadEntry has. */
  readonly policyNamesOf: (context: Context, set: LabelSet) => readonly string[];
}

/** All workloads by uid: pods, WorkloadEntries, endpoints of ServiceEntries, and endpoints given by hand. */
export function deriveWorkloads(
  graph: Graph,
  inputs: Inputs,
  reads: WorkloadReads,
  options: MeshOptions,
): Collection<Workload> {
  const { services } = reads;
  const bySelector = indexBySelector(graph, 'services by selector', services, ({ message, selector }) => ({
    namespace: message.namespace,
    // A Service without a selector selects nobody.
    selector: selector !== undefined && Object.keys(selector).length > 0 ? selector : undefined,
  }));
  const selected = graph.derive('services of label sets', reads.labelSets, (context, { namespace, labels }) =>
    selecting(context, bySelector, namespace, labels, ({ selector }) => selector)
      .map(({ key }) => key)
      .sort(),
  );
  const slices = graph.derive('EndpointSlices of Services', inputs.EndpointSlice, (context, slice) => {
    const service = context.get(services, sliceServiceKey(slice, options));
    return slice.addressType === 'FQDN' || service?.from !== 'Service' ? undefined : slice;
  });
  // Pods that a selector finds need no slice; and slices change with every pod of theirs.
  const unselected = graph.derive('EndpointSlices of Services without selector', slices, (context, slice) => {
    const selector = context.get(services, sliceServiceKey(slice, options))?.selector ?? {};
    return Object.keys(selector).length === 0 ? slice : undefined;
  });
  const slicesByPod = graph.index('EndpointSlices by Pod', unselected, (slice) => [
    ...new Set(slice.endpoints.map(({ pod }) => pod).filter((pod) => pod !== undefined)),
  ]);
  const localities = graph.derive('localities of Nodes', inputs.Node, (_, node) => nodeLocality(node.metadata.labels));
  const servicesOf = (context: Context, key: string) =>
    (context.get(selected, key) ?? []).map((each) => context.get(services, each)).filter((each) => each !== undefined);
  const entryServices = graph.index('services by ServiceEntry', services, ({ from, source }) =>
    from === 'ServiceEntry' ? [source] : [],
  );
  const serviceOfSlice = (context: Context, slice: EndpointSlice) =>
    context.get(services, sliceServiceKey(slice, options));
  const claims = deriveClaims(
    graph,
    inputs,
    { slices, serviceOfSlice, servicesOfEntry: entryServices, servicesOfLabels: servicesOf },
    options,
  );

  const ofPods = graph.derive(
    'workloads of Pods',
    inputs.Pod,
    (context, pod) => {
      if (pod.phase === 'Succeeded' || pod.phase === 'Failed' || pod.ips.length === 0) return undefined;
      const labelsKey = labelSetKey({ namespace: pod.metadata.namespace, labels: pod.metadata.labels });
      const endpoints = servicesOf(context, labelsKey).map((service) => ({
        key: service.key,
        ports: podPorts(service, pod.containerPorts),
      }));
      const byHand = context.lookup(slicesByPod, keyOf(pod.metadata)).flatMap((slice) => {
        const service = context.get(services, sliceServiceKey(slice, options));
        // A workload is healthy for all of its services or for none, so one that is not ready for this is none of it.
        const isReady = slice.endpoints.some((each) => each.ready && each.pod === keyOf(pod.metadata));
        return service === undefined || !isReady ? [] : [{ key: service.key, ports: slicePorts(service, slice.ports) }];
      });
      return podWorkload(
        pod,
        {
          services: [...endpoints, ...byHand, ...claims.of(context, pod)],
          policies: context.get(reads.policyNames, labelsKey) ?? [],
          locality: context.get(localities, pod.nodeName),
        },
        options,
      );
    },
    { rekey: (key) => podUid(options.cluster, key) },
  );

  const ofWorkloadEntries = graph.derive(
    'workloads of WorkloadEntries',
    inputs.WorkloadEntry,
    (context, entry) => {
      if (claims.isPods(context, entry.spec.address, entry.spec.network)) return undefined;
      const labelsKey = labelSetKey({ namespace: entry.metadata.namespace, labels: entry.metadata.labels });
      const endpoints = servicesOf(context, labelsKey).map((service) => ({
        key: service.key,
        ports: entryPorts(service, entry.spec.ports),
      }));
      return entryWorkload(entry, endpoints, context.get(reads.policyNames, labelsKey) ?? [], options);
    },
    { rekey: (key) => entryUid(options.cluster, key) },
  );

  const ofServiceEntries = graph.deriveMany(
    'workloads of ServiceEntries',
    inputs.ServiceEntry,
    (context, entry) => {
      const { namespace, labels } = entry.metadata;
      const policies = reads.policyNamesOf(context, { namespace, labels });
      const endpoints = entry.endpoints.filter(({ address, network }) => !claims.isPods(context, address, network));
      if (endpoints.length === 0 && entry.endpoints.length > 0) return [];
      return serviceEntryWorkloads(
        { ...entry, endpoints },
        context.lookup(entryServices, keyOf(entry.metadata)),
        policies,
        options,
      );
    },
    ({ uid }) => uid,
  );

  const ofSlices = graph.deriveMany(
    'workloads of EndpointSlices',
    slices,
    (context, slice) => {
      const service = serviceOfSlice(context, slice);
      const endpoints = bareEndpoints(slice).filter(({ addresses }) => !claims.isPods(context, addresses[0] ?? '', ''));
      return service === undefined ? [] : sliceWorkloads({ ...slice, endpoints }, service, options);
    },
    ({ uid }) => uid,
  );

  return graph.join('workloads', [ofPods, ofWorkloadEntries, ofServiceEntries, ofSlices]);
}

function sliceServiceKey(slice: EndpointSlice, options: MeshOptions): string {
  const { namespace } = slice.metadata;
  return `${namespace}/${serviceHostname(namespace, slice.service, options)}`;
}
