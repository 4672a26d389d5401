import { create } from '@bufbuild/protobuf';
import {
  LoadBalancing_HealthPolicy as HealthPolicy,
  type LoadBalancing,
  LoadBalancingSchema,
  LoadBalancing_Mode as Mode,
  LoadBalancing_Scope as Scope,
} from '../../gen/istio/workload/workload_pb.js';
import type { Labels } from '../../model/kubernetes/metadata.js';
import type { Service } from '../../model/kubernetes/service.js';

/** How an agent picks among a service's endpoints; undefined where nothing is asked for. */
export function serviceLoadBalancing(service: Service, namespaceAnnotations: Labels): LoadBalancing | undefined {
  const preference =
    service.internalTrafficPolicy === 'Local'
      ? create(LoadBalancingSchema, { mode: Mode.STRICT, routingPreference: [Scope.NODE] })
      : distribution(service.trafficDistribution, service.metadata.annotations, namespaceAnnotations);
  if (!service.publishNotReadyAddresses) return preference;
  const { mode, routingPreference } = preference ?? create(LoadBalancingSchema);
  return create(LoadBalancingSchema, { mode, routingPreference, healthPolicy: HealthPolicy.ALLOW_ALL });
}

/** For the hosts of a ServiceEntry. With `passthrough` connections go where they were going. */
export function entryLoadBalancing(
  passthrough: boolean,
  annotations: Labels,
  namespaceAnnotations: Labels,
): LoadBalancing | undefined {
  if (!passthrough) return distribution('', annotations, namespaceAnnotations);
  return create(LoadBalancingSchema, { mode: Mode.PASSTHROUGH, healthPolicy: HealthPolicy.ALLOW_ALL });
}

/** The field first, then the service's annotation, then the namespace's. */
function distribution(field: string, annotations: Labels, namespaceAnnotations: Labels): LoadBalancing | undefined {
  const wanted = field || (annotations[ANNOTATION] ?? namespaceAnnotations[ANNOTATION] ?? '');
  const routingPreference = DISTRIBUTIONS.get(wanted.toLowerCase());
  if (routingPreference === undefined) return undefined;
  return create(LoadBalancingSchema, { mode: Mode.FAILOVER, routingPreference: [...routingPreference] });
}

const ANNOTATION = 'networking.istio.io/traffic-distribution';
const SAME_ZONE: readonly Scope[] = [Scope.NETWORK, Scope.REGION, Scope.ZONE];
const DISTRIBUTIONS: ReadonlyMap<string, readonly Scope[]> = new Map([
  ['preferclose', SAME_ZONE],
  ['prefersamezone', SAME_ZONE],
  ['prefersamenode', [...SAME_ZONE, Scope.SUBZONE, Scope.NODE]],
]);
