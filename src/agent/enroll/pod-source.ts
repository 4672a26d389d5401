import type { PodRecord } from './pod-record.js';

/** Where the pods of this node come from, and where word of their redirection goes. */
export interface PodSource {
  /**
   * Calls back with all pods of the node: once the first list is complete, and again after each change. The list is the
   * truth; who is missing is gone.
   */
  start(changed: (pods: readonly PodRecord[]) => void): Promise<void>;
  /** `enabled`, `pending: why`, or undefined when the pod is not (or no longer) redirected. */
  report(pod: PodRecord, redirection: string | undefined): void;
  /** The pod is about to leave the mesh: whoever asks is told that it takes no tunnels, while it still does. */
  leaving?(pod: PodRecord): void;
  /** Whether a former process has left the pod redirected, as far as was reported. */
  wasRedirected(pod: PodRecord): boolean;
  /** Nothing of ours is left in the pod's network namespace: it need not be held. */
  released(pod: PodRecord): void;
  close(): void;
}
