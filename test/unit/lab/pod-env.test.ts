import { test } from 'tap';
import type { LabPod } from '../../../src/lab/pod.js';
import { containerEnv } from '../../../src/lab/pod-env.js';
import type { ContainerPlan, EnvEntry } from '../../../src/lab/pod-plan.js';

const pod = {
  start: {
    uid: 'u-1',
    nodeName: 'node-2',
    nodeAddresses: { ipv4: '10.10.1.2', ipv6: 'fd00:10:10::1:2' },
    addresses: { ipv4: '10.244.2.2', ipv6: 'fd00:10:244:2::2' },
    marker: 'lab-1',
    plan: { hostname: 'web', serviceAccount: 'web' },
  },
  object: { metadata: { name: 'web', namespace: 'shop', labels: { app: 'web' }, annotations: { note: 'n' } } },
} as unknown as LabPod;

const envOf = (env: readonly EnvEntry[]) => containerEnv({ env } as unknown as ContainerPlan, pod);

test('a container has a path, a home, a host name, and what its spec says', async (t) => {
  const env = envOf([{ name: 'GREETING', value: 'hello' }]);
  t.match(env, { HOME: '/root', HOSTNAME: 'web', GREETING: 'hello' });
  t.ok(env.PATH?.endsWith(process.execPath.replace(/\/node$/, '')), 'the Node that runs the lab is found last');
});

test('fields of the pod are filled in, unknown ones are empty', async (t) => {
  const paths = {
    'metadata.name': 'web',
    'metadata.namespace': 'shop',
    "metadata.labels['app']": 'web',
    "metadata.annotations['note']": 'n',
    'spec.nodeName': 'node-2',
    'status.podIP': '10.244.2.2',
    'status.podIPs': '10.244.2.2,fd00:10:244:2::2',
    'status.hostIP': '10.10.1.2',
    'spec.noSuch': '',
    constructor: '',
  };
  for (const [fieldPath, value] of Object.entries(paths))
    t.equal(envOf([{ name: 'A', fieldPath }]).A, value, fieldPath);
});

test('the marker by which leftovers are found cannot be overwritten', async (t) => {
  t.equal(envOf([{ name: 'MELTEMI_LAB', value: 'mine' }]).MELTEMI_LAB, 'lab-1');
});
