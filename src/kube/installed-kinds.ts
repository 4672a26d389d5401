import type { Clock } from '../lib/clock.js';
import type { KubeApi, Resource } from './api.js';
import { definitionName } from './definition.js';
import { type ReflectedChange, type Reflection, type ReflectTrouble, reflect } from './reflect.js';
import { RESOURCES } from './resources.js';

/** Which custom kinds the API server has. */
export interface InstalledKinds {
  /** Another one means that the definition has changed; undefined when there is none. */
  revisionOf(resource: Resource): string | undefined;
  /** Called when the definition of a kind comes, changes or goes. Returns the way out. */
  onChange(resource: Resource, listener: () => void): () => void;
}

/** Watches the definitions: their metadata alone, for the whole of them is large. */
export function watchInstalledKinds(
  api: KubeApi,
  options: { readonly clock?: Clock; readonly trouble?: (trouble: ReflectTrouble) => void } = {},
): InstalledKinds & Reflection {
  const revisions = new Map<string, string>();
  const listeners = new Map<string, Set<() => void>>();
  const put = (name: string, revision: string | undefined) => {
    if (revisions.get(name) === revision) return;
    if (revision === undefined) revisions.delete(name);
    else revisions.set(name, revision);
    for (const listener of [...(listeners.get(name) ?? [])]) listener();
  };
  const reflection = reflect<Definition>(api, RESOURCES.CustomResourceDefinition, {
    selection: { metadataOnly: true },
    read: ({ metadata }) => ({ name: metadata.name, revision: metadata.resourceVersion ?? '' }),
    handler: {
      synced(all) {
        const names = new Set(all.map(({ name }) => name));
        for (const name of [...revisions.keys()]) if (!names.has(name)) put(name, undefined);
        for (const { name, revision } of all) put(name, revision);
      },
      changed({ type, object: { name, revision } }: ReflectedChange<Definition>) {
        put(name, type === 'deleted' ? undefined : revision);
      },
    },
    ...options,
  });
  return {
    synced: reflection.synced,
    status: () => reflection.status(),
    close: () => reflection.close(),
    revisionOf: (resource) => revisions.get(definitionName(resource)),
    onChange(resource, listener) {
      const name = definitionName(resource);
      const set = listeners.get(name) ?? new Set();
      listeners.set(name, set.add(listener));
      return () => {
        set.delete(listener);
        if (set.size === 0) listeners.delete(name);
      };
    },
  };
}

interface Definition {
  readonly name: string;
  readonly revision: string;
}
