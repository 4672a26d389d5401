import { fromBinary, toBinary } from '@bufbuild/protobuf';
import { type Authorization, AuthorizationSchema, Scope } from '../../gen/istio/security/authorization_pb.js';
import { AddressSchema, type Service, type Workload, WorkloadSchema } from '../../gen/istio/workload/workload_pb.js';
import { formatPrefix, type Prefix } from '../../lib/ip.js';
import { invalidAuthorization } from '../../model/invalid-policy.js';
import type { Read } from '../dataplane/dataplane.js';
import { EncodedTable } from './encoded-table.js';
import { addressesOf, hostOf, vipsOf } from './facts.js';
import { MultiIndex } from './multi-index.js';
import { parseAddress, parsePolicy, scopeIn } from './parse.js';
import { PrefixTable } from './prefix-table.js';
import type { EndpointSource, KnownName, LocalPod, Snapshot, SteadyWorkload } from './snapshot.js';
import { TABLE } from './tables.js';

/** What xDS delivers in one message: whole resources by name, and names that are gone. */
export interface ResourceUpdate {
  readonly changed: readonly { readonly name: string; readonly bytes: Uint8Array }[];
  readonly removed: readonly string[];
}

/** What an update came to. */
export interface Change {
  /** Version of the snapshot that shows it. */
  readonly version: number;
  /** Look-ups whose answer may differ now, named from the images before and after. */
  readonly reads: readonly Read[];
  /** Uids and service keys that changed in any way: endpoint groups look again at these. */
  readonly workloads: ReadonlySet<string>;
  readonly services: ReadonlySet<string>;
  /** Keys of the services of which a changed workload is, or was, an endpoint. */
  readonly memberships: ReadonlySet<string>;
  /** Host names of which something else is known now. */
  readonly names: ReadonlySet<string>;
  /** Resources that were refused; for each its last good value stays, and a policy without one denies. */
  readonly refused: readonly { readonly name: string; readonly reason: string }[];
}

/**
 * What this node knows of the mesh. One writer: only the `apply…` and `remove…` methods change it, synchronously. Workloads and
 * services are kept encoded (see EncodedTable). The store itself is the newest snapshot.
 */
export class Store implements Snapshot, EndpointSource {
  #version = 0;
  readonly #received = { addresses: false, policies: false };
  readonly #workloads = new EncodedTable<Workload>(decodeWorkload);
  readonly #services = new EncodedTable<Service>(decodeService);
  /** `network/ip` to uids. */
  readonly #byAddress = new MultiIndex();
  /** Service key to uids. */
  readonly #byService = new MultiIndex();
  readonly #byHostname = new MultiIndex();
  /** Host name to uids of the workloads that have it instead of an address. */
  readonly #byName = new MultiIndex();
  readonly #names = new Map<string, KnownName>();
  readonly #vips = new Map<string, PrefixTable>();
  readonly #policies = new Map<string, Authorization>();
  /** Namespace, or '' for the whole mesh, to policy names. */
  readonly #policiesIn = new MultiIndex();
  /** Names that the control plane took back, oldest first. */
  readonly #removedPolicies = new Set<string>();
  readonly #pods = new Map<string, LocalPod>();

  /** `isRead`: whether anyone can have made this look-up; a change that nobody can have read is not named. */
  constructor(
    readonly isRead: (read: Read) => boolean = () => true,
    readonly maxRemovedPolicies = 10_000,
  ) {}

  get version(): number {
    return this.#version;
  }

  get synced(): boolean {
    return this.#received.addresses && this.#received.policies;
  }

  get sizes(): { workloads: number; services: number; policies: number; pods: number; encodedBytes: number } {
    return {
      workloads: this.#workloads.size,
      services: this.#services.size,
      policies: this.#policies.size,
      pods: this.#pods.size,
      encodedBytes: this.#workloads.bytes.held + this.#services.bytes.held,
    };
  }

  /** `istio.workload.Address` resources: workloads and services. */
  applyAddresses(update: ResourceUpdate): Change {
    const change = new ChangeRecord(this.isRead);
    this.#receive('addresses', change);
    for (const { name, bytes } of update.changed) {
      const parsed = parseAddress(name, bytes);
      if (!parsed.ok) change.refused.push({ name, reason: parsed.error });
      else if (isWorkload(parsed.value)) this.#putWorkload(name, parsed.value, bytes, change);
      else this.#putService(name, parsed.value, bytes, change);
    }
    for (const name of update.removed) {
      this.#removeWorkload(name, change);
      this.#removeService(name, change);
    }
    return this.#finish(change);
  }

  /** `istio.security.Authorization` resources. */
  applyPolicies(update: ResourceUpdate): Change {
    const change = new ChangeRecord(this.isRead);
    this.#receive('policies', change);
    for (const { name, bytes } of update.changed) {
      const parsed = parsePolicy(name, bytes);
      if (parsed.ok) this.#setPolicy(name, parsed.value, change);
      else this.#refusePolicy(name, bytes, parsed.error, change);
    }
    for (const name of update.removed) {
      this.#rememberRemoved(name, change);
      this.#setPolicy(name, undefined, change);
    }
    return this.#finish(change);
  }

  /** A pod of this node as enrolment knows it. */
  applyPod(pod: LocalPod): Change {
    const change = new ChangeRecord(this.isRead);
    const former = this.#pods.get(pod.uid);
    if (former === undefined || JSON.stringify(former) !== JSON.stringify(pod)) {
      this.#pods.set(pod.uid, pod);
      change.read(TABLE.pod(pod.uid));
    }
    return this.#finish(change);
  }

  removePod(uid: string): Change {
    const change = new ChangeRecord(this.isRead);
    if (this.#pods.delete(uid)) change.read(TABLE.pod(uid));
    return this.#finish(change);
  }

  /** What a look-up of a host name came to; undefined when it is not known any more. */
  applyName(host: string, known: KnownName | undefined): Change {
    const change = new ChangeRecord(this.isRead);
    if (known === undefined) this.#names.delete(host);
    else this.#names.set(host, known);
    change.names.add(host);
    change.read(TABLE.name(host));
    for (const uid of this.#byName.names(host)) change.workloads.add(uid);
    return this.#finish(change);
  }

  workload(uid: string): SteadyWorkload | undefined {
    return this.#workloads.row(uid);
  }

  fullWorkload(uid: string): Workload | undefined {
    return this.#workloads.row(uid);
  }

  workloadsAt(network: string, ip: string): readonly string[] {
    return this.#byAddress.names(`${network}/${ip}`);
  }

  policiesOf(uid: string): readonly string[] | undefined {
    return this.#workloads.row(uid)?.authorizationPolicies;
  }

  service(key: string): Service | undefined {
    return this.#services.row(key);
  }

  servicesAt(network: string, ip: string): readonly string[] {
    return this.#vips.get(network)?.lookup(ip) ?? [];
  }

  servicesNamed(hostname: string): readonly string[] {
    return this.#byHostname.names(hostname);
  }

  isEndpoint(service: string, uid: string): boolean {
    return this.#byService.has(service, uid);
  }

  endpointsOf(service: string): readonly string[] {
    return this.#byService.names(service);
  }

  policiesIn(namespace: string): readonly string[] {
    return this.#policiesIn.names(namespace);
  }

  policy(key: string): Authorization | undefined {
    return this.#policies.get(key);
  }

  isPolicyRemoved(key: string): boolean {
    return this.#removedPolicies.has(key);
  }

  pod(uid: string): LocalPod | undefined {
    return this.#pods.get(uid);
  }

  name(host: string): KnownName | undefined {
    return this.#names.get(host);
  }

  /** For dumps and for tables made elsewhere (DNS). */
  *workloads(): Generator<Workload> {
    for (const uid of this.#workloads.keys()) {
      const bytes = this.#workloads.encoded(uid);
      if (bytes !== undefined) yield decodeWorkload(bytes);
    }
  }

  *services(): Generator<Service> {
    for (const key of this.#services.keys()) {
      const bytes = this.#services.encoded(key);
      if (bytes !== undefined) yield decodeService(bytes);
    }
  }

  policies(): readonly Authorization[] {
    return [...this.#policies.values()];
  }

  pods(): readonly LocalPod[] {
    return [...this.#pods.values()];
  }

  /** `uid` is the name on the wire: one string for all tables. */
  #putWorkload(uid: string, after: Workload, bytes: Uint8Array, change: ChangeRecord): void {
    const encoded = this.#workloads.encoded(uid);
    if (encoded !== undefined && sameBytes(encoded, bytes)) return;
    const before = encoded === undefined ? undefined : decodeWorkload(encoded);
    this.#workloads.set(uid, bytes);
    this.#indexWorkload(uid, before, after, change);
  }

  #removeWorkload(uid: string, change: ChangeRecord): void {
    const encoded = this.#workloads.encoded(uid);
    if (encoded === undefined) return;
    const before = decodeWorkload(encoded);
    this.#workloads.delete(uid);
    this.#indexWorkload(uid, before, undefined, change);
  }

  #indexWorkload(uid: string, before: Workload | undefined, after: Workload | undefined, change: ChangeRecord): void {
    change.happened = true;
    change.workloads.add(uid);
    for (const image of [before, after]) {
      for (const key of Object.keys(image?.services ?? {})) change.memberships.add(key);
    }
    const isNew = before === undefined || after === undefined;
    if (isNew || steadyImage(before) !== steadyImage(after)) change.read(TABLE.workload(uid));
    if (isNew || policyImage(before) !== policyImage(after)) change.read(TABLE.policiesOf(uid));
    difference(addressKeys(before), addressKeys(after), (key, added) => {
      if (added) this.#byAddress.add(key, uid);
      else this.#byAddress.delete(key, uid);
      change.read({ table: 'address', key, prefix: false });
    });
    difference(namesOf(before), namesOf(after), (host, added) => {
      if (added) this.#byName.add(host, uid);
      else this.#byName.delete(host, uid);
    });
    difference(Object.keys(before?.services ?? {}), Object.keys(after?.services ?? {}), (key, added) => {
      if (added) this.#byService.add(key, uid);
      else this.#byService.delete(key, uid);
      change.read(TABLE.membership(key, uid));
    });
  }

  #putService(key: string, after: Service, bytes: Uint8Array, change: ChangeRecord): void {
    const encoded = this.#services.encoded(key);
    if (encoded !== undefined && sameBytes(encoded, bytes)) return;
    const before = encoded === undefined ? undefined : decodeService(encoded);
    this.#services.set(key, bytes);
    this.#indexService(key, before, after, change);
  }

  #removeService(key: string, change: ChangeRecord): void {
    const encoded = this.#services.encoded(key);
    if (encoded === undefined) return;
    const before = decodeService(encoded);
    this.#services.delete(key);
    this.#indexService(key, before, undefined, change);
  }

  #indexService(key: string, before: Service | undefined, after: Service | undefined, change: ChangeRecord): void {
    change.services.add(key);
    change.read(TABLE.service(key));
    const [old, fresh] = [vipsByKey(before), vipsByKey(after)];
    difference([...old.keys()], [...fresh.keys()], (vipKey, added) => {
      const vip = (added ? fresh : old).get(vipKey);
      if (vip === undefined) return;
      const table = this.#vips.get(vip.network) ?? new PrefixTable();
      this.#vips.set(vip.network, table);
      if (added) table.add(vip.prefix, key);
      else table.delete(vip.prefix, key);
      change.read(TABLE.vipPrefix(vip.network, vip.prefix));
    });
    difference(before ? [before.hostname] : [], after ? [after.hostname] : [], (hostname, added) => {
      if (added) this.#byHostname.add(hostname, key);
      else this.#byHostname.delete(hostname, key);
      change.read(TABLE.hostname(hostname));
    });
  }

  #setPolicy(name: string, after: Authorization | undefined, change: ChangeRecord): void {
    const before = this.#policies.get(name);
    if (before === undefined && after === undefined) return;
    if (before !== undefined && after !== undefined && samePolicy(before, after)) return;
    if (after === undefined) this.#policies.delete(name);
    else {
      this.#policies.set(name, after);
      this.#removedPolicies.delete(name);
    }
    change.read(TABLE.policy(name));
    difference(scopesOf(before), scopesOf(after), (scope, added) => {
      if (added) this.#policiesIn.add(scope, name);
      else this.#policiesIn.delete(scope, name);
      change.read(TABLE.policiesIn(scope));
    });
  }

  /** One that never was good is closed: it denies in the scope that it has, or else in its namespace. */
  #refusePolicy(name: string, bytes: Uint8Array, reason: string, change: ChangeRecord): void {
    change.refused.push({ name, reason });
    const slash = name.indexOf('/');
    if (slash <= 0 || this.#policies.has(name)) return;
    const [namespace, own] = [name.slice(0, slash), name.slice(slash + 1)];
    const closed = invalidAuthorization(namespace, own, scopeIn(name, bytes) ?? Scope.NAMESPACE, reason);
    this.#setPolicy(name, closed, change);
  }

  /** What is forgotten for want of room counts as never heard of: on the safe side. */
  #rememberRemoved(name: string, change: ChangeRecord): void {
    if (this.#removedPolicies.has(name)) return;
    this.#removedPolicies.add(name);
    change.read(TABLE.policy(name));
    if (this.#removedPolicies.size <= this.maxRemovedPolicies) return;
    for (const oldest of this.#removedPolicies) {
      this.#removedPolicies.delete(oldest);
      change.read(TABLE.policy(oldest));
      return;
    }
  }

  #receive(what: 'addresses' | 'policies', change: ChangeRecord): void {
    const before = this.synced;
    this.#received[what] = true;
    if (this.synced !== before) change.read(TABLE.synced());
  }

  #finish(change: ChangeRecord): Change {
    if (change.happened) this.#version++;
    return {
      version: this.#version,
      reads: change.reads,
      workloads: change.workloads,
      services: change.services,
      memberships: change.memberships,
      names: change.names,
      refused: change.refused,
    };
  }
}

class ChangeRecord {
  happened = false;
  readonly reads: Read[] = [];
  readonly workloads = new Set<string>();
  readonly services = new Set<string>();
  readonly memberships = new Set<string>();
  readonly names = new Set<string>();
  readonly refused: { name: string; reason: string }[] = [];

  constructor(readonly isRead: (read: Read) => boolean) {}

  read(read: Read): void {
    this.happened = true;
    if (this.isRead(read)) this.reads.push(read);
  }
}

function decodeWorkload(bytes: Uint8Array): Workload {
  const { type } = fromBinary(AddressSchema, bytes);
  if (type.case !== 'workload') throw new Error('a row of the workload table is no workload');
  return type.value;
}

function decodeService(bytes: Uint8Array): Service {
  const { type } = fromBinary(AddressSchema, bytes);
  if (type.case !== 'service') throw new Error('a row of the service table is no service');
  return type.value;
}

function isWorkload(message: Workload | Service): message is Workload {
  return message.$typeName === 'istio.workload.Workload';
}

/** What `Snapshot.workload` may show, for comparison. */
function steadyImage(workload: Workload): string {
  const { status: _status, capacity: _capacity, authorizationPolicies: _policies, ...steady } = workload;
  const services = Object.fromEntries(Object.entries(steady.services).sort(([a], [b]) => (a < b ? -1 : 1)));
  const bytes = toBinary(WorkloadSchema, { ...steady, services, authorizationPolicies: [], status: 0 });
  return Buffer.from(bytes).toString('latin1');
}

function policyImage(workload: Workload): string {
  return workload.authorizationPolicies.join(' ');
}

function addressKeys(workload: Workload | undefined): string[] {
  return workload === undefined ? [] : addressesOf(workload).map((ip) => `${workload.network}/${ip}`);
}

function namesOf(workload: Workload | undefined): string[] {
  const host = workload === undefined ? undefined : hostOf(workload);
  return host === undefined ? [] : [host];
}

function vipsByKey(service: Service | undefined): Map<string, { network: string; prefix: Prefix }> {
  const vips = service === undefined ? [] : vipsOf(service);
  return new Map(vips.map((vip) => [`${vip.network}/${formatPrefix(vip.prefix)}`, vip]));
}

function scopesOf(policy: Authorization | undefined): string[] {
  if (policy === undefined || policy.scope === Scope.WORKLOAD_SELECTOR) return [];
  return policy.scope === Scope.GLOBAL ? [''] : [policy.namespace];
}

function samePolicy(a: Authorization, b: Authorization): boolean {
  return sameBytes(toBinary(AuthorizationSchema, a), toBinary(AuthorizationSchema, b));
}

function sameBytes(a: Uint8Array, b: Uint8Array): boolean {
  return Buffer.compare(a, b) === 0;
}

function difference(before: readonly string[], after: readonly string[], each: (key: string, added: boolean) => void) {
  const [old, fresh] = [new Set(before), new Set(after)];
  for (const key of old) if (!fresh.has(key)) each(key, false);
  for (const key of fresh) if (!old.has(key)) each(key, true);
}
