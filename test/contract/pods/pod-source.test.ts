import { mkdtempSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import t from 'tap';
import { KubernetesPods } from '../../../src/agent/enroll/kubernetes-pods.js';
import { netnsIdOf } from '../../../src/agent/enroll/netns-search.js';
import { PodDirectory } from '../../../src/agent/enroll/pod-directory.js';
import { captureOf, type PodRecord } from '../../../src/agent/enroll/pod-record.js';
import type { PodSource } from '../../../src/agent/enroll/pod-source.js';
import { Sandboxes } from '../../../src/agent/enroll/sandboxes.js';
import { RESOURCES } from '../../../src/kube/resources.js';
import { systemClock } from '../../../src/lib/clock.js';
import { logger, setLogSink } from '../../../src/telemetry/log.js';
import { MemoryApi } from '../../support/memory-api.js';

/** One suite for every place that pods may come from, and what is true of the API server only. */
setLogSink(() => undefined);

const AMBIENT = { 'istio.io/dataplane-mode': 'ambient' };
const NETNS = '/proc/self/ns/net';

interface Pod {
  readonly name: string;
  readonly labels?: Readonly<Record<string, string>>;
  readonly phase?: string;
}

/** A place with a source that reads it. */
interface Place {
  readonly source: PodSource;
  /** Makes or changes a pod. */
  put(pod: Pod): Promise<void>;
  remove(name: string): Promise<void>;
  /** What everybody can see of its redirection; empty for none. */
  shown(pod: PodRecord): Promise<string>;
  close(): void;
}

const PLACES: Readonly<Record<string, () => Place>> = { directory, kubernetes };

for (const [name, make] of Object.entries(PLACES)) {
  t.test(`${name}: pods come, change and go, and the list is always whole`, async (t) => {
    const { place, list } = await started(t, make());
    t.same(list(), []);
    await place.put({ name: 'a' });
    await place.put({ name: 'b', labels: { app: 'b' } });
    await until(() => list().length === 2);
    t.match(find(list(), 'b'), {
      namespace: 'shop',
      serviceAccount: 'default',
      ips: ['10.0.0.1'],
      phase: 'Running',
      labels: { app: 'b' },
    });
    t.match(captureOf(find(list(), 'a')), { captured: true, because: 'namespace-label' });
    await place.put({ name: 'a', labels: { 'istio.io/dataplane-mode': 'none' } });
    await until(() => !captureOf(find(list(), 'a')).captured);
    await place.remove('a');
    await until(() => list().length === 1);
  });

  t.test(`${name}: a captured pod has a network namespace, under one path for as long as it runs`, async (t) => {
    const { place, list } = await started(t, make());
    await place.put({ name: 'a' });
    await until(() => list().length === 1 && find(list(), 'a').netns !== '');
    const { netns } = find(list(), 'a');
    t.equal(netnsIdOf(netns), netnsIdOf(NETNS));
    await place.put({ name: 'a', labels: { more: 'labels' } });
    await until(() => find(list(), 'a').labels.more === 'labels');
    t.equal(find(list(), 'a').netns, netns);
  });

  t.test(`${name}: what is reported can be seen, also by a successor`, async (t) => {
    const { place, list } = await started(t, make());
    await place.put({ name: 'a' });
    await until(() => list().length === 1);
    const pod = find(list(), 'a');
    t.notOk(place.source.wasRedirected(pod));
    place.source.report(pod, 'enabled');
    await until(async () => (await place.shown(pod)) === 'enabled');
    await until(() => place.source.wasRedirected(pod));
    place.source.report(pod, undefined);
    await until(async () => (await place.shown(pod)) === '');
    await until(() => !place.source.wasRedirected(pod));
  });
}

t.test('kubernetes: only what changes is written, with the uid of the pod that is meant', async (t) => {
  const { place, list } = await started(t, kubernetes());
  await place.put({ name: 'a' });
  await until(() => list().length === 1);
  const pod = find(list(), 'a');
  for (let time = 0; time < 3; time++) place.source.report(pod, 'enabled');
  await until(async () => (await place.shown(pod)) === 'enabled');
  place.source.report(pod, 'enabled');
  await sleep(20);
  t.equal(place.api.calls.filter(({ verb }) => verb === 'patch').length, 1);
  place.source.report({ ...pod, uid: 'of a former pod of this name' }, undefined);
  await sleep(20);
  t.equal(await place.shown(pod), 'enabled');
});

t.test('kubernetes: labels of the namespace, excluded namespaces and other revisions', async (t) => {
  const { place, list } = await started(t, kubernetes());
  await place.put({ name: 'a' });
  await place.put({ name: 'canary', labels: { 'istio.io/rev': 'canary' } });
  await place.put({ name: 'stable', labels: { 'istio.io/rev': 'default' } });
  await place.api.create(RESOURCES.Namespace, { metadata: { name: 'kube-system', labels: AMBIENT } });
  await place.api.create(RESOURCES.Pod, podObject({ name: 'dns' }, 'kube-system'));
  await until(() => list().length === 4);
  const because = () => Object.fromEntries(list().map((pod) => [pod.name, captureOf(pod).because]));
  t.same(because(), {
    a: 'namespace-label',
    canary: 'other-revision',
    stable: 'namespace-label',
    dns: 'excluded-namespace',
  });
  await place.api.patch(
    RESOURCES.Namespace,
    { name: 'shop' },
    { metadata: { labels: { 'istio.io/dataplane-mode': null } } },
  );
  await until(() => because().a === 'no-label');
});

t.test('kubernetes: a sandbox is taken up before any watch tells of its pod', async (t) => {
  const { place, list } = await started(t, kubernetes({ found: false }));
  await place.put({ name: 'a', phase: 'Pending' });
  await place.sandboxes.put({ uid: '', namespace: 'shop', name: 'a', netns: NETNS, ips: ['10.0.0.7'] });
  const pod = find(list(), 'a');
  t.same(pod.ips, ['10.0.0.7'], 'addresses that the API server does not know yet');
  t.equal(netnsIdOf(pod.netns), netnsIdOf(NETNS));
  t.ok(captureOf(pod).captured);
  await t.rejects(
    place.sandboxes.put({ uid: '', namespace: 'shop', name: 'a', netns: '/nonexistent', ips: [] }),
    /is no network namespace/,
  );
});

t.test('kubernetes: whether a pod starts uncaptured is asked for, not taken from a watch that lags', async (t) => {
  const place = kubernetes({ found: false });
  const { list } = await started(t, place);
  await place.api.patch(
    RESOURCES.Namespace,
    { name: 'shop' },
    { metadata: { labels: { 'istio.io/dataplane-mode': null } } },
  );
  await place.put({ name: 'a', phase: 'Pending' });
  await until(() => list().length === 1 && !captureOf(find(list(), 'a')).captured);
  place.cutWatches();
  await place.other.patch(RESOURCES.Namespace, { name: 'shop' }, { metadata: { labels: AMBIENT } });
  await place.sandboxes.put({ uid: '', namespace: 'shop', name: 'a', netns: NETNS, ips: ['10.0.0.7'] });
  t.ok(captureOf(find(list(), 'a')).captured);
});

async function started<P extends Place>(t: { teardown(undo: () => void): void }, place: P) {
  let pods: readonly PodRecord[] | undefined;
  t.teardown(() => place.close());
  await place.source.start((list) => {
    pods = list;
  });
  await until(() => pods !== undefined);
  return { place, list: () => pods ?? [] };
}

function find(list: readonly PodRecord[], name: string): PodRecord {
  const pod = list.find((each) => each.name === name);
  if (pod === undefined) throw new Error(`there is no pod ${name}`);
  return pod;
}

function directory(): Place {
  const root = mkdtempSync(join(tmpdir(), 'meltemi-pods-'));
  const path = join(root, 'pods');
  const source = new PodDirectory(path, systemClock, logger('test'));
  const file = (name: string) => join(path, `${name}-uid.json`);
  return {
    source,
    async put({ name, labels = {}, phase = 'Running' }) {
      const facts = {
        uid: `${name}-uid`,
        name,
        namespace: 'shop',
        namespaceLabels: AMBIENT,
        ips: ['10.0.0.1'],
        netns: NETNS,
      };
      writeFileSync(`${file(name)}.tmp`, JSON.stringify({ ...facts, labels, phase }));
      renameSync(`${file(name)}.tmp`, file(name));
    },
    remove: async (name) => rmSync(file(name)),
    shown: async (pod) => (source.wasRedirected(pod) ? 'enabled' : ''),
    close() {
      source.close();
      rmSync(root, { recursive: true });
    },
  };
}

function kubernetes({ found = true } = {}) {
  const api = new MemoryApi();
  const other = new MemoryApi(api);
  const sandboxes = new Sandboxes();
  void api.create(RESOURCES.Namespace, { metadata: { name: 'shop', labels: AMBIENT } });
  const process = { pid: 1, netns: NETNS, netnsId: netnsIdOf(NETNS) };
  const source = new KubernetesPods({
    api,
    node: 'node-1',
    revision: '',
    excludedNamespaces: ['kube-system'],
    clusterDomain: 'cluster.local',
    resolvConf: { cluster: { nameservers: [], searches: [] }, node: { nameservers: [], searches: [] } },
    sandboxes,
    clock: systemClock,
    log: logger('test'),
    findProcesses: (wanted) => new Map([...wanted.keys()].flatMap((key) => (found ? [[key, process] as const] : []))),
  });
  return {
    source,
    api,
    other,
    sandboxes,
    /** Its watches hear nothing more; what it asks for is answered. */
    cutWatches: () => source.close(),
    async put(pod: Pod) {
      await other.apply(RESOURCES.Pod, podObject(pod, 'shop'));
    },
    async remove(name: string) {
      await other.delete(RESOURCES.Pod, { namespace: 'shop', name });
    },
    async shown({ namespace, name }: PodRecord) {
      const pod = await other.get(RESOURCES.Pod, { namespace, name });
      const annotations = (pod?.metadata.annotations ?? {}) as Readonly<Record<string, string>>;
      return annotations['ambient.istio.io/redirection'] ?? '';
    },
    close: () => source.close(),
  };
}

function podObject({ name, labels = {}, phase = 'Running' }: Pod, namespace: string) {
  const podIPs = phase === 'Pending' ? [] : [{ ip: '10.0.0.1' }];
  return { metadata: { name, namespace, labels }, spec: { nodeName: 'node-1' }, status: { phase, podIPs } };
}

async function until(ask: () => boolean | Promise<boolean>): Promise<void> {
  for (const deadline = Date.now() + 10_000; !(await ask()); await sleep(5)) {
    if (Date.now() > deadline) throw new Error(`waited for: ${ask}`);
  }
}
