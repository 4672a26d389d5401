import type { ChildProcess } from 'node:child_process';
import { mkdirSync } from 'node:fs';
import { BackOff } from '../lib/back-off.js';
import type { Clock } from '../lib/clock.js';
import { type AddressPair, both, NAMESERVER } from './addresses.js';
import { endChild, exited } from './children.js';
import { Container, execArgv } from './container.js';
import { joinPod, netnsOf } from './network.js';
import type { KubeObject } from './objects.js';
import { containerEnv } from './pod-env.js';
import type { ContainerPlan, PodPlan } from './pod-plan.js';
import { Readiness } from './readiness.js';
import { startSandbox } from './sandbox.js';

export interface PodStart {
  readonly uid: string;
  readonly pod: KubeObject;
  readonly plan: PodPlan;
  readonly nodeName: string;
  readonly nodePid: number;
  readonly nodeAddresses: AddressPair;
  /** The pod's own; those of the node when it uses the node's network. */
  readonly addresses: AddressPair;
  /** Name of the node's end of the pod's link. */
  readonly link: string;
  readonly mtu: number;
  readonly directory: string;
  readonly log: string;
  readonly clusterDomain: string;
  readonly token: string;
  /** Set for every process, so that leftovers can be found. */
  readonly marker: string;
  readonly clock: Clock;
  readonly onChange: () => void;
  /** Resolves when the pod's traffic is as it should be; until then no process of it runs. */
  readonly admitted: (pod: LabPod) => Promise<void>;
  /** Called when no process of the pod runs any more; its namespaces stay until this resolves. */
  readonly released: (pod: LabPod) => Promise<void>;
}

export type PodPhase = 'Pending' | 'Running' | 'Succeeded' | 'Failed';

/** A pod's life on its node: namespaces, link, admission, init containers, containers, probes; and its end. */
export class LabPod {
  phase: PodPhase = 'Pending';
  /** Why it is not running yet, or what went wrong last. */
  message = '';
  containers: readonly Container[] = [];
  /** Metadata may change while the pod lives, its spec does not. */
  object: KubeObject;
  readonly startedAtMs: number;
  #readiness = new Map<string, Readiness>();
  #sandbox: ChildProcess | undefined;
  #stopping = false;
  #cancelRetry: () => void = () => {};
  readonly #retries = new BackOff(500, 30_000);

  constructor(readonly start: PodStart) {
    this.object = start.pod;
    this.startedAtMs = start.clock.now();
    mkdirSync(start.directory, { recursive: true });
  }

  get key(): string {
    return podKey(this.object.metadata.namespace, this.object.metadata.name);
  }

  /** Path of the network namespace; empty until there is one. */
  get netns(): string {
    if (this.start.plan.hostNetwork) return netnsOf(this.start.nodePid);
    return this.#sandbox?.pid === undefined ? '' : netnsOf(this.#sandbox.pid);
  }

  get stopping(): boolean {
    return this.#stopping;
  }

  containerReady(name: string): boolean {
    const running = this.containers.some(({ state, start }) => start.name === name && state.type === 'running');
    return running && this.phase === 'Running' && this.#readiness.get(name)?.ready !== false;
  }

  get ready(): boolean {
    return (
      this.phase === 'Running' &&
      !this.#stopping &&
      this.start.plan.containers.every(({ name }) => this.containerReady(name))
    );
  }

  /** Starts the pod; what goes wrong is kept in `message` and tried again. */
  run(): void {
    this.#attempt().catch(async (error: unknown) => {
      if (this.#stopping) return;
      this.#turn('Pending', error instanceof Error ? error.message : String(error));
      await this.#tearDown(0);
      this.#cancelRetry = this.start.clock.schedule(this.#retries.next(), () => this.run());
    });
  }

  /** Ends all processes; the namespaces go with the last of them. */
  async stop(graceMs = this.start.plan.graceMs): Promise<void> {
    this.#stopping = true;
    this.#cancelRetry();
    this.start.onChange();
    await this.#tearDown(graceMs);
  }

  /** The command line that runs `argv` inside; undefined while there is nothing to enter. */
  exec(argv: readonly string[], container?: string): string[] | undefined {
    const plan = this.start.plan.containers.find(({ name }) => container === undefined || name === container);
    const runs = this.containers.find(({ start }) => start.name === plan?.name);
    const holder = runs?.holderPid ?? this.#sandbox?.pid;
    return plan === undefined || holder === undefined
      ? undefined
      : execArgv(holder, containerEnv(plan, this), plan.workingDir, argv);
  }

  async #attempt(): Promise<void> {
    const { start } = this;
    const { plan, pod } = start;
    const sandbox = await startSandbox(
      start.directory,
      {
        hostname: plan.hostNetwork ? start.nodeName : plan.hostname,
        resolvConf: resolvConf(pod.metadata.namespace, start.clusterDomain),
        hosts: hostsFile(start.addresses, plan.hostname),
        namespace: pod.metadata.namespace,
        token: start.token,
      },
      plan.hostNetwork ? netnsOf(start.nodePid) : undefined,
      { PATH: process.env.PATH, MELTEMI_LAB: start.marker },
    );
    this.#sandbox = sandbox;
    if (this.#stopping || sandbox.pid === undefined) throw new Error('the sandbox is gone');
    sandbox.once('exit', () => this.#onSandboxLost(sandbox));
    const lost = exited(sandbox).then(() => {
      throw new Error('the sandbox was killed');
    });
    lost.catch(() => {});
    if (!plan.hostNetwork) await joinPod(start.nodePid, sandbox.pid, start.link, start.addresses, start.mtu);
    this.start.onChange();
    await Promise.race([start.admitted(this), lost]);
    for (const each of plan.initContainers) await this.#initialise(each, sandbox.pid);
    if (this.#stopping) return;
    this.containers = plan.containers.map((each) => this.#container(each, sandbox.pid ?? 0, plan.restartPolicy));
    for (const container of this.containers) container.run();
    for (const each of plan.containers) this.#probe(each);
    this.#retries.reset();
    this.#turn('Running', '');
  }

  async #initialise(plan: ContainerPlan, sandboxPid: number): Promise<void> {
    this.#turn('Pending', `init container ${plan.name} runs`);
    const ended = Promise.withResolvers<number>();
    const container: Container = this.#container(plan, sandboxPid, 'Never', () => {
      if (container.state.type === 'terminated') ended.resolve(container.state.exitCode);
    });
    this.containers = [container];
    container.run();
    const exitCode = await ended.promise;
    this.containers = [];
    if (exitCode !== 0) throw new Error(`init container ${plan.name} ended with ${exitCode}`);
  }

  #container(
    plan: ContainerPlan,
    sandboxPid: number,
    restartPolicy: PodPlan['restartPolicy'],
    onChange = () => this.#onContainer(),
  ): Container {
    return new Container({
      name: plan.name,
      argv: plan.argv,
      workingDir: plan.workingDir,
      env: containerEnv(plan, this),
      sandboxPid,
      log: this.start.log,
      restartPolicy,
      backOff: new BackOff(500, 60_000),
      clock: this.start.clock,
      onChange,
    });
  }

  #probe(plan: ContainerPlan): void {
    if (plan.readiness === undefined) return;
    const exec = (argv: readonly string[]) => this.exec(argv, plan.name);
    const target = { probe: plan.readiness, ip: this.start.addresses.ipv4, exec };
    this.#readiness.set(plan.name, new Readiness(target, this.start.clock, this.start.onChange));
  }

  #onContainer(): void {
    const ends = this.containers.map(({ state }) => (state.type === 'terminated' ? state.exitCode : undefined));
    if (this.containers.length > 0 && !this.#stopping && ends.every((code) => code !== undefined)) {
      this.#turn(ends.every((code) => code === 0) ? 'Succeeded' : 'Failed', '');
      return;
    }
    this.start.onChange();
  }

  #onSandboxLost(sandbox: ChildProcess): void {
    if (this.#stopping || this.#sandbox !== sandbox || this.phase === 'Pending') return;
    this.#turn('Pending', 'the sandbox was killed; the pod starts again');
    void this.#tearDown(0).then(() => {
      this.#cancelRetry = this.start.clock.schedule(this.#retries.next(), () => this.run());
    });
  }

  async #tearDown(graceMs: number): Promise<void> {
    for (const readiness of this.#readiness.values()) readiness.stop();
    this.#readiness.clear();
    const containers = this.containers;
    await Promise.all(containers.map((container) => container.stop(graceMs)));
    this.containers = [];
    const sandbox = this.#sandbox;
    if (sandbox !== undefined && this.#stopping) await this.start.released(this);
    this.#sandbox = undefined;
    if (sandbox !== undefined) await endChild(sandbox, 0);
  }

  #turn(phase: PodPhase, message: string): void {
    this.phase = phase;
    this.message = message;
    this.start.onChange();
  }
}

export function podKey(namespace: string, name: string): string {
  return `${namespace}/${name}`;
}

export function searchDomains(namespace: string, clusterDomain: string): readonly string[] {
  return [`${namespace}.svc.${clusterDomain}`, `svc.${clusterDomain}`, clusterDomain];
}

function resolvConf(namespace: string, clusterDomain: string): string {
  const servers = both(NAMESERVER).map((ip) => `nameserver ${ip}`);
  return [...servers, `search ${searchDomains(namespace, clusterDomain).join(' ')}`, 'options ndots:5', ''].join('\n');
}

function hostsFile(addresses: AddressPair, hostname: string): string {
  const own = both(addresses).map((ip) => `${ip} ${hostname}`);
  return ['127.0.0.1 localhost', '::1 localhost ip6-localhost ip6-loopback', ...own, ''].join('\n');
}
