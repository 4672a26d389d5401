import type { Resource, Selection } from './api.js';

/** `/apis/apps/v1/namespaces/shop/deployments/web/status`. Without a namespace: across all of them. */
export function pathOf(
  resource: Resource,
  at: {
    readonly namespace?: string | undefined;
    readonly name?: string;
    readonly subresource?: string | undefined;
  } = {},
): string {
  const { group, version, plural, namespaced } = resource;
  const root = group === '' ? `/api/${version}` : `/apis/${group}/${version}`;
  const scope = namespaced && at.namespace !== undefined ? `/namespaces/${encodeURIComponent(at.namespace)}` : '';
  const name = at.name === undefined ? '' : `/${encodeURIComponent(at.name)}`;
  const subresource = at.subresource === undefined ? '' : `/${at.subresource}`;
  return `${root}${scope}/${plural}${name}${subresource}`;
}

/** What narrows a list or a watch, and more. Undefined values are left out. */
export function queryOf(selection: Selection, more: Readonly<Record<string, string | undefined>> = {}): string {
  const { fieldSelector, labelSelector } = selection;
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries({ fieldSelector, labelSelector, ...more })) {
    if (value !== undefined) query.set(name, value);
  }
  const text = query.toString();
  return text === '' ? '' : `?${text}`;
}

/** `apps/v1`, or `v1` for the core group. */
export function apiVersionOf({ group, version }: Resource): string {
  return group === '' ? version : `${group}/${version}`;
}
