import { create, toBinary } from '@bufbuild/protobuf';
import type { Change, Collection, Context } from '../../collections/collection.js';
import type { Graph } from '../../collections/graph.js';
import { AuthorizationSchema } from '../../gen/istio/security/authorization_pb.js';
import {
  AddressSchema,
  type NetworkAddress,
  type Service,
  type Workload,
} from '../../gen/istio/workload/workload_pb.js';
import { ipFromBytes } from '../../lib/ip.js';
import { EncodedResource, type ResourceInput } from '../../xds/encoded-resource.js';
import { ResourceTable } from '../../xds/resource-table.js';
import type { Mesh } from '../mesh/mesh.js';

export const ADDRESS_TYPE = 'type.googleapis.com/istio.workload.Address';
export const AUTHORIZATION_TYPE = 'type.googleapis.com/istio.security.Authorization';

/** What agents are served. A transaction of the graph is one of each table that it touches. */
export interface PushedMesh {
  /** Before the addresses, so that no workload refers to a policy its agent has not heard of. */
  readonly tables: readonly [authorizations: ResourceTable, addresses: ResourceTable];
}

/**
 * Keeps xDS tables equal to the mesh. Resources are named by a workload's uid, a service's `namespace/hostname` and a
 * policy's `namespace/name`. An address answers to `network/ip` as well; and whoever asks for a service, by name or by
 * one of its addresses, is given its endpoints with it.
 */
export function pushMesh(graph: Graph, mesh: Mesh): PushedMesh {
  const resources = <T>(
    name: string,
    of: Collection<T>,
    typeUrl: string,
    resource: (context: Context, value: T, key: string) => ResourceInput,
  ): Collection<EncodedResource> =>
    graph.derive(name, of, (...all) => new EncodedResource(typeUrl, resource(...all)), { equals: isSame });
  const ofServices = resources('resources of services', mesh.services, ADDRESS_TYPE, (_, { message }) => ({
    name: `${message.namespace}/${message.hostname}`,
    bytes: encode({ case: 'service', value: message }),
    aliases: serviceAliases(message),
  }));
  const ofWorkloads = resources('resources of workloads', mesh.workloads, ADDRESS_TYPE, (context, workload) => ({
    name: workload.uid,
    bytes: encode({ case: 'workload', value: workload }),
    aliases: [
      ...workload.addresses.map((address) => alias(workload.network, address)),
      ...Object.keys(workload.services).flatMap((key) => [key, ...(context.get(ofServices, key)?.aliases ?? [])]),
    ],
  }));
  const ofPolicies = resources('resources of policies', mesh.authorizations, AUTHORIZATION_TYPE, (_, policy, key) => ({
    name: key,
    bytes: toBinary(AuthorizationSchema, policy),
  }));
  const addresses = new ResourceTable(ADDRESS_TYPE, 'wds');
  const authorizations = new ResourceTable(AUTHORIZATION_TYPE, 'wads');
  mirror(graph, authorizations, [ofPolicies]);
  mirror(graph, addresses, [ofServices, ofWorkloads]);
  return { tables: [authorizations, addresses] };
}

/** Makes a table hold what the collections hold, from now on, one transaction at a time. */
function mirror(graph: Graph, table: ResourceTable, collections: readonly Collection<EncodedResource>[]): void {
  const waiting: Change<EncodedResource>[] = [];
  for (const collection of collections) {
    table.apply(collection.values());
    collection.subscribe((changes) => waiting.push(...changes));
  }
  graph.onCommit(() => {
    const changes = waiting.splice(0);
    if (changes.length === 0) return;
    const gone = changes.filter(({ after }) => after === undefined).map(({ before }) => before?.name ?? '');
    table.apply(
      changes.map(({ after }) => after).filter((resource) => resource !== undefined),
      gone,
    );
  });
}

function isSame(a: EncodedResource, b: EncodedResource): boolean {
  return a.name === b.name && a.version === b.version;
}

function encode(type: { case: 'service'; value: Service } | { case: 'workload'; value: Workload }): Uint8Array {
  return toBinary(AddressSchema, create(AddressSchema, { type }));
}

/** A block of addresses has no name to ask for it by. */
function serviceAliases(service: Service): readonly string[] {
  return service.addresses
    .filter((address: NetworkAddress) => address.length === undefined)
    .map(({ network, address }) => alias(network, address));
}

function alias(network: string, address: Uint8Array): string {
  return `${network}/${ipFromBytes(address)}`;
}
