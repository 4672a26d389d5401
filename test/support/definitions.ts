import { execFileSync } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { ApiObject, KubeApi, Resource } from '../../src/kube/api.js';
import { RESOURCES } from '../../src/kube/resources.js';
import { parseYaml } from '../../src/lib/yaml.js';
import { definitionOf } from './api-server.js';
import { until } from './mesh.js';

/** Istio's own definitions, as an installation brings them, out of the Go module. */
export function realDefinitions(): readonly ApiObject[] {
  const directory = mkdtempSync(join(tmpdir(), 'meltemi-crds-'));
  try {
    execFileSync(join(root, 'daemonset/crds/fetch'), [directory]);
    return readdirSync(directory).map((name) => {
      const parsed = parseYaml(readFileSync(join(directory, name), 'utf8'));
      if (!parsed.ok) throw new Error(`${name}: ${parsed.error.join('; ')}`);
      return parsed.value as ApiObject;
    });
  } finally {
    rmSync(directory, { recursive: true });
  }
}

/** Creates the real definitions, and ones that let everything through for `others`; resolves when all are served. */
export async function define(api: KubeApi, others: readonly Resource[] = []): Promise<void> {
  const definitions = [...realDefinitions(), ...others.map(definitionOf)];
  for (const definition of definitions) await api.create(RESOURCES.CustomResourceDefinition, definition);
  for (const resource of [...REAL, ...others]) {
    await until(`${resource.plural} are served`, () =>
      api.list(resource).then(
        () => true,
        () => false,
      ),
    );
  }
}

const REAL = [
  RESOURCES.AuthorizationPolicy,
  RESOURCES.PeerAuthentication,
  RESOURCES.ServiceEntry,
  RESOURCES.WorkloadEntry,
];
const root = join(import.meta.dirname, '../../..');
