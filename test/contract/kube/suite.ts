import t, { type Test } from 'tap';
import { ApiError, type ApiObject, type KubeApi, type WatchEvent } from '../../../src/kube/api.js';
import { RESOURCES } from '../../../src/kube/resources.js';

/** The error that a request ends with. */
export async function failure(request: Promise<unknown>): Promise<ApiError> {
  const error = await request.then(
    () => undefined,
    (error: unknown) => error,
  );
  if (error instanceof ApiError) return error;
  throw new Error(`no ApiError: ${error}`);
}

/** What every KubeApi holds to, whatever is behind it. */
export function kubeApiSuite(name: string, open: (t: Test) => Promise<KubeApi> | KubeApi): void {
  const { ConfigMap } = RESOURCES;
  let count = 0;
  /** A namespace that no other test uses. */
  const scene = async (t: Test) => {
    const api = await open(t);
    t.teardown(() => api.close());
    const namespace = `scene-${name.replaceAll(' ', '-')}-${++count}`;
    await api.create(RESOURCES.Namespace, { metadata: { name: namespace } });
    const map = (name: string, data: Record<string, string> = {}, metadata = {}): ApiObject => ({
      apiVersion: 'v1',
      kind: 'ConfigMap',
      metadata: { name, namespace, ...metadata },
      data,
    });
    return { api, namespace, map };
  };

  t.test(`${name}: what is created is there, once`, async (t) => {
    const { api, namespace, map } = await scene(t);
    const created = await api.create(ConfigMap, map('a', { x: '1' }));
    t.match(created, { metadata: { name: 'a', namespace, uid: String, resourceVersion: String }, data: { x: '1' } });
    t.match(await api.get(ConfigMap, { namespace, name: 'a' }), { data: { x: '1' } });
    t.equal(await api.get(ConfigMap, { namespace, name: 'b' }), undefined);
    t.match(await failure(api.create(ConfigMap, map('a'))), { status: 409, reason: 'AlreadyExists' });
  });

  t.test(`${name}: a list shows one namespace, a name, or everything`, async (t) => {
    const { api, namespace, map } = await scene(t);
    for (const each of ['a', 'b', 'c']) await api.create(ConfigMap, map(each));
    const names = (items: readonly ApiObject[]) => items.map(({ metadata }) => metadata.name).sort();
    const page = await api.list(ConfigMap, { namespace });
    t.same(names(page.items.filter(({ metadata }) => metadata.name.length === 1)), ['a', 'b', 'c']);
    t.equal(page.next, undefined);
    t.same(names((await api.list(ConfigMap, { namespace, fieldSelector: 'metadata.name=b' })).items), ['b']);
    const all = (await api.list(ConfigMap)).items.filter(({ metadata }) => metadata.namespace === namespace);
    t.same(
      names(all).filter((each) => each.length === 1),
      ['a', 'b', 'c'],
    );
  });

  t.test(`${name}: a replacement of an old version is refused`, async (t) => {
    const { api, map } = await scene(t);
    const first = await api.create(ConfigMap, map('a', { x: '1' }));
    const second = await api.replace(ConfigMap, { ...first, data: { x: '2' } });
    t.not(second.metadata.resourceVersion, first.metadata.resourceVersion);
    t.match(await failure(api.replace(ConfigMap, { ...first, data: { x: '3' } })), { status: 409, reason: 'Conflict' });
    t.match(await failure(api.replace(ConfigMap, map('none'))), { status: 404 });
  });

  t.test(`${name}: what is applied is made or completed`, async (t) => {
    const { api, namespace, map } = await scene(t);
    await api.apply(ConfigMap, map('a', { x: '1' }));
    await api.apply(ConfigMap, map('a', { x: '1', y: '2' }));
    const now = await api.get(ConfigMap, { namespace, name: 'a' });
    t.same(now?.data, { x: '1', y: '2' });
    const again = await api.apply(ConfigMap, map('a', { x: '1', y: '2' }));
    t.equal(again.metadata.resourceVersion, now?.metadata.resourceVersion, 'the same again is no change');
  });

  t.test(`${name}: a merge patch sets, and takes away with null`, async (t) => {
    const { api, namespace, map } = await scene(t);
    await api.create(ConfigMap, map('a', { x: '1', y: '2' }));
    const patched = await api.patch(ConfigMap, { namespace, name: 'a' }, { data: { x: null, z: '3' } });
    t.same(patched.data, { y: '2', z: '3' });
    t.match(await failure(api.patch(ConfigMap, { namespace, name: 'none' }, {})), { status: 404 });
  });

  t.test(`${name}: a deletion says whether there was anything`, async (t) => {
    const { api, namespace, map } = await scene(t);
    await api.create(ConfigMap, map('a'));
    t.equal(await api.delete(ConfigMap, { namespace, name: 'a' }), true);
    t.equal(await api.delete(ConfigMap, { namespace, name: 'a' }), false);
    t.equal(await api.get(ConfigMap, { namespace, name: 'a' }), undefined);
  });

  t.test(`${name}: a watch tells each change after its version once, in order`, async (t) => {
    const { api, namespace, map } = await scene(t);
    await api.create(ConfigMap, map('before'));
    const { resourceVersion } = await api.list(ConfigMap, { namespace });
    const stop = new AbortController();
    t.teardown(() => stop.abort());
    const created = await api.create(ConfigMap, map('a', { x: '1' }));
    const events: WatchEvent[] = [];
    for await (const event of api.watch(ConfigMap, { namespace }, resourceVersion, stop.signal)) {
      if (event.type === 'bookmark') continue;
      events.push(event);
      if (events.length === 1) await api.replace(ConfigMap, { ...created, data: { x: '2' } });
      if (events.length === 2) await api.delete(ConfigMap, { namespace, name: 'a' });
      if (events.length === 3) break;
    }
    t.match(events, [
      { type: 'added', object: { metadata: { name: 'a' }, data: { x: '1' } } },
      { type: 'modified', object: { metadata: { name: 'a' }, data: { x: '2' } } },
      { type: 'deleted', object: { metadata: { name: 'a' } } },
    ]);
  });
}
