import { mkdirSync, readdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { formatYaml } from '../lib/yaml.js';
import { type KubeObject, objectKey } from './objects.js';
import { writeWhole } from './write-whole.js';

/** Keeps a directory equal to a set of objects, one YAML file each; writes only what changed. */
export class ManifestMirror {
  readonly #written = new Map<string, string>();

  constructor(readonly directory: string) {
    mkdirSync(directory, { recursive: true });
    for (const file of readdirSync(directory)) rmSync(join(directory, file), { force: true });
  }

  sync(objects: readonly KubeObject[]): void {
    const wanted = new Map(objects.map((object) => [fileName(object), object]));
    for (const [name, object] of wanted) {
      // Compared as JSON, which is cheaper to make than YAML.
      const content = JSON.stringify(object);
      if (this.#written.get(name) === content) continue;
      writeWhole(join(this.directory, name), formatYaml(withoutEmpty(object)));
      this.#written.set(name, content);
    }
    for (const name of this.#written.keys()) {
      if (wanted.has(name)) continue;
      rmSync(join(this.directory, name), { force: true });
      this.#written.delete(name);
    }
  }
}

/** Without the empty fields that the lab's own reading put in. */
function withoutEmpty(object: KubeObject): Readonly<Record<string, unknown>> {
  const metadata = Object.entries(object.metadata).filter(
    ([, value]) => value !== '' && JSON.stringify(value) !== '{}',
  );
  return { ...object, metadata: Object.fromEntries(metadata) };
}

/** Distinct for distinct objects; a name may hold any character of a Kubernetes name, but no slash. */
function fileName(object: KubeObject): string {
  const [group = '', kind = '', namespace = '', name = ''] = objectKey(object).split('/');
  return `${[kind, group, namespace, name].filter((part) => part !== '').join('_')}.yaml`;
}
