import { existsSync, mkdirSync, writeFileSync } from 'node:fs';
import { request } from 'node:http';
import { join } from 'node:path';
import type { Clock } from '../lib/clock.js';
import { getOverSocket } from '../lib/unix-http.js';
import { FABRIC } from './addresses.js';
import { agentConfig, agentResolvConf, controlPlaneConfig, DEFAULT_NAMES } from './config-files.js';
import { Daemon } from './daemon.js';
import type { LabLayout } from './layout.js';
import type { LabNode } from './node.js';
import { TOKEN_TTL_SECONDS, type TokenIssuer } from './tokens.js';
import { writeWhole } from './write-whole.js';

export interface MeshOptions {
  readonly layout: LabLayout;
  readonly tokens: TokenIssuer;
  readonly clock: Clock;
  readonly env: NodeJS.ProcessEnv;
  /** Starts this program: the interpreter, its options and the script. */
  readonly program: readonly string[];
  readonly onChange: () => void;
}

/** The control plane and the agents of a lab, as processes. */
export class MeshProcesses {
  readonly controlPlane: Daemon;
  #nodes: readonly LabNode[] = [];
  #stopped = false;
  #readyPid: number | undefined;
  #polling = false;
  #cancelPoll: () => void = () => {};

  constructor(readonly options: MeshOptions) {
    const { layout, tokens } = options;
    mkdirSync(layout.control, { recursive: true });
    mkdirSync(layout.ca, { recursive: true });
    const config = join(layout.control, 'control-plane.yaml');
    writeFileSync(config, controlPlaneConfig(layout, DEFAULT_NAMES, tokens.issuer));
    this.controlPlane = this.#daemon(
      'control plane',
      ['control-plane', '--config', config],
      join(layout.control, 'control-plane.log'),
    );
  }

  /** Starts the control plane, and the agents once there is a root certificate for them to trust. */
  start(nodes: readonly LabNode[]): void {
    const { layout, clock } = this.options;
    this.#nodes = nodes;
    for (const node of nodes) {
      const config = join(node.directory, 'agent.yaml');
      writeFileSync(join(node.directory, 'resolv.conf'), agentResolvConf());
      writeFileSync(config, agentConfig(layout, DEFAULT_NAMES, node.name));
      node.agent = this.#daemon(
        node.name,
        ['agent', '--config', config],
        join(node.directory, 'agent.log'),
        node.netns,
        (pid) => answersAs(pid, join(node.directory, 'admin.sock')),
      );
    }
    this.#rotateTokens();
    this.controlPlane.run();
    const startAgents = (): void => {
      if (this.#stopped) return;
      if (existsSync(join(layout.ca, 'root-cert.pem'))) for (const { agent } of nodes) agent?.run();
      else clock.schedule(ROOT_POLL_MS, startAgents);
    };
    startAgents();
    void this.#pollReadiness();
  }

  get controlPlaneReady(): boolean {
    return this.#readyPid !== undefined && this.#readyPid === this.controlPlane.pid;
  }

  get ready(): boolean {
    return this.controlPlaneReady && this.#nodes.every(({ agentReady }) => agentReady);
  }

  /** The daemon that a person means by `control-plane` or the name of a node. */
  daemon(name: string): Daemon | undefined {
    return name === 'control-plane' ? this.controlPlane : this.#nodes.find((node) => node.name === name)?.agent;
  }

  async stop(graceMs: number): Promise<void> {
    this.#stopped = true;
    this.#cancelPoll();
    await Promise.all(
      [this.controlPlane, ...this.#nodes.map(({ agent }) => agent)].map((daemon) => daemon?.stop(graceMs)),
    );
  }

  async #pollReadiness(): Promise<void> {
    if (this.#stopped || this.#polling) return;
    this.#polling = true;
    const before = this.#readyPids();
    this.#readyPid = await readyPid(this.controlPlane, { host: FABRIC.ipv4, port: 15014, path: '/ready' });
    for (const node of this.#nodes) {
      node.readyPid = await readyPid(node.agent, { host: node.addresses.ipv4, port: 15021, path: '/healthz/ready' });
    }
    this.#polling = false;
    if (this.#readyPids() !== before) this.options.onChange();
    this.#pollLater();
  }

  #pollLater(): void {
    this.#cancelPoll();
    this.#cancelPoll = this.options.clock.schedule(
      this.ready ? READY_POLL_MS : UNREADY_POLL_MS,
      () => void this.#pollReadiness(),
    );
  }

  #readyPids(): string {
    return [this.#readyPid, ...this.#nodes.map((node) => node.readyPid)].join();
  }

  #rotateTokens(): void {
    if (this.#stopped) return;
    const { tokens, clock } = this.options;
    for (const node of this.#nodes) writeWhole(join(node.directory, 'token'), tokens.forNode(node.name), 0o600);
    clock.schedule((TOKEN_TTL_SECONDS * 1000) / 3, () => this.#rotateTokens());
  }

  #daemon(
    name: string,
    command: readonly string[],
    log: string,
    netns?: string,
    hasTakenOver?: (pid: number) => Promise<boolean>,
  ): Daemon {
    const { program, env, clock } = this.options;
    const onChange = (): void => {
      this.options.onChange();
      if (!this.#polling) this.#pollLater();
    };
    const enter = netns === undefined ? [] : ['nsenter', `--net=${netns}`, '--'];
    const argv = [...enter, ...program, ...command];
    return new Daemon({ name, argv, env, log, clock, onChange, ...(hasTakenOver !== undefined && { hasTakenOver }) });
  }
}

/** Whether the agent with that pid answers on the socket, which it does when it has taken over. */
async function answersAs(pid: number, socket: string): Promise<boolean> {
  const page = await getOverSocket(socket, '/').catch(() => undefined);
  return page?.body.includes(`process ${pid}\n`) === true;
}

/** Of the process, when it says that it is ready: a later one has yet to say so. */
async function readyPid(daemon: Daemon | undefined, target: Target): Promise<number | undefined> {
  const pid = daemon?.pid;
  return pid !== undefined && (await answers(target)) ? pid : undefined;
}

interface Target {
  readonly host: string;
  readonly port: number;
  readonly path: string;
}

function answers(target: Target): Promise<boolean> {
  return new Promise((resolve) => {
    const asked = request({ ...target, agent: false, timeout: 1000 }, (response) => {
      response.resume();
      resolve(response.statusCode === 200);
    });
    asked.once('timeout', () => asked.destroy(new Error('timeout')));
    asked.once('error', () => resolve(false));
    asked.end();
  });
}

const ROOT_POLL_MS = 50;
const UNREADY_POLL_MS = 100;
const READY_POLL_MS = 2000;
