import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { judge } from '../../src/control/validate/admission-review.js';
import { formatYaml, readYamlDocuments } from '../../src/lib/yaml.js';
import { derivedMesh } from '../support/derived-mesh.js';

/**
 * test/golden/validation/<case>/in.yaml holds objects, want.yaml what whoever applies them is told. The mesh is what
 * the good ones of in.yaml make. `UPDATE=1` writes want.yaml anew; then read the difference.
 */
const cases = join(import.meta.dirname, '../../../test/golden/validation');

for (const name of readdirSync(cases).sort()) {
  t.test(`what is said of objects that are ${name} is as written`, async (t) => {
    const objects = documents(readFileSync(join(cases, name, 'in.yaml'), 'utf8'));
    const facts = derivedMesh(objects).facts;
    const said = Object.fromEntries(
      objects.map((object) => {
        const verdict = judge(
          {
            uid: 'u',
            operation: 'CREATE',
            subResource: '',
            group: object.apiVersion.includes('/') ? (object.apiVersion.split('/')[0] ?? '') : '',
            kind: object.kind,
            namespace: object.metadata.namespace ?? '',
            object,
            oldObject: null,
          },
          facts,
        );
        t.equal(verdict.allowed, name === 'warned', `${object.kind} ${object.metadata.name}`);
        const { namespace, name: own } = object.metadata;
        const key = `${object.apiVersion.split('/')[0]} ${object.kind} ${namespace === undefined ? '' : `${namespace}/`}${own}`;
        return [key, verdict.allowed ? verdict.warnings : verdict.message];
      }),
    );
    t.equal(Object.keys(said).length, objects.length, 'every object has a name of its own');
    const want = join(cases, name, 'want.yaml');
    const got = formatYaml(said);
    if (process.env.UPDATE === '1' || !existsSync(want)) writeFileSync(want, got);
    t.equal(got, readFileSync(want, 'utf8'));
  });
}

interface Applied {
  readonly apiVersion: string;
  readonly kind: string;
  readonly metadata: { readonly name: string; readonly namespace?: string };
}

function documents(text: string): readonly Applied[] {
  return [...readYamlDocuments(text)].map((document) => {
    if (!document.ok) throw new Error(document.error.join('\n'));
    return document.value.value as Applied;
  });
}
