import type { Namespace, Pod } from '../../model/kubernetes/core.js';
import { isPartialWildcard } from '../../model/kubernetes/host-names.js';
import { keyOf, type Labels } from '../../model/kubernetes/metadata.js';
import type { ServiceEntry, WorkloadEntry } from '../../model/kubernetes/networking.js';
import type { KubernetesObject } from '../../model/kubernetes/object.js';
import type { AuthorizationPolicy, PeerAuthentication } from '../../model/kubernetes/security.js';
import { impossibleLabels } from '../../model/kubernetes/selector.js';
import { UNIX } from '../../model/kubernetes/service-entry-checks.js';
import { toAuthorization } from './authorization.js';
import { peerAuthenticationWarnings } from './peer-authentication.js';
import type { MeshService } from './services.js';

/** What a warning may depend on besides the object itself. */
export interface WarningFacts {
  readonly rootNamespace: string;
  /** Undefined when it is not known. */
  namespace(name: string): Namespace | undefined;
  /** Those of a namespace that have no selector. */
  generalPeerAuthentications(namespace: string): readonly PeerAuthentication[];
  /** Who has a host name in a namespace, by `namespace/hostname`. */
  service(key: string): MeshService | undefined;
}

/**
 * What of a good object has no effect, or another than its words: sentences whose subject is the object. The same for
 * the log, the status page, the conditions of an object, and whoever applies it.
 */
export function warningsOf(object: KubernetesObject, facts: WarningFacts): readonly string[] {
  switch (object.kind) {
    case 'AuthorizationPolicy':
      return [...ofAuthorizationPolicy(object, facts.rootNamespace), ...ofScope(object, facts)];
    case 'PeerAuthentication':
      return [
        ...peerAuthenticationWarnings(
          object,
          facts.generalPeerAuthentications(object.metadata.namespace),
          facts.rootNamespace,
        ),
        ...ofScope(object, facts),
      ];
    case 'ServiceEntry':
      return [...ofServiceEntry(object, facts), ...ofWaypointLabels(object.metadata.labels)];
    case 'WorkloadEntry':
      return [...ofWorkloadEntry(object), ...ofWaypointLabels(object.metadata.labels)];
    case 'Service':
      return ofWaypointLabels(object.metadata.labels);
    case 'Namespace':
    case 'Pod':
      return ofEnrolmentLabels(object);
    default:
      return [];
  }
}

/** What a policy says that node agents cannot do, whatever else there is. */
export function ofAuthorizationPolicy(policy: AuthorizationPolicy, rootNamespace: string): readonly string[] {
  return toAuthorization(policy, rootNamespace).warnings;
}

function ofScope(policy: AuthorizationPolicy | PeerAuthentication, facts: WarningFacts): readonly string[] {
  const { namespace } = policy.metadata;
  const sentences = impossibleLabels(policy.selector ?? {}).map(
    (label) => `selector has ${JSON.stringify(label)}, which no workload can have: it selects nobody`,
  );
  if (
    policy.kind === 'AuthorizationPolicy' &&
    policy.selector !== undefined &&
    Object.keys(policy.selector).length === 0
  )
    sentences.push('selector has no labels: it selects every workload');
  const labels = facts.namespace(namespace)?.metadata.labels;
  if (labels !== undefined && namespace !== facts.rootNamespace && labels[MODE_LABEL] !== 'ambient') {
    sentences.push(
      `namespace ${namespace} is not enrolled (label it ${MODE_LABEL}=ambient): only pods that are labelled so themselves are held to it`,
    );
  }
  return sentences;
}

function ofServiceEntry(entry: ServiceEntry, facts: WarningFacts): readonly string[] {
  const source = keyOf(entry.metadata);
  const sentences = entry.hosts.flatMap((host) => {
    const winner = facts.service(`${entry.metadata.namespace}/${host}`);
    const lost = winner !== undefined && (winner.from !== 'ServiceEntry' || winner.source !== source);
    return [
      ...(lost ? [`host ${host} has no effect: ${winner.from} ${winner.source} has it already`] : []),
      ...(isPartialWildcard(host) && entry.resolution !== 'DYNAMIC_DNS'
        ? [`host ${host} has no effect: a * stands for whole labels, as in *.example.com`]
        : host.startsWith('*')
          ? [`host ${host} needs a waypoint: node agents cannot resolve it`]
          : []),
    ];
  });
  for (const { address } of entry.endpoints)
    if (address.startsWith(UNIX))
      sentences.push(`endpoint ${address} has no effect: it cannot be reached from elsewhere`);
  if (entry.exportTo.some((each) => each !== '*'))
    sentences.push('exportTo has no effect: agents show its hosts to every namespace');
  if (entry.workloadSelector !== undefined) {
    if (entry.resolution === 'NONE')
      sentences.push('workloadSelector has no effect with resolution NONE: connections go where they were going');
    if (Object.keys(entry.workloadSelector).length === 0)
      sentences.push('workloadSelector has no labels: it selects nobody');
  } else if (entry.resolution === 'STATIC' && entry.endpoints.length === 0) {
    sentences.push('has neither endpoints nor a workloadSelector: connections to its hosts are refused');
  }
  return sentences;
}

function ofWorkloadEntry({ spec }: WorkloadEntry): readonly string[] {
  if (spec.address.startsWith(UNIX))
    return [`address ${spec.address} has no effect: it cannot be reached from elsewhere`];
  return spec.address === '' ? [`has no address: it has no effect until network ${spec.network} has a gateway`] : [];
}

function ofEnrolmentLabels({ kind, metadata }: Namespace | Pod): readonly string[] {
  const { labels } = metadata;
  const mode = labels[MODE_LABEL];
  const sentences = [...ofWaypointLabels(labels)];
  if (mode !== undefined && mode !== 'ambient' && mode !== 'none')
    sentences.push(`label ${MODE_LABEL}=${mode} is neither ambient nor none: it enrols nothing`);
  if (kind === 'Namespace' && labels['istio-injection'] === 'enabled')
    sentences.push(`label istio-injection=enabled has no effect: there are no sidecars, ${MODE_LABEL}=ambient enrols`);
  return sentences;
}

function ofWaypointLabels(labels: Labels): readonly string[] {
  return WAYPOINT_LABELS.filter((name) => !IS_OFF.has(labels[name] ?? '')).map(
    (name) => `label ${name}=${labels[name]} has no effect: there are no waypoints yet, connections go without one`,
  );
}

export const MODE_LABEL = 'istio.io/dataplane-mode';
const WAYPOINT_LABELS = ['istio.io/use-waypoint', 'istio.io/ingress-use-waypoint'];
const IS_OFF: ReadonlySet<string> = new Set(['', 'none', 'false']);
