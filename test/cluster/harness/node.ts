/** A node: containerd, kubelet and kube-proxy on a machine of their own, with the standard paths. */
import { copyFileSync, existsSync, mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Artefacts } from './artefacts.js';
import { KUBERNETES } from './control-plane.js';
import type { MachineSpec } from './machine.js';
import { CLUSTER_DOMAIN, MAX_NODES, type NodePlan, type Plan, type ProxyMode, planNode } from './plan.js';

export interface NodeOptions {
  readonly proxyMode: ProxyMode;
  /** Taints that it registers with, for example `cni.istio.io/not-ready=:NoSchedule`. */
  readonly taints?: readonly string[];
}

/** `held`: kubelet and kube-proxy wait to be released. */
export function nodeSpec(artefacts: Artefacts, plan: Plan, node: NodePlan, held: boolean): MachineSpec {
  const own = (name: string) => join(node.directory, name);
  const others = Array.from({ length: MAX_NODES }, (_, at) => planNode(plan, at + 1)).filter(
    ({ number }) => number !== node.number,
  );
  return {
    hostname: node.name,
    binds: [
      { from: artefacts.kubernetes, to: KUBERNETES },
      { from: own('kubernetes'), to: '/etc/kubernetes' },
      { from: own('cni-configuration'), to: '/etc/cni' },
      { from: own('cni-programs'), to: '/opt/cni' },
    ],
    sysctls: { 'net.ipv4.ip_forward': '1', 'net.ipv4.conf.all.rp_filter': '0', 'net.ipv4.conf.default.rp_filter': '0' },
    // What kubelet insists on; the machine's own settings stay as they are.
    pinned: {
      '/proc/sys/vm/overcommit_memory': '1',
      '/proc/sys/vm/panic_on_oom': '0',
      '/proc/sys/kernel/panic': '10',
      '/proc/sys/kernel/panic_on_oops': '1',
      '/proc/sys/kernel/keys/root_maxkeys': '1000000',
      '/proc/sys/kernel/keys/root_maxbytes': '25000000',
    },
    cgroup: node.cgroup,
    link: 'eth0',
    setup: [
      ['ip', 'link', 'set', 'lo', 'up'],
      ['ip', 'address', 'add', `${node.address}/24`, 'dev', 'eth0'],
      ['ip', 'link', 'set', 'eth0', 'up'],
      // Nothing lies behind the gateway, but addresses of services need a route to be rewritten on.
      ['ip', 'route', 'add', 'default', 'via', plan.gateway],
      ...others.map(({ podCidr, address }) => ['ip', 'route', 'add', podCidr, 'via', address]),
    ],
    services: [
      { name: 'containerd', command: ['containerd', '--config', '/etc/kubernetes/containerd.toml'] },
      {
        name: 'kubelet',
        command: [
          ...[KUBERNETES, 'kubelet', '--config=/etc/kubernetes/kubelet.json'],
          ...['--kubeconfig=/etc/kubernetes/kubelet.kubeconfig', `--hostname-override=${node.name}`],
          `--node-ip=${node.address}`,
        ],
        held,
      },
      {
        name: 'kube-proxy',
        command: [
          KUBERNETES,
          'kube-proxy',
          '--config=/etc/kubernetes/kube-proxy.json',
          `--hostname-override=${node.name}`,
        ],
        held,
      },
    ],
  };
}

/** Those that wait for the API server. */
export const NODE_DAEMONS = ['kubelet', 'kube-proxy'];

/** Written once: what a mesh or a test does to these files outlives a reboot. */
export function writeNodeFiles(plan: Plan, node: NodePlan, options: NodeOptions): void {
  const write = (path: string, content: string | object) => {
    const file = join(node.directory, path);
    mkdirSync(join(file, '..'), { recursive: true });
    writeFileSync(file, typeof content === 'string' ? content : JSON.stringify(content, undefined, 2));
  };
  write('kubernetes/containerd.toml', containerd);
  write('kubernetes/kubelet.json', kubelet(plan, node, options));
  write('kubernetes/kube-proxy.json', proxy(plan, options));
  write('kubernetes/resolv.conf', '');
  write('cni-configuration/net.d/10-cluster.conflist', conflist(node));
  const programs = join(node.directory, 'cni-programs/bin');
  mkdirSync(programs, { recursive: true });
  for (const name of ['loopback', 'ptp', 'host-local', 'portmap', 'bridge']) {
    copyFileSync(join(cniPrograms(), name), join(programs, name));
  }
}

/** Where the distribution has the reference CNI plugins. */
function cniPrograms(): string {
  const found = ['/usr/lib/cni', '/usr/libexec/cni', '/opt/cni/bin'].find((path) => existsSync(join(path, 'ptp')));
  if (found === undefined)
    throw new Error('the reference CNI plugins are missing: install containernetworking-plugins');
  return found;
}

const containerd = `version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
disabled_plugins = ["io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.aufs", "io.containerd.tracing.processor.v1.otlp"]

[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "registry.k8s.io/pause:3.10"
# Without CAP_SYS_RESOURCE nobody may lower this value.
restrict_oom_score_adj = true

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"

[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "/opt/cni/bin"
conf_dir = "/etc/cni/net.d"
`;

function kubelet(plan: Plan, node: NodePlan, { taints = [] }: NodeOptions): object {
  return {
    apiVersion: 'kubelet.config.k8s.io/v1beta1',
    kind: 'KubeletConfiguration',
    authentication: {
      anonymous: { enabled: false },
      webhook: { enabled: true },
      x509: { clientCAFile: '/etc/kubernetes/ca.crt' },
    },
    authorization: { mode: 'Webhook' },
    tlsCertFile: '/etc/kubernetes/kubelet.crt',
    tlsPrivateKeyFile: '/etc/kubernetes/kubelet.key',
    containerRuntimeEndpoint: 'unix:///run/containerd/containerd.sock',
    clusterDomain: CLUSTER_DOMAIN,
    clusterDNS: [plan.dnsAddress],
    resolvConf: '/etc/kubernetes/resolv.conf',
    cgroupDriver: 'cgroupfs',
    cgroupRoot: `/${node.cgroup}`,
    enforceNodeAllocatable: [],
    failCgroupV1: false,
    failSwapOn: false,
    makeIPTablesUtilChains: false,
    // A machine that runs tests may be full; its disk is not the test's business.
    evictionHard: {
      'memory.available': '0%',
      'nodefs.available': '0%',
      'nodefs.inodesFree': '0%',
      'imagefs.available': '0%',
      'imagefs.inodesFree': '0%',
    },
    imageGCHighThresholdPercent: 100,
    maxPods: 250,
    serializeImagePulls: false,
    featureGates: { ClusterTrustBundle: true, ClusterTrustBundleProjection: true },
    registerWithTaints: taints.map((taint) => {
      const [, key = '', value = '', effect = ''] = /^([^=:]+)=?([^:]*):(\w+)$/.exec(taint) ?? [];
      if (key === '') throw new Error(`"${taint}" is no taint: KEY=VALUE:EFFECT`);
      return { key, value, effect };
    }),
  };
}

function proxy(plan: Plan, { proxyMode }: NodeOptions): object {
  return {
    apiVersion: 'kubeproxy.config.k8s.io/v1alpha1',
    kind: 'KubeProxyConfiguration',
    mode: proxyMode,
    clusterCIDR: plan.podCidr,
    clientConnection: { kubeconfig: '/etc/kubernetes/kube-proxy.kubeconfig' },
    healthzBindAddress: `0.0.0.0:${PROXY_HEALTH_PORT}`,
    metricsBindAddress: '0.0.0.0:10249',
    // The size of the connection table belongs to the whole machine.
    conntrack: { maxPerCore: 0, min: 0 },
  };
}

/** Point-to-point links, as kind has them: a bridge would take answers past the rules of kube-proxy. */
function conflist(node: NodePlan): object {
  return {
    cniVersion: '0.4.0',
    name: 'cluster',
    plugins: [
      {
        type: 'ptp',
        ipMasq: false,
        ipam: {
          type: 'host-local',
          dataDir: '/run/cni-addresses',
          ranges: [[{ subnet: node.podCidr }]],
          routes: [{ dst: '0.0.0.0/0' }],
        },
      },
      { type: 'portmap', capabilities: { portMappings: true } },
    ],
  };
}

export const PROXY_HEALTH_PORT = 10256;
