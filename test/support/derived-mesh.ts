import { Graph } from '../../src/collections/graph.js';
import { applyChanges, type Inputs, makeInputs } from '../../src/control/inputs/inputs.js';
import { deriveMesh, type Mesh } from '../../src/control/mesh/mesh.js';
import { parseObject } from '../../src/model/kubernetes/object.js';

/** The mesh that follows from those of `objects` that are good. */
export function derivedMesh(objects: readonly unknown[]): Mesh {
  const { graph, inputs, mesh } = emptyMesh();
  graph.transact(() => {
    for (const each of objects) {
      const parsed = parseObject(each);
      if (parsed.ok && 'object' in parsed.value) applyChanges(inputs, [{ object: parsed.value.object, gone: false }]);
    }
  });
  return mesh;
}

/** A mesh of nothing yet, in the usual trust domain; what a derivation throws is thrown. */
export function emptyMesh(): { graph: Graph; inputs: Inputs; mesh: Mesh } {
  const graph = new Graph((message, error) => {
    throw new Error(message, { cause: error });
  });
  const inputs = makeInputs(graph);
  const mesh = deriveMesh(graph, inputs, {
    cluster: 'Kubernetes',
    network: '',
    trustDomain: 'cluster.local',
    clusterDomain: 'cluster.local',
    rootNamespace: 'istio-system',
  });
  return { graph, inputs, mesh };
}
