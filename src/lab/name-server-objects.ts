import { both, FABRIC, NAMESERVER } from './addresses.js';
import type { KubeObject } from './objects.js';

const PORTS = [
  { name: 'dns', protocol: 'UDP', port: 53 },
  { name: 'dns-tcp', protocol: 'TCP', port: 53 },
];

/**
 * The lab's name server as the cluster sees it: the Service that pods find in their resolv.conf, and where it leads.
 * Known like any Service, it is reached by captured pods too.
 */
export const NAME_SERVER_OBJECTS: readonly KubeObject[] = [
  {
    apiVersion: 'v1',
    kind: 'Service',
    metadata: metadata('kube-dns', {}),
    spec: {
      clusterIP: NAMESERVER.ipv4,
      clusterIPs: both(NAMESERVER),
      ipFamilies: ['IPv4', 'IPv6'],
      ipFamilyPolicy: 'RequireDualStack',
      ports: PORTS,
    },
  },
  ...(['ipv4', 'ipv6'] as const).map((family) => ({
    apiVersion: 'discovery.k8s.io/v1',
    kind: 'EndpointSlice',
    metadata: metadata(`kube-dns-${family}`, { 'kubernetes.io/service-name': 'kube-dns' }),
    addressType: family === 'ipv4' ? 'IPv4' : 'IPv6',
    endpoints: [{ addresses: [FABRIC[family]], conditions: { ready: true } }],
    ports: PORTS,
  })),
];

function metadata(name: string, labels: Readonly<Record<string, string>>): KubeObject['metadata'] {
  return { name, namespace: 'kube-system', labels, annotations: {} };
}
