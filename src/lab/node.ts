import type { ChildProcess } from 'node:child_process';
import { type FSWatcher, mkdirSync, readFileSync, rmSync, watch } from 'node:fs';
import { join } from 'node:path';
import { type AddressPair, type AddressPool, both, NAMESERVER, nodeAddresses, podPool } from './addresses.js';
import type { Daemon } from './daemon.js';
import { netnsOf } from './network.js';
import { type LabPod, searchDomains } from './pod.js';
import { writeWhole } from './write-whole.js';

/** A node: a namespace on the fabric, the pods behind it, its agent, and the directory by which the two talk. */
export class LabNode {
  readonly name: string;
  readonly addresses: AddressPair;
  readonly pool: AddressPool;
  agent: Daemon | undefined;
  /** Of the agent that last said that it is ready. */
  readyPid: number | undefined;
  readonly #records = new Map<string, string>();
  readonly #watcher: FSWatcher;

  constructor(
    readonly index: number,
    readonly holder: ChildProcess,
    readonly directory: string,
    /** The agent said something about a pod. */
    onRedirection: () => void,
  ) {
    this.name = `node-${index}`;
    this.addresses = nodeAddresses(index);
    this.pool = podPool(index);
    for (const part of ['pods', 'redirection']) mkdirSync(join(directory, part), { recursive: true });
    this.#watcher = watch(join(directory, 'redirection'), { persistent: false }, onRedirection);
  }

  get pid(): number {
    return this.holder.pid ?? 0;
  }

  get netns(): string {
    return netnsOf(this.pid);
  }

  get agentReady(): boolean {
    return this.readyPid !== undefined && this.readyPid === this.agent?.pid;
  }

  /** Tells the agent of a pod that has a network namespace, or of a change of its facts. */
  publish(pod: LabPod, namespaceLabels: Readonly<Record<string, string>>, clusterDomain: string): void {
    const { uid, plan, addresses } = pod.start;
    const { name, namespace, labels, annotations } = pod.object.metadata;
    const record = JSON.stringify({
      uid,
      name,
      namespace,
      serviceAccount: plan.serviceAccount,
      labels,
      annotations,
      namespaceLabels,
      hostNetwork: plan.hostNetwork,
      netns: pod.netns,
      ips: both(addresses),
      nameservers: both(NAMESERVER),
      searchDomains: searchDomains(namespace, clusterDomain),
      phase: pod.phase,
    });
    if (this.#records.get(uid) === record) return;
    writeWhole(this.#recordPath(uid), record);
    this.#records.set(uid, record);
  }

  withdraw(uid: string): void {
    if (this.#records.delete(uid)) rmSync(this.#recordPath(uid), { force: true });
  }

  /** `enabled`, `pending: why`, or empty when the pod is not captured. */
  redirection(uid: string): string {
    try {
      return readFileSync(join(this.directory, 'redirection', uid), 'utf8').trim();
    } catch {
      return '';
    }
  }

  close(): void {
    this.#watcher.close();
  }

  #recordPath(uid: string): string {
    return join(this.directory, 'pods', `${uid}.json`);
  }
}
