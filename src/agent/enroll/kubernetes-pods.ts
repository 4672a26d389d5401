import type { ApiObject, KubeApi } from '../../kube/api.js';
import { type ReflectedChange, type Reflection, reflect } from '../../kube/reflect.js';
import { RESOURCES } from '../../kube/resources.js';
import type { Clock } from '../../lib/clock.js';
import type { Logger } from '../../telemetry/log.js';
import { type NetnsHandle, NetnsHandles } from './netns-handles.js';
import { findPodProcesses, netnsIdOf, type PodProcess } from './netns-search.js';
import { podNames, type ResolvConf } from './pod-names.js';
import { type PodFacts, podFacts } from './pod-object.js';
import { captureOf, type PodRecord, revisionOf } from './pod-record.js';
import type { PodSource } from './pod-source.js';
import { RedirectionWriter } from './redirection-writer.js';
import type { Sandbox, Sandboxes } from './sandboxes.js';

export interface KubernetesPodsOptions {
  readonly api: KubeApi;
  readonly node: string;
  readonly revision: string;
  /** Namespaces whose pods are never captured. */
  readonly excludedNamespaces: readonly string[];
  readonly clusterDomain: string;
  /** Of a pod with `ClusterFirst`, and of the node. */
  readonly resolvConf: { readonly cluster: ResolvConf; readonly node: ResolvConf };
  readonly sandboxes: Sandboxes;
  readonly clock: Clock;
  readonly log: Logger;
  readonly findProcesses?: typeof findPodProcesses;
}

/**
 * The pods of one node from the API server, with their network namespaces from the CNI plugin or, for those that ran
 * before, from the node's processes; and the annotation that says whether they are captured.
 */
export class KubernetesPods implements PodSource {
  readonly #pods = new Map<string, PodFacts>();
  /** Every namespace, by name, with those of its labels that matter. */
  readonly #namespaces = new Map<string, NamespaceLabels>();
  readonly #handles = new NetnsHandles();
  /** Found by search: looked after, as nobody tells when it is replaced. */
  readonly #processes = new Map<string, PodProcess>();
  /** Uids that are gone, so that a late answer does not bring them back; the last few. */
  readonly #gone = new Set<string>();
  readonly #writer: RedirectionWriter;
  readonly #reflections: Reflection[] = [];
  #changed: (pods: readonly PodRecord[]) => void = () => undefined;
  #synced = false;
  #searchedMs = Number.NEGATIVE_INFINITY;
  #cancelPublish: (() => void) | undefined;
  #cancelSearch: () => void = () => undefined;

  constructor(readonly options: KubernetesPodsOptions) {
    this.#writer = new RedirectionWriter(options.api, options.clock, options.log);
  }

  /** Resolves with the first list, however long the API server needs. */
  async start(changed: (pods: readonly PodRecord[]) => void): Promise<void> {
    const { api, node, clock, log, sandboxes } = this.options;
    this.#changed = changed;
    sandboxes.onChange((sandbox) => this.#takeUp(sandbox));
    const trouble = (what: string) => (trouble: { what: string; message: string }) =>
      log.warn({ what, trouble: trouble.what, error: trouble.message }, 'the API server is not heard; trying again');
    const namespaces = reflect(api, RESOURCES.Namespace, {
      read: namespaceFacts,
      selection: { metadataOnly: true },
      handler: {
        synced: (all) => {
          this.#namespaces.clear();
          for (const { name, labels } of all) this.#namespaces.set(name, labels);
          this.#publishLater();
        },
        changed: (change) => this.#namespaceChanged(change),
      },
      clock,
      trouble: trouble('namespaces'),
    });
    const pods = reflect(api, RESOURCES.Pod, {
      read: podFacts,
      selection: { fieldSelector: `spec.nodeName=${node}` },
      handler: {
        synced: (all) => {
          const listed = new Set(all.map(({ uid }) => uid));
          for (const uid of [...this.#pods.keys()]) if (!listed.has(uid)) this.#forget(uid);
          for (const pod of all) this.#put(pod);
          this.#publishLater();
        },
        changed: ({ type, object }) => {
          if (type === 'deleted') this.#forget(object.uid);
          else this.#put(object);
          this.#publishLater();
        },
      },
      clock,
      trouble: trouble('pods'),
    });
    this.#reflections.push(namespaces, pods);
    await Promise.all([namespaces.synced, pods.synced]);
    this.#synced = true;
    this.#publish();
    this.#searchLater();
  }

  report(pod: PodRecord, redirection: string | undefined): void {
    if (!this.#pods.has(pod.uid)) return;
    const value = redirection === undefined || redirection === 'enabled' ? redirection : 'pending';
    this.#writer.want({ uid: pod.uid, namespace: pod.namespace, name: pod.name }, value);
  }

  /** Not nothing yet: a successor has to know that there is something to take away. */
  leaving(pod: PodRecord): void {
    if (!this.#pods.has(pod.uid)) return;
    this.#writer.want({ uid: pod.uid, namespace: pod.namespace, name: pod.name }, 'pending', 0);
  }

  wasRedirected(pod: PodRecord): boolean {
    return (this.#pods.get(pod.uid)?.redirection ?? '') !== '';
  }

  released(pod: PodRecord): void {
    this.#handles.release(pod.uid, pod.netns);
    if (this.#handles.of(pod.uid) === undefined) this.#processes.delete(pod.uid);
  }

  close(): void {
    for (const reflection of this.#reflections) reflection.close();
    this.#cancelPublish?.();
    this.#cancelSearch();
    this.#writer.close();
  }

  #put(pod: PodFacts): void {
    this.#gone.delete(pod.uid);
    this.#pods.set(pod.uid, pod);
    this.#writer.seen({ uid: pod.uid, namespace: pod.namespace, name: pod.name }, pod.redirection);
  }

  #forget(uid: string): void {
    this.#pods.delete(uid);
    this.#writer.forget(uid);
    this.options.sandboxes.remove(uid);
    this.#gone.add(uid);
    if (this.#gone.size > MAX_GONE) for (const oldest of this.#gone) return void this.#gone.delete(oldest);
  }

  #namespaceChanged({ type, object: { name, labels } }: ReflectedChange<NamespaceFacts>): void {
    const before = this.#namespaces.get(name);
    // Its pods may outlive it in the other watch; what it said last stays good for them.
    const isUsed = [...this.#pods.values()].some(({ namespace }) => namespace === name);
    if (type !== 'deleted') this.#namespaces.set(name, labels);
    else if (!isUsed) this.#namespaces.delete(name);
    if (before === undefined || JSON.stringify(before) !== JSON.stringify(labels)) this.#publishLater();
  }

  /** A sandbox that was just made: its pod, and what decides about it, are asked for if the watches may lag behind. */
  async #takeUp(sandbox: Sandbox): Promise<void> {
    if (netnsIdOf(sandbox.netns) === '') throw new Error(`${sandbox.netns} is no network namespace`);
    const { api, node } = this.options;
    const { namespace, name } = sandbox;
    let pod = [...this.#pods.values()].find((each) => isSandboxOf(sandbox, each));
    if (pod === undefined) {
      const object = await api.get(RESOURCES.Pod, { namespace, name });
      const asked = object === undefined ? undefined : podFacts(object);
      if (asked !== undefined && asked.node === node && isSandboxOf(sandbox, asked) && !this.#gone.has(asked.uid)) {
        this.#put(asked);
      }
      pod = asked;
    }
    const captured = pod !== undefined && captureOf(this.#record(pod)).captured;
    if (!captured) await this.#lookUpNamespace(namespace);
    this.#publish();
  }

  /** Whether a pod may start without the mesh is not decided by a watch that may lag. */
  async #lookUpNamespace(name: string): Promise<void> {
    try {
      const object = await this.options.api.get(RESOURCES.Namespace, { name });
      if (object !== undefined) this.#namespaces.set(name, namespaceFacts(object).labels);
    } catch (error) {
      // What the watch said last is as good as it gets.
      if (!this.#namespaces.has(name)) throw error;
    }
  }

  /** Several events make one list. */
  #publishLater(): void {
    if (!this.#synced) return;
    this.#cancelPublish ??= this.options.clock.schedule(0, () => this.#publish());
  }

  #publish(): void {
    this.#cancelPublish?.();
    this.#cancelPublish = undefined;
    if (!this.#synced) return;
    // A pod whose namespace is not known yet is not known.
    const records = [...this.#pods.values()]
      .filter(({ namespace }) => this.#namespaces.has(namespace))
      .map((pod) => this.#record(pod));
    const lost = records.filter((record) => this.#needsNetns(record) && record.netns === '');
    const found = lost.length > 0 && this.#searchNow(lost);
    this.#changed(found ? records.map((record) => (record.netns === '' ? this.#again(record) : record)) : records);
  }

  #again(record: PodRecord): PodRecord {
    const pod = this.#pods.get(record.uid);
    return pod === undefined ? record : this.#record(pod);
  }

  #record(pod: PodFacts): PodRecord {
    const { excludedNamespaces, revision, clusterDomain, resolvConf, sandboxes } = this.options;
    const namespaceLabels = this.#namespaces.get(pod.namespace) ?? NO_LABELS;
    const sandbox = sandboxes.of(pod);
    const names = podNames(pod.dns, pod.namespace, clusterDomain, resolvConf);
    const record: PodRecord = {
      uid: pod.uid,
      name: pod.name,
      namespace: pod.namespace,
      serviceAccount: pod.serviceAccount,
      labels: pod.labels,
      annotations: pod.annotations,
      namespaceLabels,
      hostNetwork: pod.hostNetwork,
      netns: '',
      // The runtime knows them before the API server does, perhaps in another order.
      ips: sandbox !== undefined && (pod.ips.length === 0 || sameSet(sandbox.ips, pod.ips)) ? sandbox.ips : pod.ips,
      nameservers: names.nameservers,
      searchDomains: names.searches,
      phase: pod.phase,
      ...(excludedNamespaces.includes(pod.namespace)
        ? { notOurs: 'excluded-namespace' as const }
        : revisionOf(pod.labels, namespaceLabels) !== revision
          ? { notOurs: 'other-revision' as const }
          : {}),
    };
    return { ...record, netns: this.#netnsOf(record, sandbox)?.path ?? '' };
  }

  #netnsOf(record: PodRecord, sandbox: Sandbox | undefined): NetnsHandle | undefined {
    if (!this.#needsNetns(record)) return this.#handles.of(record.uid);
    const process = this.#processes.get(record.uid);
    const path = sandbox?.netns ?? process?.netns;
    if (path === undefined) return this.#handles.of(record.uid);
    try {
      return this.#handles.hold(record.uid, path);
    } catch {
      // Its process has ended since, or the runtime has taken it away: what is open is still it.
      return this.#handles.of(record.uid);
    }
  }

  #needsNetns(record: PodRecord): boolean {
    return captureOf(record).captured || (this.wasRedirected(record) && record.notOurs !== 'other-revision');
  }

  /** As `search`, but not for each of many changes. */
  #searchNow(records: readonly PodRecord[]): boolean {
    return this.options.clock.now() - this.#searchedMs >= SEARCH_PAUSE_MS && this.#search(records);
  }

  /** Looks for the processes of these pods. True when something was found. */
  #search(records: readonly PodRecord[]): boolean {
    const { findProcesses = findPodProcesses } = this.options;
    const wanted = new Map<string, PodFacts>();
    for (const { uid } of records) {
      const pod = this.#pods.get(uid);
      // Without an address there is no sandbox yet.
      if (pod !== undefined && pod.ips.length > 0) wanted.set(uid, pod);
    }
    if (wanted.size === 0) return false;
    this.#searchedMs = this.options.clock.now();
    const found = findProcesses(wanted);
    for (const [uid, process] of found) this.#processes.set(uid, process);
    return found.size > 0;
  }

  /** A sandbox that the kubelet made anew is another namespace; nobody tells when there is no CNI plugin of ours. */
  #searchLater(): void {
    this.#cancelSearch = this.options.clock.schedule(SEARCH_MS, () => {
      const ended = [...this.#processes].filter(([, process]) => netnsIdOf(process.netns) !== process.netnsId);
      for (const [uid] of ended) this.#processes.delete(uid);
      const records = [...this.#pods.values()].map((pod) => this.#record(pod));
      const lost = records.filter(
        (record) => this.#needsNetns(record) && (record.netns === '' || ended.some(([uid]) => uid === record.uid)),
      );
      if (lost.length > 0 && this.#search(lost)) this.#publish();
      this.#searchLater();
    });
  }
}

type NamespaceLabels = Readonly<Record<string, string>>;

interface NamespaceFacts {
  readonly name: string;
  readonly labels: NamespaceLabels;
}

function namespaceFacts({ metadata }: ApiObject): NamespaceFacts {
  const labels = (metadata.labels ?? {}) as NamespaceLabels;
  const read = READ_LABELS.filter((name) => typeof labels[name] === 'string');
  return {
    name: metadata.name,
    labels: read.length === 0 ? NO_LABELS : Object.fromEntries(read.map((name) => [name, labels[name] ?? ''])),
  };
}

function isSandboxOf(sandbox: Sandbox, pod: PodFacts): boolean {
  const { uid, namespace, name } = sandbox;
  return pod.namespace === namespace && pod.name === name && (uid === '' || uid === pod.uid);
}

function sameSet(a: readonly string[], b: readonly string[]): boolean {
  return a.length === b.length && a.every((each) => b.includes(each));
}

const NO_LABELS: NamespaceLabels = {};
const READ_LABELS = ['istio.io/dataplane-mode', 'istio.io/rev'];
const SEARCH_MS = 2000;
const SEARCH_PAUSE_MS = 200;
const MAX_GONE = 1000;
