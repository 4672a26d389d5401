import type { Installer } from './installer.js';
import type { CniServer } from './server.js';

/** The agent's side of the CNI: its socket, and the plugin in the node's chain. */
export class NodeCni {
  constructor(
    readonly server: CniServer,
    readonly installer: Installer,
  ) {}

  /** The socket first: a plugin that is in the chain already finds somebody to ask. */
  async start(): Promise<void> {
    await this.server.listen();
    this.installer.start();
  }

  /** Why pods that start now would not be waited for; empty when they are. */
  get problem(): string {
    return this.installer.problem;
  }

  /** Stays in the chain: pods wait for the next agent. */
  async close(): Promise<void> {
    this.installer.close();
    await this.server.close();
  }
}
