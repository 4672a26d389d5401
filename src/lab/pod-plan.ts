import { err, ok, type Result } from '../lib/result.js';
import { isRecord, type KubeObject, listAt, objectTitle, recordAt } from './objects.js';

/** What the lab does with a Pod's spec. Images, volumes, resources and security contexts mean nothing here. */
export interface PodPlan {
  /** Undefined: the lab chooses. */
  readonly nodeName: string | undefined;
  readonly serviceAccount: string;
  readonly hostNetwork: boolean;
  readonly restartPolicy: 'Always' | 'OnFailure' | 'Never';
  readonly graceMs: number;
  readonly hostname: string;
  readonly subdomain: string;
  readonly initContainers: readonly ContainerPlan[];
  readonly containers: readonly ContainerPlan[];
}

export interface ContainerPlan {
  readonly name: string;
  /** `command` and `args` together; never empty. */
  readonly argv: readonly string[];
  readonly workingDir: string;
  readonly env: readonly EnvEntry[];
  readonly ports: readonly { readonly name: string; readonly port: number }[];
  readonly readiness: Probe | undefined;
}

export type EnvEntry =
  | { readonly name: string; readonly value: string }
  /** A field of the pod, for example `status.podIP`. */
  | { readonly name: string; readonly fieldPath: string };

export interface Probe {
  readonly check:
    | { readonly type: 'tcp'; readonly port: number }
    | {
        readonly type: 'http';
        readonly port: number;
        readonly path: string;
        readonly headers: Readonly<Record<string, string>>;
      }
    | { readonly type: 'exec'; readonly argv: readonly string[] };
  readonly initialDelayMs: number;
  readonly periodMs: number;
  readonly timeoutMs: number;
  readonly failureThreshold: number;
  readonly successThreshold: number;
}

/** Reads a Pod (or the template of one). Error: one sentence that names the pod, the container and the cause. */
export function planPod(pod: KubeObject): Result<PodPlan> {
  const spec = recordAt(pod, 'spec');
  const restartPolicy = spec.restartPolicy ?? 'Always';
  if (restartPolicy !== 'Always' && restartPolicy !== 'OnFailure' && restartPolicy !== 'Never') {
    return err(`${objectTitle(pod)}: restartPolicy is none of Always, OnFailure, Never`);
  }
  const lists: ContainerPlan[][] = [];
  for (const field of ['initContainers', 'containers']) {
    const plans: ContainerPlan[] = [];
    for (const [index, container] of listAt(spec, field).entries()) {
      const plan = planContainer(container);
      if (!plan.ok) return err(`${objectTitle(pod)}: ${field}[${index}]: ${plan.error}`);
      plans.push(plan.value);
    }
    lists.push(plans);
  }
  const [initContainers = [], containers = []] = lists;
  if (containers.length === 0) return err(`${objectTitle(pod)}: spec.containers is empty`);
  return ok({
    nodeName: text(spec.nodeName) ?? text(recordAt(spec, 'nodeSelector')['kubernetes.io/hostname']),
    serviceAccount: text(spec.serviceAccountName) ?? text(spec.serviceAccount) ?? 'default',
    hostNetwork: spec.hostNetwork === true,
    restartPolicy,
    graceMs: (count(spec.terminationGracePeriodSeconds) ?? DEFAULT_GRACE_SECONDS) * 1000,
    hostname: text(spec.hostname) ?? pod.metadata.name,
    subdomain: text(spec.subdomain) ?? '',
    initContainers,
    containers,
  });
}

function planContainer(value: unknown): Result<ContainerPlan> {
  if (!isRecord(value)) return err('expected a container');
  const name = text(value.name);
  if (name === undefined) return err('the name is missing');
  const argv = [...listAt(value, 'command'), ...listAt(value, 'args')].map(String);
  if (listAt(value, 'command').length === 0) {
    return err(`container ${name} has no command: the lab ignores images and runs the command on this machine's files`);
  }
  const env: EnvEntry[] = [];
  for (const entry of listAt(value, 'env')) {
    const read = envEntry(entry);
    if (!read.ok) return err(`container ${name}: ${read.error}`);
    env.push(read.value);
  }
  const ports = listAt(value, 'ports').flatMap((port) => {
    const number = isRecord(port) ? portNumber(port.containerPort, []) : undefined;
    return number === undefined ? [] : [{ name: text(recordAt(port).name) ?? '', port: number }];
  });
  const readiness = value.readinessProbe === undefined ? ok(undefined) : planProbe(value.readinessProbe, ports);
  if (!readiness.ok) return err(`container ${name}: readinessProbe: ${readiness.error}`);
  return ok({ name, argv, workingDir: text(value.workingDir) ?? '/', env, ports, readiness: readiness.value });
}

function envEntry(value: unknown): Result<EnvEntry> {
  const name = text(recordAt(value).name);
  if (name === undefined || !/^[A-Za-z_][A-Za-z0-9_.-]*$/.test(name)) return err('an env entry has no usable name');
  const fieldPath = text(recordAt(value, 'valueFrom', 'fieldRef').fieldPath);
  if (fieldPath !== undefined) return ok({ name, fieldPath });
  if (recordAt(value).valueFrom !== undefined)
    return err(`env ${name}: only fieldRef is known as valueFrom in the lab`);
  return ok({ name, value: String(recordAt(value).value ?? '') });
}

function planProbe(value: unknown, ports: ContainerPlan['ports']): Result<Probe> {
  if (!isRecord(value)) return err('expected a map');
  const check = probeCheck(value, ports);
  if (!check.ok) return check;
  return ok({
    check: check.value,
    initialDelayMs: (count(value.initialDelaySeconds) ?? 0) * 1000,
    periodMs: Math.max(1, count(value.periodSeconds) ?? DEFAULT_PERIOD_SECONDS) * 1000,
    timeoutMs: Math.max(1, count(value.timeoutSeconds) ?? 1) * 1000,
    failureThreshold: Math.max(1, count(value.failureThreshold) ?? 3),
    successThreshold: Math.max(1, count(value.successThreshold) ?? 1),
  });
}

function probeCheck(value: Record<string, unknown>, ports: ContainerPlan['ports']): Result<Probe['check']> {
  if (isRecord(value.exec)) {
    const argv = listAt(value.exec, 'command').map(String);
    return argv.length === 0 ? err('exec.command is empty') : ok({ type: 'exec', argv });
  }
  const target = isRecord(value.tcpSocket) ? value.tcpSocket : isRecord(value.httpGet) ? value.httpGet : undefined;
  if (target === undefined) return err('none of tcpSocket, httpGet, exec is there (grpc is not known in the lab)');
  const port = portNumber(target.port, ports);
  if (port === undefined) return err('port is neither a number nor the name of a port of the container');
  if (target === value.tcpSocket) return ok({ type: 'tcp', port });
  const headers = listAt(target, 'httpHeaders').map((header) => [
    String(recordAt(header).name),
    String(recordAt(header).value),
  ]);
  return ok({ type: 'http', port, path: text(target.path) ?? '/', headers: Object.fromEntries(headers) });
}

/** A port by number (also as text) or by the name of one of the container's ports. */
export function portNumber(value: unknown, ports: ContainerPlan['ports']): number | undefined {
  const number = typeof value === 'number' ? value : /^\d+$/.test(String(value)) ? Number(value) : undefined;
  if (number !== undefined) return Number.isInteger(number) && number > 0 && number < 65_536 ? number : undefined;
  return ports.find(({ name }) => name !== '' && name === value)?.port;
}

function text(value: unknown): string | undefined {
  return typeof value === 'string' && value !== '' ? value : undefined;
}

function count(value: unknown): number | undefined {
  return typeof value === 'number' && Number.isFinite(value) && value >= 0 ? value : undefined;
}

/** Kubernetes says 30; on one machine nobody wants to wait for a shell that ignores SIGTERM. */
const DEFAULT_GRACE_SECONDS = 2;
const DEFAULT_PERIOD_SECONDS = 10;
