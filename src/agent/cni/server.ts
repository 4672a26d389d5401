import { randomBytes } from 'node:crypto';
import { chmodSync, mkdirSync, renameSync, rmSync } from 'node:fs';
import type { IncomingMessage, Server, ServerResponse } from 'node:http';
import { dirname } from 'node:path';
import type { CniAnswer, CniHandler } from './handler.js';
import { parseCniRequest } from './request.js';

/**
 * The socket that the CNI plugin calls. Listening takes the place of whoever listened before, in one step: no call meets
 * a path without a listener, and a former agent goes on with the calls that it has.
 */
export class CniServer {
  readonly #server: Server;
  #cancelCut: () => void = () => undefined;

  constructor(
    readonly path: string,
    readonly handler: CniHandler,
  ) {
    this.#server = createServer((request, response) => void this.#respond(request, response));
    this.#server.requestTimeout = REQUEST_TIMEOUT_MS;
    this.#server.maxConnections = MAX_CONNECTIONS;
    this.#server.keepAliveTimeout = 1;
    this.#server.unref();
  }

  /** Also after `close`. Only root may connect. Rejects when the path cannot be had. */
  async listen(): Promise<void> {
    this.#cancelCut();
    this.handler.reopen();
    mkdirSync(dirname(this.path), { recursive: true, mode: 0o700 });
    const temporary = `${this.path}.${randomBytes(4).toString('hex')}`;
    if (Buffer.byteLength(temporary) > MAX_SOCKET_PATH_BYTES) {
      const most = MAX_SOCKET_PATH_BYTES - (temporary.length - this.path.length);
      throw new Error(`cni.socket ${this.path} is longer than ${most} bytes`);
    }
    await new Promise<void>((resolve, reject) => {
      this.#server.once('error', reject);
      this.#server.listen({ path: temporary, backlog: BACKLOG }, () => {
        this.#server.removeListener('error', reject);
        resolve();
      });
    });
    try {
      chmodSync(temporary, 0o600);
      renameSync(temporary, this.path);
    } catch (error) {
      rmSync(temporary, { force: true });
      throw error;
    }
  }

  /** Tells those who wait to ask again, and ends. The path stays: it may be a successor's by now. */
  close(): void {
    this.handler.close();
    this.#server.close();
    this.#cancelCut = this.handler.parts.clock.schedule(CLOSE_MS, () => this.#server.closeAllConnections());
  }

  async #respond(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const gone = new AbortController();
    response.once('close', () => gone.abort());
    const { status, body } = await this.#answer(request, gone.signal).catch((error): CniAnswer => {
      return {
        status: 500,
        body: { because: `a bug of the agent: ${error instanceof Error ? error.message : error}` },
      };
    });
    const text = JSON.stringify(body);
    response.writeHead(status, {
      'content-type': 'application/json',
      'content-length': Buffer.byteLength(text),
      connection: 'close',
    });
    response.end(text);
  }

  async #answer(request: IncomingMessage, gone: AbortSignal): Promise<CniAnswer> {
    const verb = /^\/v1\/([a-z]+)$/.exec(request.url ?? '')?.[1];
    if (verb === undefined || request.method !== 'POST') {
      request.resume();
      return this.handler.refused('this socket is for the CNI plugin: POST /v1/add, /v1/check, /v1/del, /v1/status');
    }
    const text = await bodyOf(request);
    if (text === undefined) return this.handler.refused(`the request is larger than ${MAX_BODY_BYTES} bytes`);
    if (verb === 'status') return this.handler.status();
    const parsed = parseCniRequest(text);
    return parsed.ok ? await this.handler.answer(verb, parsed.value, gone) : this.handler.refused(parsed.error);
  }
}

/** Undefined when it is too large; the rest is not kept then. */
async function bodyOf(request: IncomingMessage): Promise<string | undefined> {
  const chunks: Buffer[] = [];
  let bytes = 0;
  for await (const chunk of request as AsyncIterable<Buffer>) {
    bytes += chunk.length;
    if (bytes <= MAX_BODY_BYTES) chunks.push(chunk);
  }
  return bytes > MAX_BODY_BYTES ? undefined : Buffer.concat(chunks).toString('utf8');
}

const MAX_BODY_BYTES = 64 * 1024;
const MAX_CONNECTIONS = 1024;
const BACKLOG = 511;
const REQUEST_TIMEOUT_MS = 10_000;
/** Answers of a line are written by then. */
const CLOSE_MS = 1000;
/** `sun_path` with its closing zero. */
const MAX_SOCKET_PATH_BYTES = 107;
/** Not imported: see `src/lib/http-server.ts`. */
const { createServer } = process.getBuiltinModule('node:http');
