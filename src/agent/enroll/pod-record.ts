import { canonicalIp } from '../../lib/ip.js';
import { err, ok, type Result } from '../../lib/result.js';

/** A pod of this node as the kubelet's side describes it. */
export interface PodRecord {
  /** The object's own uid, which differs for two pods that have the same name one after the other. */
  readonly uid: string;
  readonly name: string;
  readonly namespace: string;
  readonly serviceAccount: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly annotations: Readonly<Record<string, string>>;
  readonly namespaceLabels: Readonly<Record<string, string>>;
  readonly hostNetwork: boolean;
  /** Path of its network namespace; empty while there is none. */
  readonly netns: string;
  /** Canonical addresses. */
  readonly ips: readonly string[];
  readonly nameservers: readonly string[];
  readonly searchDomains: readonly string[];
  readonly phase: string;
  /** Why it is left alone whatever its labels say. */
  readonly notOurs?: 'excluded-namespace' | 'other-revision';
}

/** Reads a record of an outside writer. Error: which field is wrong. */
export function parsePodRecord(value: unknown): Result<PodRecord> {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return err('is no object');
  const fields = value as Readonly<Record<string, unknown>>;
  for (const name of ['uid', 'name', 'namespace']) {
    if (typeof fields[name] !== 'string' || fields[name] === '') return err(`${name} is missing`);
  }
  for (const name of ['serviceAccount', 'netns', 'phase']) {
    if (!isString(fields[name] ?? '')) return err(`${name} is no string`);
  }
  for (const name of ['labels', 'annotations', 'namespaceLabels']) {
    if (!isStringMap(fields[name] ?? {})) return err(`${name} is no map of strings`);
  }
  for (const name of ['ips', 'nameservers', 'searchDomains']) {
    const list = fields[name] ?? [];
    if (!Array.isArray(list) || !list.every(isString)) return err(`${name} is no list of strings`);
  }
  const record: PodRecord = { ...EMPTY, ...fields };
  const ips = record.ips.map((ip) => canonicalIp(ip));
  const bad = ips.indexOf(undefined);
  if (bad >= 0) return err(`ips names ${JSON.stringify(record.ips[bad])}, which is no address`);
  return ok({
    uid: record.uid,
    name: record.name,
    namespace: record.namespace,
    serviceAccount: record.serviceAccount || 'default',
    labels: record.labels,
    annotations: record.annotations,
    namespaceLabels: record.namespaceLabels,
    hostNetwork: record.hostNetwork === true,
    netns: record.netns,
    ips: ips.filter((ip) => ip !== undefined),
    nameservers: record.nameservers,
    searchDomains: record.searchDomains,
    phase: record.phase,
  });
}

/** Whether the mesh takes the pod in, and why (not). The pod's own label wins over its namespace's. */
export function captureOf(pod: PodRecord): { readonly captured: boolean; readonly because: CaptureReason } {
  if (pod.hostNetwork) return { captured: false, because: 'host-network' };
  if (pod.annotations[SIDECAR_ANNOTATION] !== undefined) return { captured: false, because: 'sidecar' };
  if (pod.phase === 'Succeeded' || pod.phase === 'Failed') return { captured: false, because: 'ended' };
  const own = pod.labels[MODE_LABEL];
  const because = own !== undefined && own !== '' ? 'pod-label' : 'namespace-label';
  if ((because === 'pod-label' ? own : pod.namespaceLabels[MODE_LABEL]) !== 'ambient') {
    return { captured: false, because: because === 'pod-label' ? because : 'no-label' };
  }
  return pod.notOurs === undefined ? { captured: true, because } : { captured: false, because: pod.notOurs };
}

/** The revision that a pod asks for: its own label, else its namespace's. Empty for the default one. */
export function revisionOf(
  labels: Readonly<Record<string, string>>,
  namespaceLabels: Readonly<Record<string, string>>,
): string {
  const revision = labels[REVISION_LABEL] || namespaceLabels[REVISION_LABEL] || '';
  return revision === 'default' ? '' : revision;
}

export type CaptureReason =
  | 'pod-label'
  | 'namespace-label'
  | 'no-label'
  | 'host-network'
  | 'sidecar'
  | 'ended'
  | NonNullable<PodRecord['notOurs']>;

function isString(value: unknown): value is string {
  return typeof value === 'string';
}

function isStringMap(value: unknown): boolean {
  return typeof value === 'object' && value !== null && Object.values(value).every(isString);
}

const EMPTY: PodRecord = {
  uid: '',
  name: '',
  namespace: '',
  hostNetwork: false,
  serviceAccount: '',
  labels: {},
  annotations: {},
  namespaceLabels: {},
  netns: '',
  ips: [],
  nameservers: [],
  searchDomains: [],
  phase: '',
};
const MODE_LABEL = 'istio.io/dataplane-mode';
const REVISION_LABEL = 'istio.io/rev';
const SIDECAR_ANNOTATION = 'sidecar.istio.io/status';
