import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { ApiObject } from '../../kube/api.js';
import { parseYaml, parseYamlDocuments } from '../../lib/yaml.js';
import { Templates } from './render.js';
import { checkValues, mergeValues, type Values } from './values.js';

/** The Helm chart of this version, rendered without Helm. A contract test holds both to the same objects. */
export interface Chart {
  readonly version: string;
  /** What can be chosen, with its defaults. */
  readonly values: Values;
  /** Definitions of custom resources, in no order. */
  readonly crds: readonly ApiObject[];
  /** Throws an `Error` that says what is wrong with `chosen`: one line for each mistake. */
  render(namespace: string, chosen: Values): readonly ApiObject[];
}

/** Reads the chart in `directory`, and the definitions in `crds`. Throws when they are not there or cannot be read. */
export function loadChart(directory: string = CHART, crds: string = CRDS): Chart {
  const about = document(join(directory, 'Chart.yaml')) as { name: string; version: string; appVersion: string };
  const defaults = document(join(directory, 'values.yaml')) as Values;
  const schema = JSON.parse(readFileSync(join(directory, 'values.schema.json'), 'utf8')) as object;
  const folder = join(directory, 'templates');
  const names = readdirSync(folder).filter((name) => /\.(yaml|tpl)$/.test(name));
  const templates = new Templates(new Map(names.map((name) => [name, readFileSync(join(folder, name), 'utf8')])));
  return {
    version: about.version,
    values: defaults,
    get crds() {
      return readDefinitions(crds);
    },
    render(namespace, chosen) {
      const values = mergeValues(defaults, chosen);
      checkValues(schema, values);
      const root = {
        Values: values,
        Release: { Name: 'meltemi', Namespace: namespace },
        Chart: { Name: about.name, Version: about.version, AppVersion: about.appVersion },
      };
      return names
        .filter((name) => name.endsWith('.yaml'))
        .flatMap((name) => objects(name, templates.render(name, root)));
    },
  };
}

function objects(name: string, text: string): readonly ApiObject[] {
  const parsed = parseYamlDocuments(text);
  if (!parsed.ok) throw new Error(`a bug: ${name} renders to no YAML: ${parsed.error.join('; ')}`);
  return parsed.value.map(({ value }) => value as ApiObject);
}

function readDefinitions(directory: string): readonly ApiObject[] {
  if (!existsSync(directory)) {
    throw new Error(`the definitions of custom resources are not in ${directory}: run make crds, or leave them out`);
  }
  return readdirSync(directory)
    .filter((name) => name.endsWith('.yaml'))
    .map((name) => document(join(directory, name)) as ApiObject);
}

function document(path: string): unknown {
  const parsed = parseYaml(readFileSync(path, 'utf8'));
  if (!parsed.ok) throw new Error(`${path}: ${parsed.error.join('; ')}`);
  return parsed.value;
}

const ROOT = join(import.meta.dirname, '../../../..');
const CHART = join(ROOT, 'daemonset/chart');
const CRDS = join(ROOT, 'build/crds');
