/** The commands behind `make cluster` and its like. Usage: see USAGE below. */
import { spawnSync } from 'node:child_process';
import { Cluster } from './cluster.js';
import { clusterNames, takeDown } from './down.js';
import type { ProxyMode } from './plan.js';

const USAGE = `usage: main.js COMMAND, on the cluster that CLUSTER names (default meltemi)
  up                    brings it up (NODES=2 PROXY=nftables|iptables TAINTS=KEY=VALUE:EFFECT,…); last line: KUBECONFIG
  down                  ends it
  list                  clusters that are up
  load TAR…             imports docker-archives into every node
  kubectl ARG…          kubectl of the cluster's version
  exec NODE COMMAND…    runs a program on a node (control-plane is a machine too)
  restart NODE          reboots a node
  add-node              one node more (TAINTS)
  cut NODE, heal NODE   drops everything between a node and the API server, or no longer
  kill PART [NODE]      SIGKILL, it comes back by itself; parts: etcd kube-apiserver kube-controller-manager
                        kube-scheduler, on nodes: containerd kubelet kube-proxy
  stop PART [NODE], start PART [NODE]   the same, and it stays away until started`;

const name = process.env.CLUSTER || 'meltemi';
const [command, ...args] = process.argv.slice(2);

try {
  process.exitCode = await perform();
} catch (error) {
  console.error(error instanceof Error ? error.message : error);
  process.exitCode = 1;
}

async function perform(): Promise<number> {
  switch (command) {
    case 'up': {
      const cluster = (await Cluster.find(name)) ?? (await bringUp());
      console.log(cluster.kubeconfig);
      cluster.close();
      return 0;
    }
    case 'down':
      await takeDown(name);
      return 0;
    case 'list':
      for (const each of clusterNames()) console.log(each);
      return 0;
    default:
      return performOn(await existing());
  }
}

async function performOn(cluster: Cluster): Promise<number> {
  const [first = '', ...rest] = args;
  const of = (node: string | undefined) => (node === undefined ? cluster : cluster.node(node));
  switch (command) {
    case 'load':
      for (const archive of args) await cluster.load(archive);
      break;
    case 'kubectl':
      return attached(cluster.kubectlCommand(args));
    case 'exec':
      return attached(cluster.on(first, rest));
    case 'restart':
      await cluster.restartNode(first);
      break;
    case 'add-node':
      console.log((await cluster.addNode({ taints: taints() })).name);
      break;
    case 'cut':
      await cluster.cut(first);
      break;
    case 'heal':
      await cluster.heal(first);
      break;
    case 'kill':
      of(rest[0]).killPart(first);
      break;
    case 'stop':
      of(rest[0]).stopPart(first);
      break;
    case 'start':
      of(rest[0]).startPart(first);
      break;
    default:
      console.error(USAGE);
      return 2;
  }
  cluster.close();
  return 0;
}

function bringUp(): Promise<Cluster> {
  const proxyMode = process.env.PROXY || 'nftables';
  if (proxyMode !== 'nftables' && proxyMode !== 'iptables') throw new Error(`PROXY=${proxyMode}: nftables or iptables`);
  return Cluster.up({
    name,
    nodes: Number(process.env.NODES || 2),
    proxyMode: proxyMode satisfies ProxyMode,
    taints: taints(),
  });
}

async function existing(): Promise<Cluster> {
  const cluster = await Cluster.find(name);
  if (cluster === undefined) throw new Error(`no cluster ${name} is up: make cluster CLUSTER=${name}`);
  return cluster;
}

function attached([file = '', ...rest]: readonly string[]): number {
  return spawnSync(file, rest, { stdio: 'inherit' }).status ?? 1;
}

function taints(): readonly string[] {
  return (process.env.TAINTS ?? '').split(',').filter((taint) => taint !== '');
}
