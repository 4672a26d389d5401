import { BoundedMap } from '../../lib/bounded-map.js';
import type { Endpoint, EndpointGroup, Read } from '../dataplane/dataplane.js';
import type { EndpointSource } from '../store/snapshot.js';
import type { Change } from '../store/store.js';
import { TABLE } from '../store/tables.js';
import { candidateOf, candidatesOf } from './candidates.js';
import { type GroupSpec, groupId } from './group-spec.js';
import type { Self } from './observed.js';

/** What the engine is to be told, groups before reads. */
export interface GroupEdits {
  readonly puts: EndpointGroup[];
  readonly removals: string[];
  /** Groups that have become usable or useless, or are no longer kept. */
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
    const id = groupId(spec);
    const known = this.#groups.use(id);
    if (known !== undefined) return known.usable;
    const group = new Group(id, spec);
    for (const candidate of candidatesOf(spec, this.source, this.self)) {
      if ('endpoint' in candidate) group.endpoints.set(candidate.uid, candidate.endpoint);
    }
    group.usable = isUsable(group);
    this.#groups.set(id, group);
    if (group.usable) this.#dirty.add(group);
    return group.usable;
  }

  /** Looks again at what a change may have touched. */
  apply(change: Change): void {
    if (change.workloads.size + change.services.size === 0) return;
    for (const group of this.#groups.values()) this.#review(group, change);
  }

  /** What is to be told since the last call. */
  take(): GroupEdits {
    const puts = [...this.#dirty].map((group) => {
      group.pushed = true;
      return { id: group.id, endpoints: [...group.endpoints.values()] };
    });
    this.#dirty.clear();
    const edits = { puts, removals: this.#removals, reads: this.#reads };
    this.#removals = [];
    this.#reads = [];
    return edits;
  }

  /** For dumps. */
  all(): (EndpointGroup & { readonly spec: GroupSpec })[] {
    return [...this.#groups.values()].map(({ id, spec, endpoints }) => ({
      id,
      spec,
      endpoints: [...endpoints.values()],
    }));
  }

  #review(group: Group, change: Change): void {
    const { spec } = group;
    if (spec.kind === 'service' && change.services.has(spec.service)) {
      const fresh = candidatesOf(spec, this.source, this.self);
      for (const uid of [...group.endpoints.keys()]) {
        if (!fresh.some((candidate) => candidate.uid === uid)) this.#edit(group, uid, undefined);
      }
      for (const candidate of fresh) {
        this.#edit(group, candidate.uid, 'endpoint' in candidate ? candidate.endpoint : undefined);
      }
    } else {
      for (const uid of this.#members(group, change.workloads)) {
        const isMember = spec.kind === 'workload' || this.source.isEndpoint(spec.service, uid);
        const candidate = isMember ? candidateOf(spec, uid, this.source, this.self) : undefined;
        this.#edit(group, uid, candidate !== undefined && 'endpoint' in candidate ? candidate.endpoint : undefined);
      }
    }
    if (isUsable(group) === group.usable) return;
    group.usable = !group.usable;
    this.#reads.push(TABLE.group(group.id));
  }

  *#members({ spec, endpoints }: Group, changed: ReadonlySet<string>): Generator<string> {
    if (spec.kind === 'workload') {
      if (changed.has(spec.uid)) yield spec.uid;
      return;
    }
    for (const uid of changed) {
      if (endpoints.has(uid) || this.source.isEndpoint(spec.service, uid)) yield uid;
    }
  }

  #edit(group: Group, uid: string, endpoint: Endpoint | undefined): void {
    const before = group.endpoints.get(uid);
    if (endpoint === undefined ? before === undefined : JSON.stringify(before) === JSON.stringify(endpoint)) return;
    if (endpoint === undefined) group.endpoints.delete(uid);
    else group.endpoints.set(uid, endpoint);
    this.#dirty.add(group);
  }
}

class Group {
  readonly endpoints = new Map<string, Endpoint>();
  usable = false;
  pushed = false;

  constructor(
    readonly id: string,
    readonly spec: GroupSpec,
  ) {}
}

function isUsable(group: Group): boolean {
  for (const endpoint of group.endpoints.values()) if (endpoint.healthy) return true;
  return false;
}
