import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { conditionsOf, KINDS_WITH_CONDITIONS } from '../../src/control/status/conditions.js';
import { judge } from '../../src/control/validate/admission-review.js';
import { err, ok, type Result } from '../../src/lib/result.js';
import { formatYaml, readYamlDocuments } from '../../src/lib/yaml.js';
import { type KubernetesObject, type ParseError, parseObject } from '../../src/model/kubernetes/object.js';
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
    compare(t, join(cases, name, 'want.yaml'), said);
    const conditions = objects.flatMap((object) => {
      const kind = KINDS_WITH_CONDITIONS.find((each) => each === object.kind);
      const parsed = readKnown(object);
      if (kind === undefined) return [];
      const { namespace, name } = object.metadata;
      const all = conditionsOf(kind, parsed, facts, parsed.ok ? undefined : parsed.error.closed);
      return [
        [
          `${kind} ${namespace}/${name}`,
          all.map(({ type, status, reason, message }) => `${type}=${status} ${reason}: ${message}`),
        ] as const,
      ];
    });
    compare(t, join(cases, name, 'conditions.yaml'), Object.fromEntries(conditions));
  });
}

function readKnown(object: unknown): Result<KubernetesObject, ParseError> {
  const parsed = parseObject(object);
  if (!parsed.ok) return parsed;
  return 'object' in parsed.value ? ok(parsed.value.object) : err({ object: '', problems: [parsed.value.ignored] });
}

function compare(t: Test, want: string, value: unknown): void {
  const got = formatYaml(value);
  if (process.env.UPDATE === '1' || !existsSync(want)) writeFileSync(want, got);
  t.equal(got, readFileSync(want, 'utf8'));
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
