import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { parseManifest } from '../../src/control/inputs/directory/manifest.js';
import { applyChanges } from '../../src/control/inputs/inputs.js';
import { readable } from '../../src/control/mesh/readable.js';
import { AuthorizationSchema } from '../../src/gen/istio/security/authorization_pb.js';
import { ServiceSchema, WorkloadSchema } from '../../src/gen/istio/workload/workload_pb.js';
import { formatYaml } from '../../src/lib/yaml.js';
import { emptyMesh } from '../support/derived-mesh.js';

/**
 * test/golden/mesh/<case>/in.yaml is a cluster, want.yaml the mesh that follows from it. `UPDATE=1` writes want.yaml
 * anew; then read the difference. The harness adds nothing to what in.yaml says.
 */
const cases = join(import.meta.dirname, '../../../test/golden/mesh');

for (const name of readdirSync(cases).sort()) {
  t.test(`the mesh of ${name} is as written`, async (t) => {
    const directory = join(cases, name);
    t.same(
      readdirSync(directory).filter((file) => file !== 'in.yaml' && file !== 'want.yaml'),
      [],
      'nothing lies about that no test reads',
    );
    const input = parseManifest(readFileSync(join(directory, 'in.yaml')));
    if (!input.ok) return t.fail(input.error.problems.join('\n'));
    const got = formatYaml(meshOf(input.value.objects));
    const want = join(directory, 'want.yaml');
    if (process.env.UPDATE === '1' || !existsSync(want)) writeFileSync(want, got);
    t.equal(got, readFileSync(want, 'utf8'));
  });
}

function meshOf(
  objects: Parameters<typeof applyChanges>[1] extends Iterable<{ object: infer O }> ? readonly O[] : never,
) {
  const { graph, inputs, mesh } = emptyMesh();
  graph.transact(() =>
    applyChanges(
      inputs,
      objects.map((object) => ({ object, gone: false })),
    ),
  );
  const sorted = <T, R>(entries: Iterable<readonly [string, T]>, show: (value: T) => R) =>
    Object.fromEntries([...entries].sort(([a], [b]) => (a < b ? -1 : 1)).map(([key, value]) => [key, show(value)]));
  return {
    services: sorted(mesh.services.entries(), ({ message }) => readable(ServiceSchema, message)),
    workloads: sorted(mesh.workloads.entries(), (workload) => readable(WorkloadSchema, workload)),
    policies: sorted(mesh.authorizations.entries(), (policy) => readable(AuthorizationSchema, policy)),
    warnings: sorted(mesh.warnings.entries(), (sentences) => sentences),
  };
}
