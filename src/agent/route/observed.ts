import type { Authorization } from '../../gen/istio/security/authorization_pb.js';
import type { Service } from '../../gen/istio/workload/workload_pb.js';
import { type Direction, type Offer, OfferField, type Read } from '../dataplane/dataplane.js';
import type { KnownName, LocalPod, Snapshot, SteadyWorkload } from '../store/snapshot.js';
import { TABLE } from '../store/tables.js';
import { type GroupSpec, groupId } from './group-spec.js';

/** A snapshot together with what is known of the endpoint groups under it. */
export interface World {
  readonly snapshot: Snapshot;
  /** Whether the group has a healthy endpoint now. */
  usable(group: GroupSpec): boolean;
  /** The host names that endpoints of the group have instead of addresses, in order. */
  namesIn(group: GroupSpec): readonly string[];
}

/** Who decides: facts of this node that never change while the agent runs. */
export interface Self {
  readonly node: string;
  readonly cluster: string;
  readonly network: string;
  readonly trustDomain: string;
  readonly clusterDomain: string;
  readonly locality: { readonly region: string; readonly zone: string; readonly subzone: string };
  /** Blocks that belong to the mesh: an address inside that nobody knows is not for plaintext. Empty: unknown. */
  readonly meshPrefixes: readonly { readonly ip: string; readonly length: number }[];
}

/** The world and the offer as a decision sees them: each look-up and each field looked at is noted, also a miss. */
export class Observed implements Snapshot {
  readonly #snapshot: Snapshot;
  readonly #reads = new Map<string, Read>();
  fields = 0;

  constructor(
    readonly world: World,
    readonly offer: Offer,
  ) {
    this.#snapshot = world.snapshot;
  }

  get reads(): Read[] {
    return [...this.#reads.values()];
  }

  /** Pod and direction are always part of a flow's key. */
  get podUid(): string {
    return this.offer.pod;
  }

  get direction(): Direction {
    return this.offer.direction;
  }

  get dstIp(): string {
    this.fields |= OfferField.dstIp;
    return this.offer.dstIp;
  }

  get dstPort(): number {
    this.fields |= OfferField.dstPort;
    return this.offer.dstPort;
  }

  get srcIp(): string {
    this.fields |= OfferField.srcIp;
    return this.offer.srcIp;
  }

  get peerIdentity(): string {
    this.fields |= OfferField.peerIdentity;
    return this.offer.peerIdentity;
  }

  get authority(): string {
    this.fields |= OfferField.authority;
    return this.offer.authority;
  }

  get version(): number {
    return this.#snapshot.version;
  }

  get synced(): boolean {
    this.#note(TABLE.synced());
    return this.#snapshot.synced;
  }

  workload(uid: string): SteadyWorkload | undefined {
    this.#note(TABLE.workload(uid));
    return this.#snapshot.workload(uid);
  }

  workloadsAt(network: string, ip: string): readonly string[] {
    this.#note(TABLE.address(network, ip));
    return this.#snapshot.workloadsAt(network, ip);
  }

  policiesOf(uid: string): readonly string[] | undefined {
    this.#note(TABLE.policiesOf(uid));
    return this.#snapshot.policiesOf(uid);
  }

  service(key: string): Service | undefined {
    this.#note(TABLE.service(key));
    return this.#snapshot.service(key);
  }

  servicesAt(network: string, ip: string): readonly string[] {
    this.#note(TABLE.vip(network, ip));
    return this.#snapshot.servicesAt(network, ip);
  }

  servicesNamed(hostname: string): readonly string[] {
    this.#note(TABLE.hostname(hostname));
    return this.#snapshot.servicesNamed(hostname);
  }

  isEndpoint(service: string, uid: string): boolean {
    this.#note(TABLE.membership(service, uid));
    return this.#snapshot.isEndpoint(service, uid);
  }

  policiesIn(namespace: string): readonly string[] {
    this.#note(TABLE.policiesIn(namespace));
    return this.#snapshot.policiesIn(namespace);
  }

  policy(key: string): Authorization | undefined {
    this.#note(TABLE.policy(key));
    return this.#snapshot.policy(key);
  }

  isPolicyRemoved(key: string): boolean {
    this.#note(TABLE.policy(key));
    return this.#snapshot.isPolicyRemoved(key);
  }

  pod(uid: string): LocalPod | undefined {
    this.#note(TABLE.pod(uid));
    return this.#snapshot.pod(uid);
  }

  usable(group: GroupSpec): boolean {
    this.#note(TABLE.group(groupId(group)));
    return this.world.usable(group);
  }

  namesIn(group: GroupSpec): readonly string[] {
    this.#note(TABLE.group(groupId(group)));
    return this.world.namesIn(group);
  }

  name(host: string): KnownName | undefined {
    this.#note(TABLE.name(host));
    return this.#snapshot.name(host);
  }

  #note(read: Read): void {
    this.#reads.set(`${read.table}\n${read.key}`, read);
  }
}
