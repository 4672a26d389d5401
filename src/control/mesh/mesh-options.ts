/** What the whole mesh agrees on. */
export interface MeshOptions {
  /** Id of this cluster, first part of every workload's uid. */
  readonly cluster: string;
  /** Network of this cluster's workloads; empty where there is only one. */
  readonly network: string;
  readonly trustDomain: string;
  /** DNS suffix of services. */
  readonly clusterDomain: string;
  /** Policies here hold for the whole mesh. */
  readonly rootNamespace: string;
}
