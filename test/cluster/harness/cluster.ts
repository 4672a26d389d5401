/**
 * A Kubernetes cluster on this machine: real API server, controllers, scheduler, kubelets, kube-proxy, containerd, runc
 * and CNI, each node on a machine of its own in namespaces. See docs/cluster.md.
 */
import { spawn } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { type Api, api } from './api.js';
import { type Artefacts, artefacts } from './artefacts.js';
import { claimedIndex, claimIndex } from './claim.js';
import { BRIDGE, CONTROLLERS, controlPlaneSpec } from './control-plane.js';
import { makeCredentials, makeNodeCredentials } from './credentials.js';
import { takeDown } from './down.js';
import * as machine from './machine.js';
import { nameServer } from './name-server.js';
import { NODE_DAEMONS, type NodeOptions, nodeSpec, PROXY_HEALTH_PORT, writeNodeFiles } from './node.js';
import {
  CONTROL_PLANE,
  clusterDirectory,
  controlPlaneDirectory,
  MAX_NODES,
  type NodePlan,
  type Plan,
  type ProxyMode,
  planCluster,
  planNode,
} from './plan.js';
import { sh, until } from './shell.js';

export interface ClusterOptions {
  /** Default `meltemi`. */
  readonly name?: string;
  /** Default 2, up to 9. */
  readonly nodes?: number;
  /** Default nftables. */
  readonly proxyMode?: ProxyMode;
  /** Taints that every node registers with, as KEY=VALUE:EFFECT. CoreDNS tolerates all. */
  readonly taints?: readonly string[];
}

export class Cluster implements AsyncDisposable {
  readonly plan: Plan;
  readonly #artefacts: Artefacts;
  readonly #nodes: Node[] = [];
  #api: Api | undefined;

  private constructor(plan: Plan, built: Artefacts) {
    this.plan = plan;
    this.#artefacts = built;
  }

  /** Brings one up and waits until pods can run, services answer and names resolve. A failed one is taken down. */
  static async up(options: ClusterOptions = {}): Promise<Cluster> {
    const { name = 'meltemi', nodes = 2, proxyMode = 'nftables', taints = [] } = options;
    if (!(nodes >= 1 && nodes <= MAX_NODES)) throw new Error(`a cluster has 1 to ${MAX_NODES} nodes, not ${nodes}`);
    if (existsSync(clusterDirectory(name))) {
      throw new Error(`cluster ${name} is there already; make cluster-down CLUSTER=${name} ends it`);
    }
    const built = await artefacts();
    mkdirSync(clusterDirectory(name), { recursive: true });
    try {
      const cluster = new Cluster(planCluster(name, claimIndex(name)), built);
      await cluster.#start(nodes, { proxyMode, taints });
      return cluster;
    } catch (error) {
      const tails = logTails(clusterDirectory(name));
      await takeDown(name);
      throw new Error(`cluster ${name} does not come up: ${error instanceof Error ? error.message : error}${tails}`);
    }
  }

  /** One that is up already; undefined without one. */
  static async find(name = 'meltemi'): Promise<Cluster | undefined> {
    const index = claimedIndex(name);
    if (index === undefined || machine.machinePids(clusterDirectory(name)).length === 0) return undefined;
    const cluster = new Cluster(planCluster(name, index), await artefacts());
    for (const entry of readdirSync(cluster.plan.directory)) {
      const [, number] = /^node-(\d)$/.exec(entry) ?? [];
      if (number !== undefined) cluster.#nodes.push(new Node(cluster.plan, planNode(cluster.plan, Number(number))));
    }
    return cluster;
  }

  get kubeconfig(): string {
    return this.plan.kubeconfig;
  }

  get nodes(): readonly Node[] {
    return this.#nodes;
  }

  /** Requests as administrator, for what kubectl is too slow for. */
  get api(): Api {
    this.#api ??= api(this.kubeconfig);
    return this.#api;
  }

  node(name: string): Node {
    const found = this.#nodes.find((node) => node.name === name);
    if (found === undefined) throw new Error(`cluster ${this.plan.name} has no node ${name}`);
    return found;
  }

  /** Runs kubectl (of the cluster's own version) and gives its standard output. */
  async kubectl(args: readonly string[], input?: string | object, timeoutMs = 60_000): Promise<string> {
    return sh(this.kubectlCommand(args), {
      ...(input === undefined ? {} : { input: typeof input === 'string' ? input : JSON.stringify(input) }),
      timeoutMs,
    });
  }

  /** The command line for it, for those who start it themselves. */
  kubectlCommand(args: readonly string[]): readonly string[] {
    return [this.#artefacts.kubernetes, 'kubectl', '--kubeconfig', this.kubeconfig, ...args];
  }

  /** The command line that runs a program on a node, or on `control-plane`. */
  on(machineName: string, command: readonly string[]): readonly string[] {
    if (machineName !== CONTROL_PLANE) return this.node(machineName).on(command);
    return machine.on(controlPlaneDirectory(this.plan), command);
  }

  /** Imports a docker-archive into every node. */
  async load(archive: string): Promise<void> {
    await Promise.all(this.#nodes.map((node) => node.load(archive)));
  }

  /** One node more, ready when it resolves; options default to those of the others. */
  async addNode(options: Partial<NodeOptions> = {}): Promise<Node> {
    const number = Math.max(0, ...this.#nodes.map((node) => node.plan.number)) + 1;
    if (number > MAX_NODES) throw new Error(`a cluster has up to ${MAX_NODES} nodes`);
    const plan = planNode(this.plan, number);
    await makeNodeCredentials(this.#artefacts.pki, this.plan, [plan]);
    const node = new Node(this.plan, plan);
    writeNodeFiles(this.plan, plan, { ...readOptions(this.plan), ...options });
    await node.boot(this.#artefacts, false);
    this.#nodes.push(node);
    await this.#loadOwnImages(node);
    await this.#awaitNode(node);
    return node;
  }

  /** The contrary: it and its pods are gone from the cluster, and nothing is left of it here. */
  async removeNode(name: string): Promise<void> {
    const node = this.node(name);
    await this.kubectl(['delete', 'node', name, '--wait=false']);
    await node.powerOff();
    const pods = ['pods', '-A', '--field-selector', `spec.nodeName=${name}`];
    await this.kubectl(['delete', ...pods, '--force', '--grace-period=0', '--wait=false']);
    rmSync(node.plan.directory, { recursive: true, force: true });
    this.#nodes.splice(this.#nodes.indexOf(node), 1);
  }

  /**
   * A reboot: everything on it ends, what is in /var, /etc and /opt stays, /run and /tmp are empty. Resolves when
   * kube-proxy works again; pods come later.
   */
  async restartNode(name: string): Promise<void> {
    const node = this.node(name);
    await node.powerOff();
    await node.boot(this.#artefacts, false);
    await awaitProxy(node);
  }

  /** Drops everything between the API server and a node with its pods, silently, until `heal`. */
  async cut(name: string): Promise<void> {
    const { address, podCidr } = this.node(name).plan;
    const rules = ['saddr', 'daddr'].map((side) => `ip ${side} { ${address}, ${podCidr} } drop`).join('; ');
    const table = `table inet cut-${name}`;
    const chain = (hook: string) => `chain ${hook} { type filter hook ${hook} priority raw; ${rules}; }`;
    const ruleset = `${table} { }\ndelete ${table}\n${table} { ${chain('input')}\n${chain('output')}\n}`;
    await sh(machine.on(controlPlaneDirectory(this.plan), ['nft', '-f', '-']), { input: ruleset });
  }

  async heal(name: string): Promise<void> {
    const table = `table inet cut-${name}`;
    const ruleset = `${table} { }\ndelete ${table}`;
    await sh(machine.on(controlPlaneDirectory(this.plan), ['nft', '-f', '-']), { input: ruleset });
  }

  /** etcd, kube-apiserver, kube-controller-manager, kube-scheduler: killed, and started again by itself. */
  killPart(part: string): void {
    machine.killService(controlPlaneDirectory(this.plan), part);
  }

  /** The same, but it stays away until `startPart`. */
  stopPart(part: string): void {
    machine.hold(controlPlaneDirectory(this.plan), part);
  }

  startPart(part: string): void {
    machine.release(controlPlaneDirectory(this.plan), part);
  }

  /** Lets go of it; it stays up. */
  close(): void {
    this.#api?.close();
  }

  async down(): Promise<void> {
    this.close();
    await takeDown(this.plan.name);
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.down();
  }

  async #start(count: number, options: NodeOptions): Promise<void> {
    const { plan } = this;
    const directory = controlPlaneDirectory(plan);
    const plans = Array.from({ length: count }, (_, at) => planNode(plan, at + 1));
    writeFileSync(optionsFile(plan), JSON.stringify(options));
    await makeCredentials(this.#artefacts.pki, plan, plans);
    const pid = await machine.startMachine(this.#artefacts.node, directory, controlPlaneSpec(this.#artefacts, plan));
    await this.#linkRoot(pid);
    for (const each of plans) {
      const node = new Node(plan, each);
      this.#nodes.push(node);
      writeNodeFiles(plan, each, options);
      await node.boot(this.#artefacts, true);
    }
    const images = Promise.all(this.#nodes.map((node) => this.#loadOwnImages(node)));
    images.catch(() => undefined);
    await until('the API server is ready', async () => (await this.api.call('GET', '/readyz')) === 'ok', {
      timeoutMs: START_TIMEOUT_MS,
    });
    for (const part of CONTROLLERS) this.startPart(part);
    for (const node of this.#nodes) for (const part of NODE_DAEMONS) node.startPart(part);
    for (const [path, object] of nameServer(plan)) await this.api.call('POST', path, object);
    await images;
    await Promise.all(this.#nodes.map((node) => this.#awaitNode(node)));
    await until(
      'CoreDNS is ready',
      async () => {
        const deployment = await this.api.call('GET', '/apis/apps/v1/namespaces/kube-system/deployments/coredns');
        return ((deployment as { status?: { availableReplicas?: number } }).status?.availableReplicas ?? 0) > 0;
      },
      { timeoutMs: START_TIMEOUT_MS },
    );
    await until('namespace default has its service account', () =>
      this.api.call('GET', '/api/v1/namespaces/default/serviceaccounts/default'),
    );
  }

  /** So that this machine reaches the API server, nodes and pods. */
  async #linkRoot(pid: number): Promise<void> {
    const { link, gateway, podCidr } = this.plan;
    await sh(['ip', 'link', 'add', link, 'type', 'veth', 'peer', 'name', 'up0', 'netns', String(pid)]);
    await sh(['ip', 'address', 'add', `${gateway}/24`, 'dev', link]);
    await sh(['ip', 'link', 'set', link, 'up']);
    await sh(['ip', 'route', 'add', podCidr, 'via', this.plan.apiAddress]);
  }

  async #loadOwnImages(node: Node): Promise<void> {
    const { pause, appImage, coredns } = this.#artefacts;
    for (const archive of [pause, coredns, appImage]) await node.load(archive);
  }

  async #awaitNode(node: Node): Promise<void> {
    const { name, plan } = node;
    const path = `/api/v1/nodes/${name}`;
    const patch = { spec: { podCIDR: plan.podCidr, podCIDRs: [plan.podCidr] } };
    await until(`${name} has registered`, () => this.api.call('PATCH', path, patch, 'application/merge-patch+json'), {
      timeoutMs: START_TIMEOUT_MS,
    });
    await until(`${name} is ready`, async () => isReady(await this.api.call('GET', path)), {
      timeoutMs: START_TIMEOUT_MS,
    });
    await awaitProxy(node);
  }
}

export class Node {
  readonly plan: NodePlan;
  readonly #cluster: Plan;

  constructor(cluster: Plan, plan: NodePlan) {
    this.#cluster = cluster;
    this.plan = plan;
  }

  get name(): string {
    return this.plan.name;
  }

  get address(): string {
    return this.plan.address;
  }

  /** The node's first process as this machine numbers it: /proc/PID/ns/net, /proc/PID/root/run/meltemi… */
  get pid(): number {
    return machine.machinePid(this.plan.directory);
  }

  /** Runs a program on the node, as a daemon on it would run, and gives its standard output. */
  exec(command: readonly string[], input?: string, timeoutMs = 60_000): Promise<string> {
    return sh(this.on(command), { ...(input === undefined ? {} : { input }), timeoutMs });
  }

  /** The command line for it, for those who start it themselves. */
  on(command: readonly string[]): readonly string[] {
    return machine.on(this.plan.directory, command);
  }

  /** A path of the node as this machine sees it. */
  path(path: string): string {
    return machine.outside(this.plan.directory, path);
  }

  /** containerd, kubelet, kube-proxy: killed, and started again by itself. */
  killPart(part: string): void {
    machine.killService(this.plan.directory, part);
  }

  stopPart(part: string): void {
    machine.hold(this.plan.directory, part);
  }

  startPart(part: string): void {
    machine.release(this.plan.directory, part);
  }

  /** Imports a docker-archive. */
  async load(archive: string): Promise<void> {
    await until(`containerd of ${this.name} runs`, () => existsSync(this.path('/run/containerd/containerd.sock')));
    await feed(archive, this.on(['ctr', '--namespace', 'k8s.io', 'images', 'import', '-']));
  }

  async powerOff(): Promise<void> {
    await machine.killMachine(this.plan.directory);
    const remove = machine.on(controlPlaneDirectory(this.#cluster), ['ip', 'link', 'delete', this.name]);
    await sh(remove).catch(() => undefined);
  }

  async boot(built: Artefacts, held: boolean): Promise<void> {
    const control = machine.machinePid(controlPlaneDirectory(this.#cluster));
    const spec = nodeSpec(built, this.#cluster, this.plan, held);
    const pid = await machine.startMachine(built.node, this.plan.directory, spec);
    const own = ['name', this.name, 'netns', String(control)];
    await sh(['ip', 'link', 'add', ...own, 'type', 'veth', 'peer', 'name', 'eth0', 'netns', String(pid)]);
    const onSwitch = machine.on(controlPlaneDirectory(this.#cluster), [
      'ip',
      'link',
      'set',
      this.name,
      'master',
      BRIDGE,
      'up',
    ]);
    await until(`${this.name} hangs on the switch`, async () => (await sh(onSwitch)) === '');
  }
}

function awaitProxy({ name, address }: Node): Promise<boolean> {
  const url = `http://${address}:${PROXY_HEALTH_PORT}/healthz`;
  const options = { timeoutMs: START_TIMEOUT_MS };
  return until(`kube-proxy of ${name} has synced`, async () => (await fetch(url)).ok, options);
}

function optionsFile({ directory }: Plan): string {
  return join(directory, 'options.json');
}

function readOptions(plan: Plan): NodeOptions {
  return JSON.parse(readFileSync(optionsFile(plan), 'utf8')) as NodeOptions;
}

function isReady(node: unknown): boolean {
  const { status } = node as { status?: { conditions?: readonly { type: string; status: string }[] } };
  return status?.conditions?.some(({ type, status }) => type === 'Ready' && status === 'True') ?? false;
}

/** Runs a program with a file as its standard input. */
async function feed(file: string, command: readonly string[]): Promise<void> {
  const [program = '', ...args] = ['sh', '-c', 'file=$1; shift; exec "$@" < "$file"', 'sh', file, ...command];
  const child = spawn(program, args, { stdio: ['ignore', 'ignore', 'pipe'] });
  let problem = '';
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    problem += text;
  });
  const code = await new Promise<number | null>((resolve, reject) => child.on('error', reject).on('close', resolve));
  if (code !== 0) throw new Error(`import of ${file}: ${problem.trim()}`);
}

/** The last lines of every log of a cluster, for the message of one that failed. */
function logTails(directory: string): string {
  const machines = readdirSync(directory, { withFileTypes: true }).filter((entry) => entry.isDirectory());
  const files = machines.flatMap(({ name }) => {
    const logs = join(directory, name, 'var/log');
    const found = existsSync(logs) ? readdirSync(logs).filter((file) => file.endsWith('.log')) : [];
    return [join(directory, name, 'init.log'), ...found.map((file) => join(logs, file))];
  });
  return files
    .filter((file) => existsSync(file))
    .map((file) => {
      const text = readFileSync(file, 'utf8');
      return `\n== ${file}\n${text.split('\n').slice(-LOG_LINES).join('\n')}`;
    })
    .join('');
}

const START_TIMEOUT_MS = 90_000;
const LOG_LINES = 8;
