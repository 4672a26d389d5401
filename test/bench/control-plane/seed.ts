/** The cluster of the bench: made through the API, and known to nobody but it. */
import type { ApiObject, KubeApi } from '../../../src/kube/api.js';
import { RESOURCES } from '../../../src/kube/resources.js';

export interface Shape {
  readonly namespaces: number;
  readonly nodes: number;
  readonly services: number;
  readonly pods: number;
}

export const FULL: Shape = { namespaces: 20, nodes: 20, services: 1000, pods: 10_000 };
export const SMALL: Shape = { namespaces: 20, nodes: 20, services: 1000, pods: 2000 };

export async function seed(api: KubeApi, shape: Shape): Promise<void> {
  // Where the control plane keeps its Lease; without it, it would ask again and again.
  await api.create(RESOURCES.Namespace, { metadata: { name: 'istio-system' } });
  await inParallel(range(shape.namespaces), (i) =>
    api.create(RESOURCES.Namespace, {
      metadata: { name: namespaceOf(i), labels: { 'istio.io/dataplane-mode': 'ambient' } },
    }),
  );
  await inParallel(range(shape.nodes), (i) =>
    api.create(RESOURCES.Node, {
      metadata: {
        name: `node-${i}`,
        labels: { 'topology.kubernetes.io/region': 'r', 'topology.kubernetes.io/zone': `z${i % 3}` },
      },
    }),
  );
  await inParallel(range(shape.services), (i) => api.create(RESOURCES.Service, serviceOf(shape, i)));
  await inParallel(range(shape.pods), (i) => createPod(api, podOf(shape, i), addressOf(i)));
}

export interface PodName {
  readonly namespace: string;
  readonly name: string;
}

/** The pod, and then its status with its address. Returns when the status was asked for and answered. */
export async function createPod(api: KubeApi, pod: ApiObject, ip: string, times?: Times): Promise<void> {
  const { namespace = '', name } = pod.metadata;
  await api.create(RESOURCES.Pod, pod);
  await setReady(api, { namespace, name }, true, times, ip);
}

/** When the API server was asked, and when it answered. */
export interface Times {
  fromMs: number;
  answeredMs: number;
}

export async function setReady(
  api: KubeApi,
  pod: PodName,
  ready: boolean,
  times: Times = { fromMs: 0, answeredMs: 0 },
  ip?: string,
): Promise<void> {
  const status = ready ? 'True' : 'False';
  const started = '2026-01-01T00:00:00Z';
  const condition = (type: string, value: string) => ({
    type,
    status: value,
    lastProbeTime: null,
    lastTransitionTime: new Date().toISOString().replace(/\.\d+/, ''),
  });
  times.fromMs = nowMs();
  await api.patch(
    RESOURCES.Pod,
    pod,
    {
      status: {
        conditions: [
          condition('PodReadyToStartContainers', 'True'),
          condition('Initialized', 'True'),
          condition('Ready', status),
          condition('ContainersReady', status),
          condition('PodScheduled', 'True'),
        ],
        ...(ip === undefined
          ? {}
          : {
              phase: 'Running',
              hostIP: '192.168.0.1',
              podIP: ip,
              podIPs: [{ ip }],
              startTime: started,
              qosClass: 'Burstable',
              containerStatuses: [
                {
                  name: 'main',
                  state: { running: { startedAt: started } },
                  lastState: {},
                  ready: true,
                  restartCount: 0,
                  image: 'registry.example/shop/app:1.2.3',
                  imageID: `registry.example/shop/app@sha256:${'0123456789abcdef'.repeat(4)}`,
                  containerID: `containerd://${'0123456789abcdef'.repeat(4)}`,
                  started: true,
                },
              ],
            }),
      },
    },
    { subresource: 'status' },
  );
  times.answeredMs = nowMs();
}

export async function deletePod(api: KubeApi, pod: PodName, times: Times): Promise<void> {
  times.fromMs = nowMs();
  await api.delete(RESOURCES.Pod, pod, { gracePeriodSeconds: 0 });
  times.answeredMs = nowMs();
}

/** The name of a pod's xDS resource. */
export function resourceOf({ namespace, name }: PodName): string {
  return `Kubernetes//Pod/${namespace}/${name}`;
}

export function podNameOf(shape: Shape, i: number, prefix = 'pod'): PodName {
  return { namespace: namespaceOf((i % shape.services) % shape.namespaces), name: `${prefix}-${i}` };
}

export function podOf(shape: Shape, i: number, prefix = 'pod'): ApiObject {
  const app = `svc-${i % shape.services}`;
  return {
    metadata: {
      ...podNameOf(shape, i, prefix),
      labels: {
        app,
        version: 'v1',
        'app.kubernetes.io/name': app,
        'pod-template-hash': '5d4f8c7b9',
      },
      annotations: { 'ambient.istio.io/redirection': 'enabled', 'example.com/checksum': 'f'.repeat(64) },
    },
    spec: {
      nodeName: `node-${i % shape.nodes}`,
      serviceAccountName: app,
      terminationGracePeriodSeconds: 0,
      containers: [
        {
          name: 'main',
          image: 'registry.example/shop/app:1.2.3',
          ports: [{ name: 'http', containerPort: 8080 }],
          env: [{ name: 'LOG_LEVEL', value: 'info' }],
          resources: { requests: { cpu: '100m', memory: '128Mi' } },
          readinessProbe: { httpGet: { path: '/ready', port: 8080 } },
        },
      ],
    },
  };
}

export function addressOf(i: number): string {
  return `10.${128 + (i >> 16)}.${(i >> 8) & 255}.${i & 255}`;
}

function serviceOf(shape: Shape, i: number): ApiObject {
  const name = `svc-${i}`;
  return {
    metadata: { name, namespace: namespaceOf(i % shape.namespaces), labels: { app: name } },
    spec: { selector: { app: name }, ports: [{ name: 'http', port: 80, targetPort: 8080 }] },
  };
}

function namespaceOf(i: number): string {
  return `ns-${i}`;
}

function range(count: number): readonly number[] {
  return Array.from({ length: count }, (_, i) => i);
}

async function inParallel(items: readonly number[], work: (i: number) => Promise<unknown>): Promise<void> {
  const left = [...items].reverse();
  const worker = async () => {
    for (let i = left.pop(); i !== undefined; i = left.pop()) await work(i);
  };
  await Promise.all(Array.from({ length: 24 }, worker));
}

export function nowMs(): number {
  return Number(process.hrtime.bigint()) / 1e6;
}
