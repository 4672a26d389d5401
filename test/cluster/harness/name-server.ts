/** CoreDNS as a Deployment behind the Service kube-dns, as every cluster has it. */
import { CLUSTER_DOMAIN, type Plan } from './plan.js';

/** API path and object of everything it takes. */
export function nameServer(plan: Plan): readonly (readonly [path: string, object: object])[] {
  const labels = { 'k8s-app': 'kube-dns' };
  const metadata = { name: 'coredns', namespace: 'kube-system', labels };
  const rbac = '/apis/rbac.authorization.k8s.io/v1';
  return [
    [
      '/api/v1/namespaces/kube-system/serviceaccounts',
      { apiVersion: 'v1', kind: 'ServiceAccount', metadata: { name: 'coredns', namespace: 'kube-system' } },
    ],
    [
      `${rbac}/clusterroles`,
      {
        apiVersion: 'rbac.authorization.k8s.io/v1',
        kind: 'ClusterRole',
        metadata: { name: 'system:coredns' },
        rules: [
          { apiGroups: [''], resources: ['services', 'pods', 'namespaces'], verbs: ['list', 'watch'] },
          { apiGroups: ['discovery.k8s.io'], resources: ['endpointslices'], verbs: ['list', 'watch'] },
        ],
      },
    ],
    [
      `${rbac}/clusterrolebindings`,
      {
        apiVersion: 'rbac.authorization.k8s.io/v1',
        kind: 'ClusterRoleBinding',
        metadata: { name: 'system:coredns' },
        roleRef: { apiGroup: 'rbac.authorization.k8s.io', kind: 'ClusterRole', name: 'system:coredns' },
        subjects: [{ kind: 'ServiceAccount', name: 'coredns', namespace: 'kube-system' }],
      },
    ],
    [
      '/api/v1/namespaces/kube-system/configmaps',
      { apiVersion: 'v1', kind: 'ConfigMap', metadata, data: { Corefile: corefile } },
    ],
    [
      '/api/v1/namespaces/kube-system/services',
      {
        apiVersion: 'v1',
        kind: 'Service',
        metadata: { ...metadata, name: 'kube-dns', labels: { ...labels, 'kubernetes.io/name': 'CoreDNS' } },
        spec: {
          clusterIP: plan.dnsAddress,
          selector: labels,
          ports: [
            { name: 'dns', port: 53, protocol: 'UDP' },
            { name: 'dns-tcp', port: 53, protocol: 'TCP' },
            { name: 'metrics', port: 9153, protocol: 'TCP' },
          ],
        },
      },
    ],
    [
      '/apis/apps/v1/namespaces/kube-system/deployments',
      {
        apiVersion: 'apps/v1',
        kind: 'Deployment',
        metadata,
        spec: {
          replicas: 1,
          selector: { matchLabels: labels },
          template: { metadata: { labels }, spec: podSpec },
        },
      },
    ],
  ];
}

/** Nothing lies outside of the cluster, so other names do not exist. A test may add zones of its own. */
const corefile = `${CLUSTER_DOMAIN} in-addr.arpa ip6.arpa {
  errors
  health
  ready
  kubernetes ${CLUSTER_DOMAIN} in-addr.arpa ip6.arpa {
    pods insecure
  }
  cache 5
  loop
  reload 2s 1s
}
. {
  errors
  template ANY ANY . {
    rcode NXDOMAIN
  }
}
`;

const podSpec = {
  serviceAccountName: 'coredns',
  priorityClassName: 'system-cluster-critical',
  dnsPolicy: 'Default',
  tolerations: [{ operator: 'Exists' }],
  containers: [
    {
      name: 'coredns',
      image: 'meltemi-test/coredns:1',
      imagePullPolicy: 'Never',
      args: ['-conf', '/etc/coredns/Corefile'],
      ports: [
        { containerPort: 53, name: 'dns', protocol: 'UDP' },
        { containerPort: 53, name: 'dns-tcp', protocol: 'TCP' },
      ],
      readinessProbe: { httpGet: { path: '/ready', port: 8181 }, periodSeconds: 1 },
      livenessProbe: { httpGet: { path: '/health', port: 8080 }, initialDelaySeconds: 30 },
      volumeMounts: [{ name: 'config', mountPath: '/etc/coredns', readOnly: true }],
    },
  ],
  volumes: [{ name: 'config', configMap: { name: 'coredns' } }],
};
