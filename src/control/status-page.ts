import type { Graph } from '../collections/graph.js';
import { AuthorizationSchema } from '../gen/istio/security/authorization_pb.js';
import { ServiceSchema, WorkloadSchema } from '../gen/istio/workload/workload_pb.js';
import type { ResourceSource } from '../xds/resource-source.js';
import type { StreamStatus } from '../xds/server-stream.js';
import type { Authority } from './ca/authority.js';
import type { InputSource } from './inputs/inputs.js';
import type { Mesh } from './mesh/mesh.js';
import { readable } from './mesh/readable.js';

/** How things stand, for /debug/status. */
export function statusPage(parts: {
  readonly graph: Graph;
  readonly mesh: Mesh;
  readonly source: InputSource;
  readonly agents: readonly StreamStatus[];
  readonly tables: readonly ResourceSource[];
  readonly authority: Authority;
}): unknown {
  const { graph, mesh, source, agents, tables, authority } = parts;
  return {
    source: source.status(),
    warnings: Object.fromEntries(sorted(mesh.warnings.entries())),
    agents,
    resources: tables.map(({ typeUrl, version, size }) => ({ typeUrl, version, size })),
    ca: authority.describe(),
    version: graph.version,
    collections: graph.sizes(),
  };
}

/** The mesh as agents are told of it, for /debug/registryz. */
export function registryPage(mesh: Mesh): unknown {
  return {
    services: sorted(mesh.services.entries()).map(([, { message }]) => readable(ServiceSchema, message)),
    workloads: sorted(mesh.workloads.entries()).map(([, workload]) => readable(WorkloadSchema, workload)),
    policies: sorted(mesh.authorizations.entries()).map(([, policy]) => readable(AuthorizationSchema, policy)),
  };
}

function sorted<T>(entries: Iterable<readonly [string, T]>): readonly (readonly [string, T])[] {
  return [...entries].sort(([a], [b]) => (a < b ? -1 : 1));
}
