import type { Server } from 'node:http';
import { setTimeout as delay } from 'node:timers/promises';
import { type ListenAddress, type Route, serveHttp } from '../../lib/http-server.js';

/** The pages of this process, open or closed. */
export class Pages {
  readonly #servers: Server[] = [];

  constructor(readonly byAddress: () => readonly (readonly [ListenAddress, ReadonlyMap<string, Route>])[]) {}

  /**
   * Opens all of them, unless they are open; true then. A port that is taken is waited for when `isPatient`, for as
   * long as another agent may take to leave it. Rejects, with none open, when one stays taken.
   */
  async open({ isPatient }: { isPatient: boolean }): Promise<boolean> {
    if (this.#servers.length > 0) return true;
    const deadline = Date.now() + (isPatient ? PORT_WAIT_MS : 0);
    try {
      for (const [address, routes] of this.byAddress()) this.#servers.push(await serve(routes, address, deadline));
      return true;
    } catch (error) {
      this.close();
      throw error;
    }
  }

  close(): void {
    for (const server of this.#servers.splice(0)) {
      server.close();
      server.closeAllConnections();
    }
  }
}

async function serve(routes: ReadonlyMap<string, Route>, address: ListenAddress, deadline: number): Promise<Server> {
  for (;;) {
    try {
      return await serveHttp(routes, address);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EADDRINUSE' || Date.now() >= deadline) throw error;
      await delay(PORT_RETRY_MS);
    }
  }
}

const PORT_WAIT_MS = 3000;
const PORT_RETRY_MS = 20;
