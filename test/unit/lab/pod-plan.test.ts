import { test } from 'tap';
import type { KubeObject } from '../../../src/lab/objects.js';
import { planPod } from '../../../src/lab/pod-plan.js';

const pod = (spec: unknown): KubeObject => ({
  apiVersion: 'v1',
  kind: 'Pod',
  metadata: { name: 'web', namespace: 'shop', labels: {}, annotations: {} },
  spec,
});
const main = { name: 'main', command: ['serve'], args: ['--port', 80] };

test('command and args are one command line, the defaults are those of Kubernetes but for the grace', async (t) => {
  const plan = planPod(pod({ containers: [main] }));
  t.match(plan, {
    ok: true,
    value: {
      nodeName: undefined,
      serviceAccount: 'default',
      hostNetwork: false,
      restartPolicy: 'Always',
      graceMs: 2000,
      hostname: 'web',
      containers: [{ name: 'main', argv: ['serve', '--port', '80'], workingDir: '/', env: [] }],
    },
  });
});

test('a node can be named by nodeName or by its label', async (t) => {
  const byLabel = { containers: [main], nodeSelector: { 'kubernetes.io/hostname': 'node-2' } };
  t.match(planPod(pod(byLabel)), { value: { nodeName: 'node-2' } });
  t.match(planPod(pod({ ...byLabel, nodeName: 'node-1' })), { value: { nodeName: 'node-1' } });
});

test('probes find ports by name', async (t) => {
  const ports = [{ name: 'http', containerPort: 8080 }];
  const probe = (readinessProbe: unknown) => planPod(pod({ containers: [{ ...main, ports, readinessProbe }] }));
  t.match(probe({ tcpSocket: { port: 'http' } }), {
    value: { containers: [{ readiness: { check: { type: 'tcp', port: 8080 } } }] },
  });
  t.match(probe({ httpGet: { port: 8081, path: '/up' }, periodSeconds: 3 }), {
    value: {
      containers: [
        { readiness: { check: { type: 'http', port: 8081, path: '/up' }, periodMs: 3000, failureThreshold: 3 } },
      ],
    },
  });
  t.match(probe({ exec: { command: ['true'] } }), {
    value: { containers: [{ readiness: { check: { type: 'exec', argv: ['true'] } } }] },
  });
});

for (const [what, spec, error] of [
  ['no containers', {}, /Pod shop\/web: spec\.containers is empty/],
  [
    'no command',
    { containers: [{ name: 'main', image: 'nginx' }] },
    /containers\[0\]: container main has no command: the lab ignores images/,
  ],
  ['no name', { containers: [main, {}] }, /containers\[1\]: the name is missing/],
  ['a foreign restart policy', { containers: [main], restartPolicy: 'Often' }, /restartPolicy is none of/],
  [
    'an unknown port',
    { containers: [{ ...main, readinessProbe: { tcpSocket: { port: 'web' } } }] },
    /readinessProbe: port is neither/,
  ],
  [
    'a probe of no kind',
    { containers: [{ ...main, readinessProbe: { grpc: { port: 1 } } }] },
    /none of tcpSocket, httpGet, exec/,
  ],
  [
    'a secret in env',
    { containers: [{ ...main, env: [{ name: 'A', valueFrom: { secretKeyRef: {} } }] }] },
    /env A: only fieldRef/,
  ],
] as const) {
  test(`${what} is an error that names the pod and the container`, async (t) => {
    const plan = planPod(pod(spec));
    t.equal(plan.ok, false);
    if (!plan.ok) t.match(plan.error, error);
  });
}
