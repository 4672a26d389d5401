/** Names, addresses and paths of a test cluster. Everything follows from its name and its index. Pure. */
import { join } from 'node:path';

export interface Plan {
  readonly name: string;
  /** Tells clusters on one machine apart: link names and address ranges are made of it. */
  readonly index: number;
  /** Everything of this cluster on disk. */
  readonly directory: string;
  readonly kubeconfig: string;
  readonly credentials: string;
  /** The link of this cluster in the root namespace, and its address: what tests on the machine itself are seen as. */
  readonly link: string;
  readonly gateway: string;
  /** Where the API server is reached. */
  readonly apiAddress: string;
  readonly apiServer: string;
  readonly podCidr: string;
  readonly serviceCidr: string;
  readonly dnsAddress: string;
  /** Below the root of every cgroup hierarchy. */
  readonly cgroup: string;
}

export interface NodePlan {
  readonly name: string;
  /** From 1. */
  readonly number: number;
  readonly directory: string;
  readonly address: string;
  readonly podCidr: string;
  readonly cgroup: string;
}

export type ProxyMode = 'nftables' | 'iptables';

export function planCluster(name: string, index: number): Plan {
  const directory = clusterDirectory(name);
  const net = `10.77.${index}`;
  return {
    name,
    index,
    directory,
    kubeconfig: join(directory, 'kubeconfig'),
    credentials: join(directory, 'credentials'),
    link: `mlt${index}`,
    gateway: `${net}.1`,
    apiAddress: `${net}.2`,
    apiServer: `https://${net}.2:6443`,
    podCidr: `10.${POD_NETS + index}.0.0/16`,
    serviceCidr: `10.${SERVICE_NETS + index}.0.0/16`,
    dnsAddress: `10.${SERVICE_NETS + index}.0.10`,
    cgroup: `meltemi.${name}`,
  };
}

export function planNode(plan: Plan, number: number): NodePlan {
  const name = `node-${number}`;
  return {
    name,
    number,
    directory: join(plan.directory, name),
    address: `10.77.${plan.index}.${10 + number}`,
    podCidr: `10.${POD_NETS + plan.index}.${number}.0/24`,
    cgroup: `${plan.cgroup}/${name}`,
  };
}

/** The machine that etcd, the API server and the controllers run on; it is no node of the cluster, and the switch. */
export function controlPlaneDirectory(plan: Plan): string {
  return join(plan.directory, CONTROL_PLANE);
}

export function clusterDirectory(name: string): string {
  if (!/^[a-z0-9]([-a-z0-9]{0,38}[a-z0-9])?$/.test(name)) {
    throw new Error(`"${name}" is no name for a cluster: up to 40 lower case letters, digits and dashes`);
  }
  return join(CLUSTERS, name);
}

export const CLUSTERS = '/var/lib/meltemi/clusters';
export const CONTROL_PLANE = 'control-plane';
export const CLUSTER_DOMAIN = 'cluster.local';
/** Clusters at once: their pod and service ranges are one /16 each. */
export const MAX_CLUSTERS = 40;
export const MAX_NODES = 9;
const POD_NETS = 80;
const SERVICE_NETS = 140;
