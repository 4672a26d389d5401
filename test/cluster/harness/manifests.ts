/** Objects that most tests on a cluster make: pods of the test application, and services over them. */

export interface AppOptions {
  readonly namespace: string;
  readonly name: string;
  readonly replicas?: number;
  /** Arguments of /bin/app instead of `serve`. */
  readonly args?: readonly string[];
  /** Merged into the pod's spec. */
  readonly spec?: object;
  /** Merged into the container. */
  readonly container?: object;
  /** Of the pods, next to `app: NAME`. */
  readonly labels?: Readonly<Record<string, string>>;
}

/** Pods are spread over the nodes, ready when they answer, and gone a second after their end. */
export function appDeployment(options: AppOptions): object {
  const { namespace, name, replicas = 1 } = options;
  return {
    apiVersion: 'apps/v1',
    kind: 'Deployment',
    metadata: { name, namespace },
    spec: { replicas, selector: { matchLabels: { app: name } }, template: template(options) },
  };
}

export function appPod(options: AppOptions): object {
  const { namespace, name } = options;
  const { metadata, spec } = template(options);
  return { apiVersion: 'v1', kind: 'Pod', metadata: { ...metadata, name, namespace }, spec };
}

/** HTTP on 80, lines on 9000, greeting on 9001, datagrams on 9002. */
export function appService({ namespace, name }: { namespace: string; name: string }): object {
  return {
    apiVersion: 'v1',
    kind: 'Service',
    metadata: { name, namespace },
    spec: {
      selector: { app: name },
      ports: [
        { name: 'http', port: 80, targetPort: 8080 },
        { name: 'tcp-lines', port: 9000 },
        { name: 'tcp-greeting', port: 9001 },
        { name: 'udp-datagrams', port: 9002, protocol: 'UDP' },
      ],
    },
  };
}

function template({ name, args, spec, container, labels }: AppOptions) {
  const field = (env: string, fieldPath: string) => ({ name: env, valueFrom: { fieldRef: { fieldPath } } });
  const serves = args === undefined || args[0] === 'serve';
  return {
    metadata: { labels: { app: name, ...labels } },
    spec: {
      terminationGracePeriodSeconds: 1,
      topologySpreadConstraints: [
        {
          maxSkew: 1,
          topologyKey: 'kubernetes.io/hostname',
          whenUnsatisfiable: 'ScheduleAnyway',
          labelSelector: { matchLabels: { app: name } },
        },
      ],
      containers: [
        {
          name: 'app',
          image: 'meltemi-test/app:1',
          imagePullPolicy: 'IfNotPresent',
          ...(args === undefined ? {} : { command: ['/bin/app', ...args] }),
          env: [field('POD', 'metadata.name'), field('NODE', 'spec.nodeName')],
          ...(serves ? { readinessProbe: { httpGet: { path: '/ready', port: 8080 }, periodSeconds: 1 } } : {}),
          ...container,
        },
      ],
      ...spec,
    },
  };
}
