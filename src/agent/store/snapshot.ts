import type { Authorization } from '../../gen/istio/security/authorization_pb.js';
import type { Service, Workload } from '../../gen/istio/workload/workload_pb.js';

/**
 * The mesh as one decision sees it: read-only, and valid for one synchronous call (nothing is copied; the next change
 * is visible at once). What a look-up returns is shared and not to be changed. Lists are in a stable order.
 */
export interface Snapshot {
  readonly version: number;
  /** True once addresses and policies have each been received in full. */
  readonly synced: boolean;

  /** The steady facts of a workload. */
  workload(uid: string): SteadyWorkload | undefined;
  /** Uids of the workloads with this address. */
  workloadsAt(network: string, ip: string): readonly string[];
  /** Names (`namespace/name`) of policies that select the workload; undefined when it is not known. */
  policiesOf(uid: string): readonly string[] | undefined;
  /** By `namespace/hostname`. */
  service(key: string): Service | undefined;
  /** Keys of the services whose virtual address (longest prefix) contains `ip`. */
  servicesAt(network: string, ip: string): readonly string[];
  /** Keys of the services with this hostname. */
  servicesNamed(hostname: string): readonly string[];
  isEndpoint(service: string, uid: string): boolean;
  /** Names of the policies of a namespace, or of the whole mesh (''). */
  policiesIn(namespace: string): readonly string[];
  policy(key: string): Authorization | undefined;
  /** Whether the control plane has said that this policy is gone; false for one of which it never said anything. */
  isPolicyRemoved(key: string): boolean;
  pod(uid: string): LocalPod | undefined;
  /** What the last look-up of a host name came to; undefined when none has, or its answer is too old. */
  name(host: string): KnownName | undefined;
}

/** What decisions may know of a workload: a change of its health or weight touches groups, never verdicts. */
export type SteadyWorkload = Omit<Workload, 'status' | 'capacity' | 'authorizationPolicies'>;

/** What endpoint groups and explanations need beyond it. */
export interface EndpointSource {
  service(key: string): Service | undefined;
  fullWorkload(uid: string): Workload | undefined;
  isEndpoint(service: string, uid: string): boolean;
  /** Uids of all workloads that name the service, in order. */
  endpointsOf(service: string): readonly string[];
  workloadsAt(network: string, ip: string): readonly string[];
  servicesAt(network: string, ip: string): readonly string[];
  name(host: string): KnownName | undefined;
}

/** A host name that endpoints have instead of addresses, as DNS answered. */
export interface KnownName {
  /** Canonical addresses in the order of the answer; none when there is a problem. */
  readonly ips: readonly string[];
  /** Why there is no address, for people: `NXDOMAIN`, `no nameserver answered` … Empty when there is one. */
  readonly problem: string;
  /** The last look-up failed: these are the addresses of an earlier one. */
  readonly isStale: boolean;
}

/** A captured (or about to be captured) pod of this node, known from enrolment and not from the control plane. */
export interface LocalPod {
  readonly uid: string;
  readonly name: string;
  readonly namespace: string;
  readonly serviceAccount: string;
  /** SPIFFE id. */
  readonly identity: string;
  /** Canonical addresses. */
  readonly addresses: readonly string[];
  readonly labels: Readonly<Record<string, string>>;
}
