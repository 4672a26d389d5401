import t, { type Test } from 'tap';
import type { ApiObject, KubeApi, Resource } from '../../../src/kube/api.js';
import { inClusterApi } from '../../../src/kube/in-cluster.js';
import { watchInstalledKinds } from '../../../src/kube/installed-kinds.js';
import { type ReflectTrouble, reflect } from '../../../src/kube/reflect.js';
import { RESOURCES } from '../../../src/kube/resources.js';
import { definitionOf, startApiServer } from '../../support/api-server.js';
import { until } from '../../support/mesh.js';
import { Wire } from '../../support/wire.js';

/** What a reflection tells, against a real API server whose connections break, fall silent and lose their history. */
const server = await startApiServer();
t.teardown(() => server.close());
const { ConfigMap, CustomResourceDefinition } = RESOURCES;
let count = 0;

interface Rig {
  readonly namespace: string;
  readonly wire: Wire;
  /** Not through the wire. */
  readonly api: KubeApi;
  /** `=a1,b1` for everything at once, `+a2` and `-a2` for changes: names with `data.v`. */
  readonly told: string[];
  readonly troubles: ReflectTrouble[];
  /** The objects there are by what was told. */
  mirror(): Record<string, string>;
  status(): ReturnType<ReturnType<typeof reflect>['status']>;
  readonly synced: Promise<void>;
  put(name: string, v: string): Promise<void>;
  remove(name: string): Promise<void>;
}

async function rig(t: Test, resource: Resource = ConfigMap, silenceMs = 60_000): Promise<Rig> {
  const namespace = `reflect-${++count}`;
  const api = server.api();
  const wire = await new Wire(Number(new URL(server.url).port)).listen();
  const through = server.api({ server: `https://127.0.0.1:${wire.port}`, watchSilenceMs: silenceMs });
  await api.create(RESOURCES.Namespace, { metadata: { name: namespace } });
  const told: string[] = [];
  const troubles: ReflectTrouble[] = [];
  const objects = new Map<string, string>();
  const kinds = watchInstalledKinds(through);
  const reflection = reflect(through, resource, {
    selection: { namespace },
    kinds,
    read: ({ metadata, data }) => ({ name: metadata.name, v: String((data as { v?: unknown } | undefined)?.v) }),
    trouble: (trouble) => troubles.push(trouble),
    handler: {
      synced(all) {
        told.push(`=${all.map(({ name, v }) => name + v).sort()}`);
        objects.clear();
        for (const { name, v } of all) objects.set(name, v);
      },
      changed({ type, object: { name, v } }) {
        told.push(`${type === 'deleted' ? '-' : '+'}${name}${v}`);
        if (type === 'deleted') objects.delete(name);
        else objects.set(name, v);
      },
    },
  });
  t.teardown(async () => {
    reflection.close();
    kinds.close();
    through.close();
    api.close();
    await wire[Symbol.asyncDispose]();
  });
  return {
    namespace,
    wire,
    api,
    told,
    troubles,
    mirror: () => Object.fromEntries([...objects].sort()),
    status: () => reflection.status(),
    synced: reflection.synced,
    put: async (name, v) => void (await api.apply(resource, objectOf(namespace, name, v))),
    remove: async (name) => void (await api.delete(resource, { namespace, name })),
  };
}

function objectOf(namespace: string, name: string, v: string): ApiObject {
  return { metadata: { name, namespace }, data: { v } };
}

t.test('tells everything once, then each change', async (t) => {
  const { synced, told, put, remove } = await rig(t);
  await synced;
  t.same(told.splice(0), ['=']);
  await put('a', '1');
  await put('b', '1');
  await put('a', '2');
  await remove('b');
  await until('all is told', async () => told.length === 4);
  t.same(told, ['+a1', '+b1', '+a2', '-b1']);
});

t.test('a cut watch goes on where it was', async (t) => {
  const { synced, told, put, wire, status, troubles } = await rig(t);
  await synced;
  await put('a', '1');
  await until('a is told', async () => told.includes('+a1'));
  wire.open = false;
  wire.cut();
  await put('b', '1');
  await put('a', '2');
  await until('the cut is noticed', async () => status().error !== '');
  wire.open = true;
  await until('all is told', async () => told.length === 4);
  t.same(told, ['=', '+a1', '+b1', '+a2'], 'nothing is lost, nothing comes twice');
  t.equal(status().lists, 1);
  t.match(troubles[0], { what: 'watch failed' });
});

t.test('a watch that is silent for too long is cut and resumed', async (t) => {
  const { synced, told, put, wire, status } = await rig(t, ConfigMap, 300);
  await synced;
  await until('it watches', async () => status().state === 'watching' && wire.connections >= 2);
  await put('a', '1');
  await until('a is told', async () => told.includes('+a1'));
  wire.hush();
  await put('b', '1');
  await until('b is told', async () => told.includes('+b1'));
  t.same(told, ['=', '+a1', '+b1']);
  t.equal(status().lists, 1);
});

t.test('an API server that restarts is waited for; lost history is listed anew, in one piece', async (t) => {
  const { synced, told, put, remove, api, mirror, status, troubles, namespace } = await rig(t);
  await synced;
  await put('a', '1');
  await put('b', '1');
  await until('both are told', async () => told.length === 3);
  await server.stop();
  await until('it is noticed', async () => status().error !== '');
  t.same(mirror(), { a: '1', b: '1' }, 'what was known stays');
  await server.start();
  // Other kinds make history go on, so that this kind's last version is older than all that the server remembers.
  await api.create(RESOURCES.ServiceAccount, { metadata: { name: 'x', namespace } });
  await remove('a');
  await put('c', '1');
  await until('it has caught up', async () => JSON.stringify(mirror()) === '{"b":"1","c":"1"}');
  await put('c', '2');
  await until('it follows again', async () => mirror().c === '2');
  t.ok(troubles.length > 0);
  const all = told.slice(3).filter((each) => each.startsWith('='));
  t.ok(all.length <= 1, 'at most one replacement');
});

t.test('a version that the server has forgotten is listed anew', async (t) => {
  const { api, namespace } = await rig(t);
  const told: string[] = [];
  const troubles: ReflectTrouble[] = [];
  await api.create(ConfigMap, objectOf(namespace, 'a', '1'));
  // Lists once as if that had been an age ago.
  const list = api.listAll.bind(api);
  api.listAll = async (...args) => {
    const resourceVersion = await list(...args);
    return troubles.length > 0 ? resourceVersion : '1';
  };
  // What etcd compacts is lost for good; the server's own memory starts with its process.
  await server.stop();
  await server.start();
  const reflection = reflect(api, ConfigMap, {
    selection: { namespace },
    read: ({ metadata }) => metadata.name,
    trouble: (trouble) => troubles.push(trouble),
    handler: {
      synced: (all) => told.push(`=${all.filter((name) => name.length === 1)}`),
      changed: ({ object }) => told.push(`+${object}`),
    },
  });
  t.teardown(() => reflection.close());
  await until('history is lost', async () => troubles.length > 0);
  t.match(troubles[0], { what: 'history lost', message: /410 Expired/ });
  await until('it is listed anew', async () => told.length >= 2);
  await api.create(ConfigMap, objectOf(namespace, 'b', '1'));
  await until('it follows', async () => told.includes('+b'));
  t.same(told, ['=a', '=a', '+b']);
});

t.test('a kind that is not installed is empty, and picked up as soon as it is', async (t) => {
  const Wind: Resource = { group: 'meltemi.test', version: 'v1', plural: 'winds', kind: 'Wind', namespaced: true };
  const { synced, told, put, status, api, troubles } = await rig(t, Wind);
  await synced;
  t.same(told, ['=']);
  t.equal(status().state, 'missing');
  const startMs = Date.now();
  await api.create(CustomResourceDefinition, definitionOf(Wind));
  await until('it is watched', async () => status().state === 'watching');
  t.ok(Date.now() - startMs < 10_000, 'without waiting for the next look');
  await put('a', '1');
  await until('a is told', async () => told.includes('+a1'));
  await api.delete(CustomResourceDefinition, { name: 'winds.meltemi.test' });
  await until('it is missing again', async () => status().state === 'missing');
  t.equal(told.at(-1), '=');
  t.same(
    troubles.filter(({ what }) => what === 'list failed').filter(({ message }) => !/404/.test(message)),
    [],
  );
  await api.create(CustomResourceDefinition, definitionOf(Wind));
  await until('it is watched again', async () => status().state === 'watching');
  await put('b', '1');
  await until('b is told', async () => told.includes('+b1'));
});

t.test('who is not allowed to look knows nothing, says so, and is not asked to wait for ever', async (t) => {
  const { api, namespace } = await rig(t);
  await api.create(RESOURCES.ServiceAccount, { metadata: { name: 'outsider', namespace } });
  const request = { apiVersion: 'authentication.k8s.io/v1', kind: 'TokenRequest', spec: {} };
  const answer = await api.create(
    RESOURCES.ServiceAccount,
    { ...request, metadata: { name: 'outsider', namespace } },
    { subresource: 'token' },
  );
  const directory = t.testdir({ token: (answer as unknown as { status: { token: string } }).status.token });
  const outsider = inClusterApi({ server: server.url, ca: server.ca, token: `${directory}/token` });
  const troubles: ReflectTrouble[] = [];
  let synced = false;
  const reflection = reflect(outsider, ConfigMap, {
    read: () => undefined,
    trouble: (trouble) => troubles.push(trouble),
    handler: {
      synced: () => {
        synced = true;
      },
      changed() {},
    },
  });
  t.teardown(() => {
    reflection.close();
    outsider.close();
  });
  await until('it is told why', async () => troubles.length > 1);
  t.match(troubles[0], { what: 'list failed', message: /403 Forbidden: .*outsider.*a role is missing/ });
  t.equal(synced, false);
});
