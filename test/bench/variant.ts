import type { Topology } from './topology.js';

/** One way for bytes to get from the client to the server. */
export interface Variant {
  readonly name: string;
  /** What it is, for the table's legend. */
  readonly about: string;
  /** It keeps the workloads of the whole mesh, so its memory depends on their number. */
  readonly knowsWorkloads?: boolean;
  /** Starts everything and resolves when the first connection would go through. */
  start(topology: Topology, options: StartOptions): Promise<RunningVariant>;
}

export interface StartOptions {
  /** Workloads that the mesh knows beside the two; 0 for the plain runs. */
  readonly workloads: number;
}

export interface RunningVariant {
  /** Processes whose CPU time and memory count: client's side first. Empty for direct. */
  readonly pids: readonly number[];
  stop(): Promise<void>;
}

export const direct: Variant = {
  name: 'direct',
  about: 'no proxy, no encryption',
  start: async () => ({ pids: [], stop: async () => undefined }),
};
