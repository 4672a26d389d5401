import { fileURLToPath } from 'node:url';
import { systemClock } from '../../lib/clock.js';
import { logger } from '../../telemetry/log.js';
import type { MetricsRegistry } from '../../telemetry/metrics.js';
import type { AgentConfig, CniConfig } from '../config.js';
import type { Sandboxes } from '../enroll/sandboxes.js';
import { PLUGIN, type PluginEntry } from './conflist.js';
import { CniHandler, type HandlerParts } from './handler.js';
import { Installer } from './installer.js';
import { CniServer } from './server.js';

/** The agent's side of the CNI: its socket, and the plugin in the node's chain. */
export class NodeCni {
  constructor(
    readonly server: CniServer,
    readonly installer: Installer,
  ) {}

  /** Also after `close`. The socket first: a plugin that is in the chain already finds somebody to ask. */
  async start(): Promise<void> {
    await this.server.listen();
    this.installer.start();
  }

  /** Why pods that start now would not be waited for; empty when they are. */
  get problem(): string {
    return this.installer.problem;
  }

  /** The plugin stays in the chain: pods wait for the next agent. */
  close(): void {
    this.installer.close();
    this.server.close();
  }
}

/** The CNI of a node as configured, to be made when there is an enrolment to ask. */
export function nodeCni(config: AgentConfig, cni: CniConfig, sandboxes: Sandboxes) {
  return (enrolment: HandlerParts['enrolment'], metrics: MetricsRegistry): NodeCni => {
    const common = { clock: systemClock, log: logger('cni'), metrics };
    const handler = new CniHandler({ ...common, sandboxes, enrolment, hostRoot: HOST_ROOT });
    const { binDir, confDir } = cni;
    const entry = pluginEntry(config.rootNamespace, cni);
    const binary = fileURLToPath(BINARY);
    const installer = new Installer({ ...common, confDir, binDir, binary, entry });
    return new NodeCni(new CniServer(cni.socket, handler), installer);
  };
}

/** What the plugin is to know; `native/cni/src/config.rs` reads it. */
function pluginEntry(rootNamespace: string, cni: CniConfig): PluginEntry {
  const { socket, exemptNamespaces, awaySeconds, answerSeconds } = cni;
  const agent = `${rootNamespace}/meltemi-agent`;
  return { type: PLUGIN, socket, agent, exemptNamespaces, awaySeconds, answerSeconds };
}

/** The node's files as a process with the node's process ids sees them. */
const HOST_ROOT = '/proc/1/root';
/** Beside the program, in the image. */
const BINARY = new URL('../../../../bin/meltemi-cni', import.meta.url);
