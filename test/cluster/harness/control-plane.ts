/** The machine with etcd, the API server and the controllers. It is also the switch that the nodes hang on. */
import type { Artefacts } from './artefacts.js';
import type { MachineSpec } from './machine.js';
import { MAX_NODES, type Plan, planNode } from './plan.js';

export function controlPlaneSpec(artefacts: Artefacts, plan: Plan): MachineSpec {
  const nodes = Array.from({ length: MAX_NODES }, (_, at) => planNode(plan, at + 1));
  return {
    hostname: 'control-plane',
    binds: [
      { from: artefacts.kubernetes, to: KUBERNETES },
      { from: plan.credentials, to: CREDENTIALS },
    ],
    sysctls: {
      'net.bridge.bridge-nf-call-iptables': '0',
      'net.bridge.bridge-nf-call-ip6tables': '0',
      'net.ipv4.ip_forward': '1',
    },
    pinned: {},
    cgroup: `${plan.cgroup}/control-plane`,
    link: 'up0',
    setup: [
      ['ip', 'link', 'set', 'lo', 'up'],
      ['ip', 'link', 'add', BRIDGE, 'type', 'bridge'],
      ['ip', 'link', 'set', 'up0', 'master', BRIDGE, 'up'],
      ['ip', 'address', 'add', `${plan.apiAddress}/24`, 'dev', BRIDGE],
      ['ip', 'link', 'set', BRIDGE, 'up'],
      ['ip', 'route', 'add', 'default', 'via', plan.gateway],
      // The API server calls webhooks and aggregated APIs in pods.
      ...nodes.map(({ podCidr, address }) => ['ip', 'route', 'add', podCidr, 'via', address]),
    ],
    services: [
      { name: 'etcd', command: etcd },
      { name: 'kube-apiserver', command: apiServer(plan) },
      { name: 'kube-controller-manager', command: controllerManager(plan), held: true },
      { name: 'kube-scheduler', command: scheduler, held: true },
    ],
  };
}

/** Those that wait for the API server. */
export const CONTROLLERS = ['kube-controller-manager', 'kube-scheduler'];
export const BRIDGE = 'br0';
export const KUBERNETES = '/usr/local/bin/kubernetes';
const CREDENTIALS = '/etc/kubernetes/credentials';
const at = (file: string): string => `${CREDENTIALS}/${file}`;

const etcd = [
  'etcd',
  '--data-dir=/var/lib/etcd',
  '--listen-client-urls=http://127.0.0.1:2379',
  '--advertise-client-urls=http://127.0.0.1:2379',
  '--listen-peer-urls=http://127.0.0.1:2380',
  '--initial-advertise-peer-urls=http://127.0.0.1:2380',
  '--initial-cluster=default=http://127.0.0.1:2380',
  '--unsafe-no-fsync',
  '--log-level=warn',
];

function apiServer(plan: Plan): readonly string[] {
  return [
    KUBERNETES,
    'kube-apiserver',
    `--advertise-address=${plan.apiAddress}`,
    '--allow-privileged',
    '--authorization-mode=Node,RBAC',
    `--client-ca-file=${at('ca.crt')}`,
    // Services of webhooks resolve to pod addresses: there is no kube-proxy here.
    '--enable-aggregator-routing=true',
    '--enable-admission-plugins=NodeRestriction',
    '--etcd-servers=http://127.0.0.1:2379',
    '--feature-gates=ClusterTrustBundle=true,ClusterTrustBundleProjection=true',
    `--kubelet-certificate-authority=${at('ca.crt')}`,
    `--kubelet-client-certificate=${at('apiserver-kubelet.crt')}`,
    `--kubelet-client-key=${at('apiserver-kubelet.key')}`,
    // Else exec and logs look the node's name up in DNS.
    '--kubelet-preferred-address-types=InternalIP',
    '--profiling=false',
    `--proxy-client-cert-file=${at('front-proxy.crt')}`,
    `--proxy-client-key-file=${at('front-proxy.key')}`,
    `--requestheader-client-ca-file=${at('front-proxy-ca.crt')}`,
    '--requestheader-allowed-names=front-proxy-client',
    '--requestheader-extra-headers-prefix=X-Remote-Extra-',
    '--requestheader-group-headers=X-Remote-Group',
    '--requestheader-username-headers=X-Remote-User',
    '--runtime-config=certificates.k8s.io/v1beta1/clustertrustbundles=true',
    '--secure-port=6443',
    '--service-account-issuer=https://kubernetes.default.svc.cluster.local',
    `--service-account-key-file=${at('service-accounts.pub')}`,
    `--service-account-signing-key-file=${at('service-accounts.key')}`,
    `--service-cluster-ip-range=${plan.serviceCidr}`,
    `--tls-cert-file=${at('apiserver.crt')}`,
    `--tls-private-key-file=${at('apiserver.key')}`,
  ];
}

function controllerManager(plan: Plan): readonly string[] {
  return [
    KUBERNETES,
    'kube-controller-manager',
    '--allocate-node-cidrs=false',
    ...clientOf('controller-manager'),
    `--cluster-cidr=${plan.podCidr}`,
    `--cluster-signing-cert-file=${at('ca.crt')}`,
    `--cluster-signing-key-file=${at('ca.key')}`,
    '--controllers=*',
    '--feature-gates=ClusterTrustBundle=true,ClusterTrustBundleProjection=true',
    '--leader-elect=false',
    // A dead node is noticed in 20 s instead of 50.
    '--node-monitor-grace-period=20s',
    `--root-ca-file=${at('ca.crt')}`,
    `--service-account-private-key-file=${at('service-accounts.key')}`,
    '--use-service-account-credentials',
  ];
}

function clientOf(user: string): readonly string[] {
  const kubeconfig = at(`${user}.kubeconfig`);
  return [
    '--bind-address=127.0.0.1',
    `--kubeconfig=${kubeconfig}`,
    `--authentication-kubeconfig=${kubeconfig}`,
    `--authorization-kubeconfig=${kubeconfig}`,
  ];
}

const scheduler = [KUBERNETES, 'kube-scheduler', ...clientOf('scheduler'), '--leader-elect=false'];
