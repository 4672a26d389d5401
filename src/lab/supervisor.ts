import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import type { Clock } from '../lib/clock.js';
import type { Logger } from '../telemetry/log.js';
import { both, FABRIC } from './addresses.js';
import { shallBeCaptured } from './capture-rule.js';
import { endChild } from './children.js';
import { clusterObjects } from './cluster-objects.js';
import { DEFAULT_NAMES } from './config-files.js';
import type { LabLayout } from './layout.js';
import { ManifestMirror } from './manifests.js';
import { MeshProcesses } from './mesh.js';
import { NameServer } from './name-server.js';
import { NAME_SERVER_OBJECTS } from './name-server-objects.js';
import { type NameTable, nameTable } from './names.js';
import { holdNamespace, joinNode, makeFabric, setRules } from './network.js';
import { LabNode } from './node.js';
import { changeLabels, ObjectStore } from './object-store.js';
import { type KubeObject, objectKey } from './objects.js';
import { type LabPod, podKey } from './pod.js';
import { PodSet } from './pod-set.js';
import { serviceRules } from './service-rules.js';
import { type PodView, type ServiceView, serviceTable } from './service-table.js';
import { describeLab, type LabStatus } from './status.js';
import { TokenIssuer } from './tokens.js';
import { expandWorkloads } from './workloads.js';

export interface SupervisorOptions {
  readonly layout: LabLayout;
  readonly nodes: number;
  /** Without a mesh there are neither agents nor a control plane; pods and Services work all the same. */
  readonly mesh: boolean;
  readonly mtu: number;
  readonly marker: string;
  readonly program: readonly string[];
  readonly clock: Clock;
  readonly log: Logger;
}

/**
 * Runs one lab, in a network namespace of its own: it is the API server (`store`), the scheduler and kubelet (`pods`),
 * kube-proxy and name server of a small cluster, and keeps the mesh's processes running. Everything follows from the
 * store: any change leads to one more round, which brings the world in line.
 */
export class Supervisor {
  readonly store = new ObjectStore([DEFAULT_NAMES.rootNamespace, 'default', 'kube-system']);
  readonly pods: PodSet;
  readonly mesh: MeshProcesses | undefined;
  version = 0;
  readonly #options: SupervisorOptions;
  readonly #nodes: LabNode[] = [];
  readonly #podLabels = new Map<string, Readonly<Record<string, string | null>>>();
  readonly #mirror: ManifestMirror;
  readonly #nameServer = new NameServer(() => this.#names);
  readonly #rules = new Map<string, string>();
  readonly #waiting = new Set<() => void>();
  #names: NameTable = new Map();
  #services: readonly ServiceView[] = [];
  #problems: readonly string[] = [];
  /** Pods that were ready when the rules of Services were last made: what waits for a pod may then use its Service. */
  #served: ReadonlySet<LabPod> = new Set();
  #dirty = false;
  #running: Promise<void> | undefined;
  #stopped = false;

  constructor(options: SupervisorOptions) {
    this.#options = options;
    const { layout, clock, marker, mtu } = options;
    const onChange = () => this.touch();
    this.#mirror = new ManifestMirror(layout.manifests);
    const tokens = new TokenIssuer(`https://meltemi.lab/${layout.name}`, clock, join(layout.control, 'issuer.pem'));
    const env = { ...process.env, MELTEMI_LAB: marker };
    if (options.mesh) this.mesh = new MeshProcesses({ layout, tokens, clock, env, program: options.program, onChange });
    this.pods = new PodSet({
      layout,
      tokens,
      clock,
      marker,
      mtu,
      onChange,
      nodes: () => this.#nodes,
      clusterDomain: DEFAULT_NAMES.clusterDomain,
      admitted: (pod) => this.#admitted(pod),
      released: (pod) => this.#released(pod),
    });
  }

  async start(): Promise<void> {
    const { nodes, layout, marker, mtu } = this.#options;
    await makeFabric();
    await this.#nameServer.listen(both(FABRIC));
    const env = { PATH: process.env.PATH, MELTEMI_LAB: marker };
    const indexes = Array.from({ length: nodes }, (_, index) => index + 1);
    const holders = await Promise.all(indexes.map(() => holdNamespace(env)));
    for (const [position, holder] of holders.entries()) {
      const index = position + 1;
      const directory = layout.node(`node-${index}`);
      mkdirSync(directory, { recursive: true });
      this.#nodes.push(new LabNode(index, holder, directory, () => this.touch()));
      await joinNode(index, nodes, holder.pid ?? 0, mtu);
    }
    this.touch();
    await this.#running;
    this.mesh?.start(this.#nodes);
  }

  /** Something changed: there will be one more round. */
  touch(): void {
    this.#dirty = true;
    if (this.#running !== undefined || this.#stopped) return;
    // Begun later, so that a change made by a round finds `#running` set: two rounds at once would undo each other.
    this.#running = Promise.resolve()
      .then(() => this.#rounds())
      .finally(() => {
        this.#running = undefined;
        // What came between the last look and here.
        if (this.#dirty) this.touch();
      });
  }

  /** Resolves once `condition` holds; it is looked at after every change. */
  async until(condition: () => boolean): Promise<void> {
    while (!condition()) await new Promise<void>((resolve) => this.#waiting.add(resolve));
  }

  /** Labels of a pod that a Deployment made are kept beside it, as the next round makes the pod anew. */
  labelPod(pod: LabPod, changes: Readonly<Record<string, string | null>>): void {
    this.#podLabels.set(pod.key, { ...this.#podLabels.get(pod.key), ...changes });
    this.touch();
  }

  status(): LabStatus {
    return describeLab({
      layout: this.#options.layout,
      version: this.version,
      mesh: this.mesh,
      nodes: this.#nodes,
      pods: this.pods.list(),
      services: this.#services,
      problems: this.#problems,
      redirection: (pod) => this.#redirection(pod),
      isServed: (pod) => this.#served.has(pod),
    });
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    // Nobody is left to drain for: the agents go at once.
    await Promise.all([this.pods.stopAll(STOP_GRACE_MS), this.mesh?.stop(0)]);
    this.#nameServer.close();
    for (const node of this.#nodes) node.close();
    await Promise.all(this.#nodes.map(({ holder }) => endChild(holder, 0)));
  }

  async #rounds(): Promise<void> {
    while (this.#dirty && !this.#stopped) {
      this.#dirty = false;
      try {
        await this.#round();
      } catch (error) {
        this.#options.log.error({ error }, 'the world could not be brought in line; trying again with the next change');
        this.#problems = [...this.#problems, error instanceof Error ? error.message : String(error)];
      }
      this.version += 1;
      const waiting = [...this.#waiting];
      this.#waiting.clear();
      for (const resolve of waiting) resolve();
    }
  }

  async #round(): Promise<void> {
    const objects = withNameServer(this.store.list());
    const expanded = expandWorkloads(
      objects,
      this.#nodes.map(({ name }) => name),
    );
    const wanted = [...objects.filter(({ kind }) => kind === 'Pod'), ...expanded.pods].map((pod) =>
      this.#labelled(pod),
    );
    this.pods.sync(wanted);
    const pods = this.pods.list();
    const views = pods.filter(({ phase }) => phase === 'Running').map(viewOf);
    this.#services = serviceTable(objects, views);
    this.#names = nameTable(this.#services, views, DEFAULT_NAMES.clusterDomain);
    this.#problems = [...expanded.problems, ...this.pods.unplaced.values()];
    // The agent and the control plane learn of a pod before it is admitted, so before any of its processes runs.
    for (const pod of pods) this.#publish(pod);
    this.#mirror.sync(clusterObjects(objects, this.#nodes, pods, (pod) => this.#redirection(pod)));
    const ready = pods.filter((pod) => pod.ready);
    await this.#setServices(pods);
    this.#served = new Set(ready);
  }

  #publish(pod: LabPod): void {
    const node = this.#nodeOf(pod);
    // A pod that stops is withdrawn when its last process has ended; one that has no namespace cannot be captured.
    if (node === undefined || pod.netns === '' || pod.stopping) return;
    node.publish(pod, this.store.namespaceLabels(pod.object.metadata.namespace), DEFAULT_NAMES.clusterDomain);
  }

  async #setServices(pods: readonly LabPod[]): Promise<void> {
    await this.#setRules('fabric', undefined, serviceRules(this.#services, undefined));
    for (const node of this.#nodes) {
      const own = pods.filter(({ start }) => start.nodeName === node.name && !start.plan.hostNetwork);
      const podAddresses = own.flatMap(({ start }) => both(start.addresses));
      await this.#setRules(
        node.name,
        node.netns,
        serviceRules(this.#services, { addresses: node.addresses, podAddresses }),
      );
    }
  }

  async #setRules(name: string, netns: string | undefined, rules: string): Promise<void> {
    if (this.#rules.get(name) === rules) return;
    await setRules(netns, rules);
    this.#rules.set(name, rules);
  }

  async #admitted(pod: LabPod): Promise<void> {
    this.touch();
    await this.until(() => pod.stopping || !this.#waitsForCapture(pod));
    if (pod.stopping) throw new Error('the pod is stopped');
  }

  #waitsForCapture(pod: LabPod): boolean {
    if (this.mesh === undefined) return false;
    const { labels, annotations, namespace } = pod.object.metadata;
    const namespaceLabels = this.store.namespaceLabels(namespace);
    const captured = shallBeCaptured({ labels, annotations, namespaceLabels, hostNetwork: pod.start.plan.hostNetwork });
    return captured && this.#redirection(pod) !== 'enabled';
  }

  /** Lets the agent take its rules and listeners out of the pod's namespace while that is still there. */
  async #released(pod: LabPod): Promise<void> {
    const captured = this.#redirection(pod) !== '';
    this.#nodeOf(pod)?.withdraw(pod.start.uid);
    if (!captured || this.#stopped) return;
    const { promise, resolve } = Promise.withResolvers<void>();
    const cancel = this.#options.clock.schedule(RELEASE_TIMEOUT_MS, resolve);
    await Promise.race([promise, this.until(() => this.#redirection(pod) === '')]);
    cancel();
  }

  #redirection(pod: LabPod): string {
    return this.mesh === undefined ? '' : (this.#nodeOf(pod)?.redirection(pod.start.uid) ?? '');
  }

  #nodeOf(pod: LabPod): LabNode | undefined {
    return this.#nodes.find(({ name }) => name === pod.start.nodeName);
  }

  #labelled(pod: KubeObject): KubeObject {
    const changes = this.#podLabels.get(podKey(pod.metadata.namespace, pod.metadata.name));
    if (changes === undefined) return pod;
    return { ...pod, metadata: { ...pod.metadata, labels: changeLabels(pod.metadata.labels, changes) } };
  }
}

/** It cannot be taken away or changed: every pod's resolv.conf names it. */
function withNameServer(objects: readonly KubeObject[]): readonly KubeObject[] {
  const own = new Set(NAME_SERVER_OBJECTS.map(objectKey));
  return [...NAME_SERVER_OBJECTS, ...objects.filter((object) => !own.has(objectKey(object)))];
}

function viewOf(pod: LabPod): PodView {
  const { plan, addresses } = pod.start;
  const { name, namespace, labels } = pod.object.metadata;
  const ports = plan.containers.flatMap((container) => container.ports);
  const { hostname, subdomain } = plan;
  return { name, namespace, labels, addresses: both(addresses), ready: pod.ready, hostname, subdomain, ports };
}

const STOP_GRACE_MS = 1000;
const RELEASE_TIMEOUT_MS = 2000;
