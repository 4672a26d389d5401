import type { Facts, Finding } from './facts.js';
import { policyFindings } from './policy-findings.js';

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
