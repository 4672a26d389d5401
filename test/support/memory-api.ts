import {
  ApiError,
  type ApiObject,
  type KubeApi,
  type ObjectName,
  type Page,
  type Resource,
  type Selection,
  type WatchEvent,
} from '../../src/kube/api.js';

type Verb = 'get' | 'list' | 'watch' | 'create' | 'replace' | 'apply' | 'patch' | 'delete' | 'request';

interface Call {
  readonly verb: Verb;
  readonly resource: Resource | undefined;
  readonly name: ObjectName | undefined;
  readonly object: ApiObject | undefined;
}

/**
 * An API server in memory, with versions, conflicts and watches; what is posted to `tokenreviews` is answered by
 * `review`. Several clients share one: each is a view that can be cut off.
 */
export class MemoryApi implements KubeApi {
  readonly #cluster: Cluster;
  /** Called before each request; what it throws is what the client sees, and a promise holds the request up. */
  before: (call: Call) => void | Promise<void> = () => {};
  review: (spec: { readonly token: string; readonly audiences: readonly string[] }) => unknown = () => ({});
  readonly calls: Call[] = [];
  /** What is answered to a GET of a path. */
  readonly pages = new Map<string, unknown>();

  constructor(cluster?: MemoryApi) {
    this.#cluster = cluster === undefined ? new Cluster() : cluster.#cluster;
  }

  async get(resource: Resource, name: ObjectName): Promise<ApiObject | undefined> {
    await this.#call('get', resource, name);
    return copy(this.#cluster.objects.get(keyOf(resource, name)));
  }

  async list(resource: Resource, selection: Selection = {}): Promise<Page> {
    await this.#call('list', resource);
    const items = [...this.#cluster.objects]
      .filter(([key, object]) => key.startsWith(`${prefixOf(resource)} `) && isSelected(object, selection))
      .map(([, object]) => copy(object));
    return { items, resourceVersion: String(this.#cluster.version), next: undefined };
  }

  async listAll(
    resource: Resource,
    selection: Selection,
    _notBefore: string,
    each: (object: ApiObject) => void,
  ): Promise<string> {
    const { items, resourceVersion } = await this.list(resource, selection);
    for (const item of items) each(item);
    return resourceVersion;
  }

  async *watch(
    resource: Resource,
    selection: Selection,
    resourceVersion: string,
    signal: AbortSignal,
  ): AsyncGenerator<WatchEvent> {
    await this.#call('watch', resource);
    let next = 0;
    while (!signal.aborted) {
      for (const { event, key, version } of this.#cluster.history.slice(next)) {
        next++;
        const isMeant = key.startsWith(`${prefixOf(resource)} `) && version > Number(resourceVersion);
        if (isMeant && event.type !== 'bookmark' && isSelected(event.object, selection)) yield copy(event);
        if (signal.aborted) return;
      }
      if (next === this.#cluster.history.length) await this.#cluster.change(signal);
    }
  }

  async create(resource: Resource, object: ApiObject): Promise<ApiObject> {
    await this.#call('create', resource, object.metadata, object);
    if (resource.plural === 'tokenreviews') {
      return { ...object, status: this.review(object.spec as Parameters<typeof this.review>[0]) };
    }
    const key = keyOf(resource, object.metadata);
    if (this.#cluster.objects.has(key)) throw new ApiError(409, 'AlreadyExists', `create ${key}: it exists already`);
    return this.#cluster.store('added', key, object);
  }

  async replace(resource: Resource, object: ApiObject): Promise<ApiObject> {
    await this.#call('replace', resource, object.metadata, object);
    const key = keyOf(resource, object.metadata);
    const former = this.#cluster.objects.get(key);
    if (former === undefined) throw new ApiError(404, 'NotFound', `replace ${key}: there is none`);
    const { resourceVersion } = object.metadata;
    if (resourceVersion !== undefined && resourceVersion !== former.metadata.resourceVersion) {
      throw new ApiError(409, 'Conflict', `replace ${key}: it is of another version`);
    }
    return this.#cluster.store('modified', key, object);
  }

  async apply(resource: Resource, object: ApiObject): Promise<ApiObject> {
    await this.#call('apply', resource, object.metadata, object);
    const key = keyOf(resource, object.metadata);
    const former = this.#cluster.objects.get(key);
    const merged = former === undefined ? object : (merge(former, object) as ApiObject);
    return this.#cluster.store(former === undefined ? 'added' : 'modified', key, merged);
  }

  async patch(resource: Resource, name: ObjectName, patch: unknown): Promise<ApiObject> {
    await this.#call('patch', resource, name);
    const key = keyOf(resource, name);
    const former = this.#cluster.objects.get(key);
    if (former === undefined) throw new ApiError(404, 'NotFound', `patch ${key}: there is none`);
    const wanted = (patch as { metadata?: { resourceVersion?: string } }).metadata?.resourceVersion;
    if (wanted !== undefined && wanted !== former.metadata.resourceVersion) {
      throw new ApiError(409, 'Conflict', `patch ${key}: it is of another version`);
    }
    return this.#cluster.store('modified', key, merge(former, patch) as ApiObject);
  }

  async delete(resource: Resource, name: ObjectName): Promise<boolean> {
    await this.#call('delete', resource, name);
    const key = keyOf(resource, name);
    const former = this.#cluster.objects.get(key);
    if (former !== undefined) this.#cluster.store('deleted', key, former);
    return former !== undefined;
  }

  async request(_method: 'GET' | 'POST' | 'PUT' | 'DELETE', path: string): Promise<unknown> {
    await this.#call('request', undefined, { name: path });
    if (this.pages.has(path)) return this.pages.get(path);
    throw new ApiError(404, 'NotFound', `${path}: there is none`);
  }

  close(): void {}

  async #call(verb: Verb, resource?: Resource, name?: ObjectName, object?: ApiObject): Promise<void> {
    const call = { verb, resource, name, object };
    this.calls.push(call);
    // An answer never comes in the same turn.
    await null;
    await this.before(call);
  }
}

class Cluster {
  readonly objects = new Map<string, ApiObject>();
  readonly history: { readonly event: WatchEvent; readonly key: string; readonly version: number }[] = [];
  version = 0;
  #changed = Promise.withResolvers<void>();

  store(type: 'added' | 'modified' | 'deleted', key: string, object: ApiObject): ApiObject {
    const former = this.objects.get(key);
    const metadata = {
      ...object.metadata,
      uid: former?.metadata.uid ?? `uid-${this.version + 1}`,
      resourceVersion: former?.metadata.resourceVersion ?? '',
    };
    if (
      type === 'modified' &&
      former !== undefined &&
      JSON.stringify({ ...object, metadata }) === JSON.stringify(former)
    ) {
      return copy(former);
    }
    const version = ++this.version;
    const stored = copy({ ...object, metadata: { ...metadata, resourceVersion: String(version) } });
    if (type === 'deleted') this.objects.delete(key);
    else this.objects.set(key, stored);
    this.history.push({ event: { type, object: stored }, key, version });
    this.#changed.resolve();
    this.#changed = Promise.withResolvers();
    return copy(stored);
  }

  change(signal: AbortSignal): Promise<void> {
    const aborted = new Promise<void>((resolve) => signal.addEventListener('abort', () => resolve(), { once: true }));
    return Promise.race([this.#changed.promise, aborted]);
  }
}

function prefixOf({ group, plural }: Resource): string {
  return `${plural}.${group}`;
}

function keyOf(resource: Resource, { namespace, name }: ObjectName): string {
  return `${prefixOf(resource)} ${resource.namespaced ? namespace : ''}/${name}`;
}

/** Knows the selectors that something of ours sends. */
function isSelected(object: ApiObject, { namespace, fieldSelector = '', labelSelector = '' }: Selection): boolean {
  if (namespace !== undefined && object.metadata.namespace !== namespace) return false;
  const labels = (object.metadata.labels ?? {}) as Readonly<Record<string, string>>;
  const wanted = labelSelector.split(',').filter((each) => each !== '');
  if (!wanted.every((each) => labels[each.slice(0, each.indexOf('='))] === each.slice(each.indexOf('=') + 1))) {
    return false;
  }
  return fieldSelector
    .split(',')
    .filter((each) => each !== '')
    .every((each) => {
      const [, path = '', isNot, value] = /^(.*?)(!)?=(.*)$/.exec(each) ?? [];
      const found = path
        .split('.')
        .reduce((at: unknown, part) => (at as Record<string, unknown> | undefined)?.[part], object);
      return (found === value) === (isNot === undefined);
    });
}

function merge(before: unknown, patch: unknown): unknown {
  if (!isRecord(patch)) return patch;
  const result: Record<string, unknown> = isRecord(before) ? { ...before } : {};
  for (const [name, value] of Object.entries(patch)) {
    if (value === null) delete result[name];
    else if (value !== undefined) result[name] = merge(result[name], value);
  }
  return result;
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function copy<T>(value: T): T {
  return structuredClone(value);
}
