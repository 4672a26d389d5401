/** Kubernetes and Istio objects for the mesh tests, as short as they can be said. */
import { pythonFile } from './prober.js';

export interface Manifest {
  readonly apiVersion: string;
  readonly kind: string;
  readonly metadata: {
    readonly name: string;
    readonly namespace?: string;
    readonly labels?: Labels;
    readonly annotations?: Labels;
  };
  readonly [field: string]: unknown;
}

type Labels = Readonly<Record<string, string>>;

export const CAPTURED: Labels = { 'istio.io/dataplane-mode': 'ambient' };
export const NOT_CAPTURED: Labels = { 'istio.io/dataplane-mode': 'none' };

export function namespace(name: string, labels: Labels = {}): Manifest {
  return { apiVersion: 'v1', kind: 'Namespace', metadata: { name, labels } };
}

export interface PodWish {
  readonly name: string;
  readonly namespace: string;
  /** 1 for node-1. */
  readonly node: number;
  readonly labels?: Labels;
  readonly annotations?: Labels;
  /** Default: the pod's name. */
  readonly serviceAccount?: string;
}

/** A pod that waits for a prober to be put into it. */
export function idlePod(wish: PodWish): Manifest {
  return pod(wish, { command: ['sleep', 'infinity'] });
}

/** A pod that runs pods/server.py on all `ports`. */
export function serverPod(wish: PodWish, ports: readonly number[]): Manifest {
  return pod(wish, {
    command: ['python3', '-u', pythonFile('server.py'), wish.name, ...ports.map(String)],
    ports: [{ name: 'first', containerPort: ports[0] }],
    readinessProbe: { tcpSocket: { port: ports[0] }, periodSeconds: 1 },
  });
}

/** A pod with any one container. */
export function pod(wish: PodWish, container: object): Manifest {
  const { name, node, labels = {}, annotations = {}, serviceAccount = name } = wish;
  return {
    apiVersion: 'v1',
    kind: 'Pod',
    metadata: { name, namespace: wish.namespace, labels: { app: name, ...labels }, annotations },
    spec: {
      serviceAccountName: serviceAccount,
      nodeName: `node-${node}`,
      terminationGracePeriodSeconds: 1,
      containers: [{ name: 'main', image: 'none', ...container }],
    },
  };
}

export interface ServiceWish {
  readonly name: string;
  readonly namespace: string;
  readonly selector: Labels;
  readonly ports: readonly { readonly port: number; readonly targetPort: number | string }[];
  /** Both families, or none for a headless service. */
  readonly addresses?: readonly string[];
}

export function service({ name, namespace, selector, ports, addresses = [] }: ServiceWish): Manifest {
  const ips = addresses.length === 0 ? { clusterIP: 'None' } : { clusterIP: addresses[0], clusterIPs: addresses };
  return {
    apiVersion: 'v1',
    kind: 'Service',
    metadata: { name, namespace },
    spec: {
      ...ips,
      ipFamilyPolicy: 'RequireDualStack',
      ipFamilies: ['IPv4', 'IPv6'],
      selector,
      ports: ports.map(({ port, targetPort }) => ({ name: `tcp-${port}`, port, targetPort })),
    },
  };
}

export function serviceEntry(name: string, namespace: string, spec: object): Manifest {
  return { apiVersion: 'networking.istio.io/v1', kind: 'ServiceEntry', metadata: { name, namespace }, spec };
}

/** PeerAuthentication of a whole namespace. */
export function peerAuthentication(name: string, namespace: string, mode: 'STRICT' | 'PERMISSIVE'): Manifest {
  return {
    apiVersion: 'security.istio.io/v1',
    kind: 'PeerAuthentication',
    metadata: { name, namespace },
    spec: { mtls: { mode } },
  };
}

export function authorizationPolicy(name: string, namespace: string, spec: object, annotations: Labels = {}): Manifest {
  return {
    apiVersion: 'security.istio.io/v1',
    kind: 'AuthorizationPolicy',
    metadata: { name, namespace, annotations },
    spec,
  };
}

/** A policy and a Service that concern no pod: whoever knows them knows what was written before. */
export function markers(name: string): Manifest[] {
  const selector = { marker: 'nothing-has-this-label' };
  const rules = [{ to: [{ operation: { ports: ['1'] } }] }];
  return [
    authorizationPolicy(`policy-${name}-end`, 'default', {
      selector: { matchLabels: selector },
      action: 'DENY',
      rules,
    }),
    service({ name: `service-${name}-end`, namespace: 'default', selector, ports: [{ port: 1, targetPort: 1 }] }),
  ];
}
