import { BoundedMap } from '../../lib/bounded-map.js';
import type { Endpoint, EndpointGroup, Read } from '../dataplane/dataplane.js';
import { addressesOf, vipsOf } from '../store/facts.js';
import type { EndpointSource } from '../store/snapshot.js';
import type { Change } from '../store/store.js';
import { TABLE } from '../store/tables.js';
import { type Candidate, candidatesFrom, candidatesOf } from './candidates.js';
import { type GroupSpec, groupId } from './group-spec.js';
import type { Self, World } from './observed.js';

/** What the engine is to be told, groups before reads. */
export interface GroupEdits {
  readonly puts: EndpointGroup[];
  readonly removals: string[];
  /** Groups that have become usable or useless, have other names in them, or are no longer kept. */
  readonly reads: Read[];
}

/**
 * The endpoint groups that decisions have asked for, kept right as the mesh changes: an endpoint's coming and going
 * edits a group and touches no verdict. The least recently asked for are given up beyond `limit`.
 */
export class Groups {
  readonly #groups: BoundedMap<string, Group>;
  #removals: string[] = [];
  #reads: Read[] = [];
  readonly #dirty = new Set<Group>();

  constructor(
    readonly source: EndpointSource,
    readonly self: Self,
    limit = 8192,
  ) {
    this.#groups = new BoundedMap(limit, (id, group) => {
      this.#dirty.delete(group);
      if (group.pushed) this.#removals.push(id);
      this.#reads.push(TABLE.group(id));
    });
  }

  get size(): number {
    return this.#groups.size;
  }

  /** Whether the group has a healthy endpoint; from now on the group is kept. */
  usable(spec: GroupSpec): boolean {
    return this.#kept(spec).usable;
  }

  /** The host names that endpoints of the group have instead of addresses; from now on the group is kept. */
  namesIn(spec: GroupSpec): readonly string[] {
    return this.#kept(spec).hosts;
  }

  /** Looks again at what a change may have touched. */
  apply(change: Change): void {
    if (change.workloads.size + change.services.size === 0) return;
    const touched = new TouchedAddresses(change, this.source);
    for (const group of this.#groups.values()) this.#review(group, change, touched);
  }

  /** What is to be told since the last call. */
  take(): GroupEdits {
    const puts = [...this.#dirty].map((group) => {
      group.pushed = true;
      return { id: group.id, endpoints: endpointsOf(group) };
    });
    this.#dirty.clear();
    const edits = { puts, removals: this.#removals, reads: this.#reads };
    this.#removals = [];
    this.#reads = [];
    return edits;
  }

  /** For dumps. */
  all(): (EndpointGroup & { readonly spec: GroupSpec })[] {
    return [...this.#groups.values()].map((group) => ({
      id: group.id,
      spec: group.spec,
      endpoints: endpointsOf(group),
    }));
  }

  #kept(spec: GroupSpec): Group {
    const id = groupId(spec);
    const known = this.#groups.use(id);
    if (known !== undefined) return known;
    const group = new Group(id, spec);
    for (const [uid, candidates] of byUid(candidatesOf(spec, this.source, this.self))) {
      this.#edit(group, uid, candidates);
    }
    group.usable = isUsable(group);
    group.hosts = hostsOf(group);
    group.ips = this.#ipsOf(group);
    this.#groups.set(id, group);
    if (!group.usable) this.#dirty.delete(group);
    return group;
  }

  #review(group: Group, change: Change, touched: TouchedAddresses): void {
    const { spec } = group;
    const isInside = group.isInside || touched.some(group.ips);
    if (spec.kind === 'service' && (isInside || change.services.has(spec.service))) {
      const fresh = byUid(candidatesOf(spec, this.source, this.self));
      for (const uid of new Set([...group.endpoints.keys(), ...group.names.keys()])) {
        if (!fresh.has(uid)) this.#edit(group, uid, []);
      }
      for (const [uid, candidates] of fresh) this.#edit(group, uid, candidates);
    } else {
      for (const uid of this.#members(group, change.workloads)) {
        const isMember = spec.kind === 'workload' || this.source.isEndpoint(spec.service, uid);
        this.#edit(group, uid, isMember ? candidatesFrom(spec, uid, this.source, this.self) : []);
      }
    }
    group.ips = this.#ipsOf(group);
    const [usable, hosts] = [isUsable(group), hostsOf(group)];
    if (usable === group.usable && hosts.join() === group.hosts.join()) return;
    group.usable = usable;
    group.hosts = hosts;
    this.#reads.push(TABLE.group(group.id));
  }

  *#members({ spec, endpoints, names }: Group, changed: ReadonlySet<string>): Generator<string> {
    if (spec.kind === 'workload') {
      if (changed.has(spec.uid)) yield spec.uid;
      return;
    }
    for (const uid of changed) {
      if (endpoints.has(uid) || names.has(uid) || this.source.isEndpoint(spec.service, uid)) yield uid;
    }
  }

  #ipsOf({ names }: Group): readonly string[] {
    if (names.size === 0) return NONE;
    return [...names.values()].flatMap((host) => this.source.name(host)?.ips ?? []);
  }

  /** `candidates` are all of one workload. */
  #edit(group: Group, uid: string, candidates: readonly Candidate[]): void {
    const name = candidates.find((each) => each.name !== undefined)?.name;
    if (name === undefined) group.names.delete(uid);
    else group.names.set(uid, name);
    if (candidates.some(({ isInside }) => isInside === true)) group.inside.add(uid);
    else group.inside.delete(uid);
    const before = group.endpoints.get(uid) ?? [];
    const after = candidates.flatMap((each) => ('endpoint' in each ? [each.endpoint] : []));
    if (JSON.stringify(before) === JSON.stringify(after)) return;
    if (after.length === 0) group.endpoints.delete(uid);
    else group.endpoints.set(uid, after);
    this.#dirty.add(group);
  }
}

/** What decisions ask of groups, found out anew each time: for explanations and tests. Pure. */
export function groupsAnew(source: EndpointSource, self: Self): Omit<World, 'snapshot'> {
  return {
    usable: (spec) => candidatesOf(spec, source, self).some((each) => 'endpoint' in each && each.endpoint.healthy),
    namesIn: (spec) => [...new Set(candidatesOf(spec, source, self).flatMap(({ name }) => name ?? []))].sort(),
  };
}

class Group {
  /** By uid. */
  readonly endpoints = new Map<string, readonly Endpoint[]>();
  /** The name of each workload that has one instead of addresses, by uid. */
  readonly names = new Map<string, string>();
  /** Those of them whose names lead into the mesh: any change there may concern them. */
  readonly inside = new Set<string>();
  hosts: readonly string[] = NONE;
  /** Of all names. */
  ips: readonly string[] = NONE;
  usable = false;
  pushed = false;

  constructor(
    readonly id: string,
    readonly spec: GroupSpec,
  ) {}

  get isInside(): boolean {
    return this.inside.size > 0;
  }
}

/** The addresses at which a change has put something; found out when somebody asks. */
class TouchedAddresses {
  #addresses: ReadonlySet<string> | undefined;

  constructor(
    readonly change: Change,
    readonly source: EndpointSource,
  ) {}

  some(ips: readonly string[]): boolean {
    if (ips.length === 0) return false;
    this.#addresses ??= this.#find();
    return ips.some((ip) => this.#addresses?.has(ip));
  }

  #find(): ReadonlySet<string> {
    const workloads = [...this.change.workloads].map((uid) => this.source.fullWorkload(uid));
    const services = [...this.change.services].map((key) => this.source.service(key));
    return new Set([
      ...workloads.flatMap((workload) => (workload === undefined ? [] : addressesOf(workload))),
      ...services.flatMap((service) => (service === undefined ? [] : vipsOf(service).map(({ prefix }) => prefix.ip))),
    ]);
  }
}

function isUsable(group: Group): boolean {
  for (const endpoints of group.endpoints.values()) if (endpoints.some(({ healthy }) => healthy)) return true;
  return false;
}

function endpointsOf(group: Group): Endpoint[] {
  return [...group.endpoints.values()].flat();
}

function hostsOf({ names }: Group): readonly string[] {
  return names.size === 0 ? NONE : [...new Set(names.values())].sort();
}

function byUid(candidates: readonly Candidate[]): Map<string, Candidate[]> {
  const groups = new Map<string, Candidate[]>();
  for (const candidate of candidates) {
    const own = groups.get(candidate.uid);
    if (own === undefined) groups.set(candidate.uid, [candidate]);
    else own.push(candidate);
  }
  return groups;
}

const NONE: readonly string[] = [];
