/** What `meltemi lab status --json` prints. Field names are a contract with outside tools. */
export interface LabStatus {
  readonly name: string;
  readonly directory: string;
  /** Grows with every change; see `after` of the status request. */
  readonly version: number;
  readonly pid: number;
  readonly mesh: boolean;
  /** Where the nodes meet; neither a node nor a pod, and outside of the mesh. */
  readonly fabric: { readonly netns: string; readonly addresses: readonly string[] };
  readonly controlPlane: ControlPlaneStatus | null;
  readonly nodes: readonly NodeStatus[];
  readonly pods: readonly PodStatus[];
  readonly services: readonly ServiceStatus[];
  /** What could not be done, one sentence each. */
  readonly problems: readonly string[];
}

export interface ControlPlaneStatus {
  /** 0 while it does not run. */
  readonly pid: number;
  readonly ready: boolean;
  readonly restarts: number;
  readonly address: string;
  readonly adminSocket: string;
  readonly log: string;
}

export interface NodeStatus {
  readonly name: string;
  readonly netns: string;
  readonly addresses: readonly string[];
  /** Of the agent; 0 while it does not run, or in a lab without a mesh. */
  readonly agentPid: number;
  readonly agentReady: boolean;
  readonly agentRestarts: number;
  readonly adminSocket: string;
  readonly accessLog: string;
  readonly log: string;
}

export interface PodStatus {
  readonly name: string;
  readonly namespace: string;
  readonly uid: string;
  readonly node: string;
  readonly serviceAccount: string;
  readonly netns: string;
  readonly addresses: readonly string[];
  /** Main processes of the containers. */
  readonly pids: readonly number[];
  readonly phase: string;
  readonly ready: boolean;
  readonly stopping: boolean;
  readonly restarts: number;
  /** `enabled`, `pending: why`, or empty. */
  readonly redirection: string;
  readonly message: string;
  readonly log: string;
}

export interface ServiceStatus {
  readonly name: string;
  readonly namespace: string;
  readonly addresses: readonly string[];
  readonly ports: readonly number[];
  readonly readyPods: number;
}
