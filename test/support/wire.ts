/** A TCP connection's way through somebody who can cut it, or let it fall silent. */
import { once } from 'node:events';
import { connect, createServer, type Socket } from 'node:net';

export class Wire implements AsyncDisposable {
  readonly #sockets = new Set<Socket>();
  readonly #server = createServer((client) => this.#join(client));
  #open = true;
  #port = 0;

  constructor(readonly targetPort: number) {}

  get port(): number {
    return this.#port;
  }

  /** Connections through it now. */
  get connections(): number {
    return this.#sockets.size / 2;
  }

  async listen(): Promise<this> {
    this.#server.listen(0, '127.0.0.1');
    await once(this.#server, 'listening');
    this.#port = (this.#server.address() as { port: number }).port;
    return this;
  }

  /** Breaks every connection there is; new ones go through. */
  cut(): void {
    for (const socket of this.#sockets) socket.resetAndDestroy();
  }

  /** Nothing goes through any more, and nobody is told; what is connected later is as before. */
  hush(): void {
    for (const socket of this.#sockets) socket.removeAllListeners('data').on('data', () => {});
  }

  /** Refuses new connections while closed. */
  set open(open: boolean) {
    this.#open = open;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.cut();
    const closed = once(this.#server, 'close');
    this.#server.close();
    await closed;
  }

  #join(client: Socket): void {
    if (!this.#open) {
      client.resetAndDestroy();
      return;
    }
    const server = connect(this.targetPort, '127.0.0.1');
    for (const [from, to] of [
      [client, server],
      [server, client],
    ] as const) {
      this.#sockets.add(from);
      from.on('data', (bytes) => to.write(bytes));
      from.on('error', () => {});
      from.on('end', () => to.end());
      from.on('close', () => {
        this.#sockets.delete(from);
        to.destroy();
      });
    }
  }
}
