import type { ApiObject, KubeApi, Resource } from './api.js';
import { RESOURCES } from './resources.js';

/** The name of the CustomResourceDefinition that would define a kind: `serviceentries.networking.istio.io`. */
export function definitionName({ plural, group }: Resource): string {
  return `${plural}.${group}`;
}

/** Whether a custom kind is defined, established, and served in this version. */
export async function isDefined(api: KubeApi, resource: Resource): Promise<boolean> {
  if (resource.group === '') return false;
  const definition = await api.get(RESOURCES.CustomResourceDefinition, { name: definitionName(resource) });
  return definition !== undefined && serves(definition, resource.version);
}

function serves(definition: ApiObject, version: string): boolean {
  const { spec, status } = definition as {
    spec?: { versions?: readonly { name?: string; served?: boolean }[] };
    status?: { conditions?: readonly { type?: string; status?: string }[] };
  };
  const isServed = spec?.versions?.some(({ name, served }) => name === version && served === true) === true;
  const isEstablished = status?.conditions?.some(({ type, status }) => type === 'Established' && status === 'True');
  return isServed && isEstablished === true;
}
