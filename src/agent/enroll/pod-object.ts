import type { ApiObject } from '../../kube/api.js';
import { canonicalIp } from '../../lib/ip.js';

/** What is kept of a Pod object: enough for its record, and no more, as a node has a hundred of them. */
export interface PodFacts {
  readonly uid: string;
  readonly name: string;
  readonly namespace: string;
  readonly node: string;
  readonly serviceAccount: string;
  readonly labels: Readonly<Record<string, string>>;
  /** Those that we read. */
  readonly annotations: Readonly<Record<string, string>>;
  readonly hostNetwork: boolean;
  readonly phase: string;
  readonly ips: readonly string[];
  readonly dns: PodDnsWish;
  /** What `ambient.istio.io/redirection` says; empty when it is not there. */
  readonly redirection: string;
  /** How the kubelet calls the pod's cgroup: its uid, but for static pods. */
  readonly cgroup: string;
  readonly containers: readonly string[];
}

/** `dnsPolicy` and `dnsConfig`. */
export interface PodDnsWish {
  readonly policy: string;
  readonly nameservers: readonly string[];
  readonly searches: readonly string[];
}

/** Reads a Pod as the API server gave it; whatever is missing or of another kind counts as empty. */
export function podFacts({ metadata, ...object }: ApiObject): PodFacts {
  const { spec, status } = { spec: fields(object.spec), status: fields(object.status) };
  const annotations = texts(metadata.annotations);
  const dnsConfig = fields(spec.dnsConfig);
  const ips = list(status.podIPs).map((each) => canonicalIp(text(fields(each).ip)));
  const uid = metadata.uid ?? '';
  return {
    uid,
    name: metadata.name,
    namespace: metadata.namespace ?? '',
    node: text(spec.nodeName),
    serviceAccount: text(spec.serviceAccountName) || 'default',
    labels: texts(metadata.labels),
    annotations: Object.fromEntries(Object.entries(annotations).filter(([name]) => READ_ANNOTATIONS.has(name))),
    hostNetwork: spec.hostNetwork === true,
    phase: text(status.phase),
    ips: ips.filter((ip) => ip !== undefined),
    dns: {
      policy: text(spec.dnsPolicy) || 'ClusterFirst',
      nameservers: list(dnsConfig.nameservers).map(text),
      searches: list(dnsConfig.searches).map(text),
    },
    redirection: annotations[REDIRECTION] ?? '',
    cgroup: annotations[STATIC_POD_HASH] ?? uid,
    containers: CONTAINER_LISTS.flatMap((name) => list(status[name]))
      .map((each) => text(fields(each).containerID).replace(/^.*:\/\//, ''))
      .filter((id) => id !== ''),
  };
}

function fields(value: unknown): Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null ? (value as Readonly<Record<string, unknown>>) : {};
}

function list(value: unknown): readonly unknown[] {
  return Array.isArray(value) ? value : [];
}

function text(value: unknown): string {
  return typeof value === 'string' ? value : '';
}

function texts(value: unknown): Readonly<Record<string, string>> {
  return Object.fromEntries(Object.entries(fields(value)).map(([name, each]) => [name, text(each)]));
}

/** The annotation that tells everybody whether a pod is captured. */
export const REDIRECTION = 'ambient.istio.io/redirection';
const STATIC_POD_HASH = 'kubernetes.io/config.mirror';
const READ_ANNOTATIONS: ReadonlySet<string> = new Set([
  'sidecar.istio.io/status',
  'ambient.istio.io/bypass-inbound-capture',
  'ambient.istio.io/dns-capture',
]);
const CONTAINER_LISTS = ['initContainerStatuses', 'containerStatuses'];
