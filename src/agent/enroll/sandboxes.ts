/** A pod's network namespace as the container runtime has just made it, told by the CNI plugin. */
export interface Sandbox {
  /** Of the pod object; empty when the runtime did not tell. */
  readonly uid: string;
  readonly namespace: string;
  readonly name: string;
  /** Path of the network namespace as this process can open it. */
  readonly netns: string;
  /** Canonical addresses. */
  readonly ips: readonly string[];
}

/**
 * The seam between the CNI plugin, who knows the namespaces of pods that are being started, and the pod source, who
 * knows the pods.
 */
export class Sandboxes {
  readonly #known = new Map<string, Sandbox>();
  #listener: (sandbox: Sandbox) => Promise<void> = async () => undefined;

  /** `heard` is called with every new sandbox; it resolves when the pod is known as freshly as it can be. */
  onChange(heard: (sandbox: Sandbox) => Promise<void>): void {
    this.#listener = heard;
  }

  /** Resolves when the pod source has taken it up. A new sandbox of a pod takes the place of its former one. */
  async put(sandbox: Sandbox): Promise<void> {
    this.#known.set(nameOf(sandbox), sandbox);
    await this.#listener(sandbox);
  }

  /** By the uid of the pod object. */
  remove(uid: string): void {
    for (const [name, sandbox] of this.#known) if (sandbox.uid === uid) this.#known.delete(name);
  }

  /** The sandbox of a pod; not that of a former pod of the same name. */
  of(pod: { readonly uid: string; readonly namespace: string; readonly name: string }): Sandbox | undefined {
    const sandbox = this.#known.get(nameOf(pod));
    return sandbox === undefined || (sandbox.uid !== '' && sandbox.uid !== pod.uid) ? undefined : sandbox;
  }
}

function nameOf({ namespace, name }: { readonly namespace: string; readonly name: string }): string {
  return `${namespace}/${name}`;
}
