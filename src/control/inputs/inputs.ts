import type { Graph, Source } from '../../collections/graph.js';
import type { Clock } from '../../lib/clock.js';
import type { Namespace, Node, Pod } from '../../model/kubernetes/core.js';
import { keyOf } from '../../model/kubernetes/metadata.js';
import type { ServiceEntry, WorkloadEntry } from '../../model/kubernetes/networking.js';
import type { KubernetesObject } from '../../model/kubernetes/object.js';
import type { AuthorizationPolicy, PeerAuthentication } from '../../model/kubernetes/security.js';
import type { EndpointSlice, Service } from '../../model/kubernetes/service.js';
import type { Logger } from '../../telemetry/log.js';
import type { MetricsRegistry } from '../../telemetry/metrics.js';

/** What every source of truth feeds: one collection a kind, keyed by `namespace/name` (cluster-scoped kinds by name). */
export interface Inputs {
  readonly Namespace: Source<Namespace>;
  readonly Node: Source<Node>;
  readonly Pod: Source<Pod>;
  readonly Service: Source<Service>;
  readonly EndpointSlice: Source<EndpointSlice>;
  readonly ServiceEntry: Source<ServiceEntry>;
  readonly WorkloadEntry: Source<WorkloadEntry>;
  readonly AuthorizationPolicy: Source<AuthorizationPolicy>;
  readonly PeerAuthentication: Source<PeerAuthentication>;
}

/** A source of truth that feeds the inputs, whatever it reads. */
export interface InputSource {
  /** Resolves when everything has been read and applied once; then changes follow by themselves. */
  start(): Promise<void>;
  /** A few numbers, for the log. */
  counts(): Readonly<Record<string, number>>;
  /** All there is to know, for the status page. */
  status(): unknown;
  close(): void;
}

/** What a source is given to work with. */
export interface InputContext {
  readonly clock: Clock;
  readonly log: Logger;
  readonly metrics: MetricsRegistry;
  /** Hears of each object that is no good, `Kind namespace/name`, where the source knows it by that. */
  readonly rejected?: (object: string) => void;
}

/** An object as it is now, or the one that is gone. */
export interface ObjectChange {
  readonly object: KubernetesObject;
  readonly gone: boolean;
}

export function makeInputs(graph: Graph): Inputs {
  return {
    Namespace: graph.source('Namespaces'),
    Node: graph.source('Nodes'),
    Pod: graph.source('Pods'),
    Service: graph.source('Services'),
    EndpointSlice: graph.source('EndpointSlices'),
    ServiceEntry: graph.source('ServiceEntries'),
    WorkloadEntry: graph.source('WorkloadEntries'),
    AuthorizationPolicy: graph.source('AuthorizationPolicies'),
    PeerAuthentication: graph.source('PeerAuthentications'),
  };
}

/** To be called inside a transaction. */
export function applyChanges(inputs: Inputs, changes: Iterable<ObjectChange>): void {
  for (const { object, gone } of changes) {
    const source = inputs[object.kind] as Source<KubernetesObject>;
    if (gone) source.delete(keyOf(object.metadata));
    else source.set(keyOf(object.metadata), object);
  }
}
