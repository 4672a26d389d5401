import type { ApiObject } from '../../kube/api.js';
import { labelOf } from '../install/objects.js';
import type { Facts, Finding } from './facts.js';

/** Of the cluster's network. */
export function networkFindings(facts: Facts): readonly Finding[] {
  return [...cniFindings(facts), ...ciliumFindings(facts), ...policyFindings(facts)];
}

function cniFindings({ daemonSets }: Facts): readonly Finding[] {
  const found = KNOWN_CNIS.filter(([, name]) => daemonSets.some(({ metadata }) => metadata.name === name));
  if (found.length === 0) {
    return [
      {
        because: 'cni-unknown',
        severity: 'info',
        objects: [],
        text: 'the cluster runs no CNI that is known by name; any that reads a conflist can be chained to',
        remedy: 'where the runtime looks elsewhere than in /etc/cni/net.d, set cni.confDir and cni.binDir',
      },
    ];
  }
  return found.map(([title, name, note]) => ({
    because: 'cni-found',
    severity: 'info',
    objects: [`daemonset/${name}`],
    text: `the cluster's CNI is ${title}`,
    remedy: note,
  }));
}

function ciliumFindings({ ciliumConfig }: Facts): readonly Finding[] {
  if (ciliumConfig === undefined) return [];
  const config = (ciliumConfig.data ?? {}) as Readonly<Record<string, string>>;
  const objects = ['configmap/kube-system/cilium-config'];
  const findings: Finding[] = [];
  const replaces = config['kube-proxy-replacement'] === 'true' || config['kube-proxy-replacement'] === 'strict';
  const socketLb = config['bpf-lb-sock'] === 'true' || (replaces && config['bpf-lb-sock'] !== 'false');
  if (socketLb && config['bpf-lb-sock-hostns-only'] !== 'true') {
    findings.push({
      because: 'cilium-socket-lb',
      severity: 'error',
      objects,
      text: "Cilium replaces a Service's address by a pod's before the mesh sees it: policies and waypoints of Services would be passed by",
      remedy: 'set bpf-lb-sock-hostns-only to "true" (Helm: socketLB.hostNamespaceOnly=true) and restart Cilium',
    });
  }
  if (config['cni-exclusive'] === 'true') {
    findings.push({
      because: 'cilium-exclusive',
      severity: 'error',
      objects,
      text: 'Cilium takes the CNI configuration for its own and undoes what is chained to it: new pods would start uncaptured',
      remedy: 'set cni-exclusive to "false" (Helm: cni.exclusive=false) and restart Cilium',
    });
  }
  return findings;
}

/** Captured pods are reached on 15008 only. A policy that lets their own port in and nothing else cuts them off. */
function policyFindings({ networkPolicies, namespaces, pods }: Facts): readonly Finding[] {
  return networkPolicies.flatMap((policy) => {
    const { namespace = '', name } = policy.metadata;
    const spec = (policy.spec ?? {}) as PolicySpec;
    const types = spec.policyTypes ?? ['Ingress'];
    const home = namespaces.find(({ metadata }) => metadata.name === namespace);
    const captured = pods.filter(
      (pod) =>
        pod.metadata.namespace === namespace &&
        isWanted(pod, home) &&
        isSelected(pod, spec.podSelector?.matchLabels ?? {}),
    );
    if (captured.length === 0) return [];
    const objects = [`networkpolicy/${namespace}/${name}`];
    const remedy = `allow TCP port ${HBONE} beside the ports that ${name} names: in the mesh every connection arrives there`;
    const blocked = (direction: string): Finding => ({
      because: 'hbone-blocked',
      severity: 'error',
      objects,
      text: `NetworkPolicy ${namespace}/${name} lets ${direction} ports through, but not ${HBONE}: ${captured.length} captured pods are cut off`,
      remedy,
    });
    return [
      ...(types.includes('Ingress') && blocks(spec.ingress) ? [blocked('incoming')] : []),
      ...(types.includes('Egress') && blocks(spec.egress) ? [blocked('outgoing')] : []),
    ];
  });
}

/** Whether it names TCP ports and leaves ours out. A policy that lets nothing through at all is meant so. */
function blocks(rules: readonly PolicyRule[] | undefined): boolean {
  if (rules === undefined || rules.length === 0) return false;
  const lets = rules.some(({ ports }) => ports === undefined || ports.length === 0 || ports.some(isHbone));
  const namesTcp = rules.some(({ ports }) => ports?.some(({ protocol = 'TCP' }) => protocol === 'TCP') === true);
  return !lets && namesTcp;
}

function isHbone({ protocol = 'TCP', port, endPort }: PolicyPort): boolean {
  if (protocol !== 'TCP') return false;
  if (port === undefined) return true;
  if (typeof port !== 'number') return false;
  return endPort === undefined ? port === HBONE : port <= HBONE && HBONE <= endPort;
}

/** By the labels; the pod's own count more than its namespace's. */
export function isWanted(pod: ApiObject, namespace: ApiObject | undefined): boolean {
  if ((pod.spec as { hostNetwork?: boolean } | undefined)?.hostNetwork === true) return false;
  const own = labelOf(pod, MODE) ?? (namespace === undefined ? undefined : labelOf(namespace, MODE));
  return own === 'ambient';
}

function isSelected(pod: ApiObject, labels: Readonly<Record<string, string>>): boolean {
  return Object.entries(labels).every(([name, value]) => labelOf(pod, name) === value);
}

interface PolicySpec {
  readonly podSelector?: { readonly matchLabels?: Readonly<Record<string, string>> };
  readonly policyTypes?: readonly string[];
  readonly ingress?: readonly PolicyRule[];
  readonly egress?: readonly PolicyRule[];
}

interface PolicyRule {
  readonly ports?: readonly PolicyPort[];
}

interface PolicyPort {
  readonly protocol?: string;
  readonly port?: number | string;
  readonly endPort?: number;
}

const HBONE = 15008;
const MODE = 'istio.io/dataplane-mode';
/** Title, name of its DaemonSet, what to look at. */
const KNOWN_CNIS: readonly (readonly [string, string, string])[] = [
  ['Cilium', 'cilium', 'its socket load balancing and its exclusive CNI configuration are looked at below'],
  ['Calico', 'calico-node', 'nothing needs to be changed'],
  ['Flannel', 'kube-flannel-ds', 'nothing needs to be changed'],
  ['kindnet', 'kindnet', 'nothing needs to be changed'],
  ['Amazon VPC CNI', 'aws-node', 'nothing needs to be changed; pods with branch interfaces have not been tried'],
  ['Azure CNI', 'azure-cns', 'nothing needs to be changed'],
  ['Antrea', 'antrea-agent', 'nothing needs to be changed'],
  ['Weave Net', 'weave-net', 'nothing needs to be changed'],
];
