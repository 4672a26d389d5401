import t from 'tap';
import { KubernetesSource } from '../../../src/control/inputs/kubernetes/kubernetes-source.js';
import type { Resource } from '../../../src/kube/api.js';
import { RESOURCES } from '../../../src/kube/resources.js';
import { systemClock } from '../../../src/lib/clock.js';
import { definitionOf, startApiServer } from '../../support/api-server.js';
import { until } from '../../support/mesh.js';
import { Wire } from '../../support/wire.js';
import { inputsSuite, type Manifest } from './suite.js';

const server = await startApiServer();
const cleaner = server.api();
t.teardown(async () => {
  cleaner.close();
  await server.close();
});
const CUSTOM = [
  RESOURCES.AuthorizationPolicy,
  RESOURCES.PeerAuthentication,
  RESOURCES.ServiceEntry,
  RESOURCES.WorkloadEntry,
];
for (const resource of CUSTOM) await cleaner.create(RESOURCES.CustomResourceDefinition, definitionOf(resource));
for (const resource of CUSTOM) {
  await until(`${resource.plural} are served`, () => cleaner.list(resource).then(() => true));
}

inputsSuite('kubernetes', async (t, events) => {
  const wire = await new Wire(Number(new URL(server.url).port)).listen();
  const api = server.api();
  const through = server.api({ server: `https://127.0.0.1:${wire.port}` });
  t.teardown(async () => {
    await empty();
    api.close();
    through.close();
    await wire[Symbol.asyncDispose]();
  });
  const source = new KubernetesSource(through, { ...events, trouble() {} }, systemClock);
  return {
    source,
    async put(object) {
      await api.apply(resourceOf(object), object, { force: true });
    },
    async remove(object) {
      await api.delete(resourceOf(object), object.metadata, { gracePeriodSeconds: 0 });
    },
    async hide() {
      wire.open = false;
      wire.cut();
    },
    async show() {
      wire.open = true;
    },
  };
});

/** Takes away what a test has left in the namespace `shop`, which cannot go itself: nobody is there to finish it. */
async function empty(): Promise<void> {
  for (const resource of [RESOURCES.Pod, RESOURCES.Service, ...CUSTOM]) {
    for (const { metadata } of (await cleaner.list(resource, { namespace: 'shop' })).items) {
      await cleaner.delete(resource, metadata, { gracePeriodSeconds: 0 });
    }
  }
}

function resourceOf({ kind }: Manifest): Resource {
  return RESOURCES[kind as keyof typeof RESOURCES];
}
