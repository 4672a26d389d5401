import type { Clock } from '../lib/clock.js';
import { type AddressPair, both } from './addresses.js';
import type { LabLayout } from './layout.js';
import type { LabNode } from './node.js';
import { type KubeObject, objectTitle } from './objects.js';
import { LabPod, podKey } from './pod.js';
import { type PodPlan, planPod } from './pod-plan.js';
import type { TokenIssuer } from './tokens.js';
import { uidOf } from './workloads.js';

export interface PodSetOptions {
  readonly layout: LabLayout;
  readonly nodes: () => readonly LabNode[];
  readonly tokens: TokenIssuer;
  readonly clock: Clock;
  readonly mtu: number;
  readonly marker: string;
  readonly clusterDomain: string;
  readonly onChange: () => void;
  readonly admitted: (pod: LabPod) => Promise<void>;
  readonly released: (pod: LabPod) => Promise<void>;
}

/** Brings the pods that run in line with the pods that are wanted: places, starts, replaces, stops. */
export class PodSet {
  readonly #pods = new Map<string, LabPod>();
  readonly #unplaced = new Map<string, string>();
  #made = 0;

  constructor(readonly options: PodSetOptions) {}

  list(): readonly LabPod[] {
    return [...this.#pods.values()];
  }

  /** Pods that cannot be placed, by `namespace/name`, and why. */
  get unplaced(): ReadonlyMap<string, string> {
    return this.#unplaced;
  }

  /** A pod by name; without a namespace any, if there is only one of that name. */
  find(name: string, namespace: string | undefined): LabPod | undefined {
    if (namespace !== undefined) return this.#pods.get(podKey(namespace, name));
    const found = this.list().filter(({ object }) => object.metadata.name === name);
    return found.length === 1 ? found[0] : this.#pods.get(podKey('default', name));
  }

  /** A pod whose spec changed is stopped, and started anew once it is gone (which calls `onChange`). */
  sync(wanted: readonly KubeObject[]): void {
    const byKey = new Map(wanted.map((pod) => [podKey(pod.metadata.namespace, pod.metadata.name), pod]));
    this.#unplaced.clear();
    for (const [key, pod] of this.#pods) {
      const object = byKey.get(key);
      if (object === undefined || JSON.stringify(object.spec) !== JSON.stringify(pod.start.pod.spec))
        this.#stop(key, pod);
      else pod.object = object;
    }
    for (const [key, object] of byKey) if (!this.#pods.has(key)) this.#start(key, object);
  }

  async stopAll(graceMs: number): Promise<void> {
    await Promise.all(this.list().map((pod) => pod.stop(Math.min(graceMs, pod.start.plan.graceMs))));
  }

  #start(key: string, object: KubeObject): void {
    const { options } = this;
    const plan = planPod(object);
    if (!plan.ok) {
      this.#unplaced.set(key, plan.error);
      return;
    }
    const node = this.#place(plan.value);
    const addresses = plan.value.hostNetwork ? node?.addresses : node?.pool.take();
    if (node === undefined || addresses === undefined) {
      const cause =
        node === undefined ? `there is no node ${plan.value.nodeName ?? ''}` : `${node.name} has no address left`;
      this.#unplaced.set(key, `${objectTitle(object)}: ${cause}`);
      return;
    }
    const { name, namespace } = object.metadata;
    this.#made += 1;
    const uid = uidOf(`${options.marker}/${key}/${this.#made}`);
    const pod = new LabPod({
      uid,
      pod: object,
      plan: plan.value,
      nodeName: node.name,
      nodePid: node.pid,
      nodeAddresses: node.addresses,
      addresses,
      link: `pod${this.#made}`,
      mtu: options.mtu,
      directory: options.layout.pod(namespace, name),
      log: options.layout.podLog(namespace, name),
      clusterDomain: options.clusterDomain,
      token: options.tokens.forPod(namespace, plan.value.serviceAccount, { name, uid }),
      marker: options.marker,
      clock: options.clock,
      onChange: options.onChange,
      admitted: options.admitted,
      released: options.released,
    });
    this.#pods.set(key, pod);
    pod.run();
  }

  #stop(key: string, pod: LabPod): void {
    if (pod.stopping) return;
    void pod.stop().finally(() => {
      this.#pods.delete(key);
      this.#releaseAddresses(pod, pod.start.addresses);
      this.options.onChange();
    });
  }

  #releaseAddresses(pod: LabPod, addresses: AddressPair): void {
    if (pod.start.plan.hostNetwork) return;
    const node = this.options.nodes().find(({ name }) => name === pod.start.nodeName);
    for (const ip of both(addresses)) node?.pool.release(ip);
  }

  /** The node that the pod names (also by the label kubernetes.io/hostname), else the one with the fewest pods. */
  #place(plan: PodPlan): LabNode | undefined {
    const nodes = this.options.nodes();
    if (plan.nodeName !== undefined) return nodes.find(({ name }) => name === plan.nodeName);
    const count = (node: LabNode) =>
      this.list().filter(({ start, stopping }) => start.nodeName === node.name && !stopping).length;
    return nodes.toSorted((a, b) => count(a) - count(b))[0];
  }
}
