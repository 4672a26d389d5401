import { request } from 'node:http';
import type { ChangeReport, DaemonRequest, ExecRequest, LabelRequest, Source } from './api.js';
import { isAlive, LabLayout, readLabFile } from './layout.js';
import type { LabStatus } from './status.js';

/** Talks to a running lab. Every call throws an Error with one sentence when the lab is not there or refuses. */
export class LabClient {
  readonly layout: LabLayout;

  constructor(readonly name: string) {
    this.layout = new LabLayout(name);
  }

  /** The present state; with `after` (a version) the first that is newer. */
  async status(after?: number, signal?: AbortSignal): Promise<LabStatus> {
    return (await this.#call(
      after === undefined ? '/status' : `/status?after=${after}`,
      undefined,
      signal,
    )) as LabStatus;
  }

  /** Resolves when the control plane and every agent are ready. */
  async ready(signal?: AbortSignal): Promise<LabStatus> {
    return (await this.#call('/ready', undefined, signal)) as LabStatus;
  }

  async apply(sources: readonly Source[]): Promise<ChangeReport> {
    return (await this.#call('/apply', sources)) as ChangeReport;
  }

  async delete(sources: readonly Source[]): Promise<ChangeReport> {
    return (await this.#call('/delete', sources)) as ChangeReport;
  }

  async label(change: LabelRequest): Promise<ChangeReport> {
    return (await this.#call('/label', change)) as ChangeReport;
  }

  async daemon(change: DaemonRequest): Promise<ChangeReport> {
    return (await this.#call('/daemon', change)) as ChangeReport;
  }

  /** The command line that runs `argv` in a pod, on a node or in the fabric. */
  async execArgv(wanted: ExecRequest): Promise<readonly string[]> {
    return ((await this.#call('/exec', wanted)) as { argv: string[] }).argv;
  }

  async podLog(target: string): Promise<string> {
    return ((await this.#call('/pod', { target })) as { log: string }).log;
  }

  async down(): Promise<void> {
    await this.#call('/down', {});
  }

  #call(path: string, body?: unknown, signal?: AbortSignal): Promise<unknown> {
    return new Promise((resolve, reject) => {
      const fail = (cause: string) =>
        reject(
          new Error(
            isAlive(readLabFile(this.layout))
              ? `lab ${this.name} does not answer: ${cause}`
              : `there is no lab ${this.name}; start it with: meltemi lab up --name ${this.name}`,
          ),
        );
      const asked = request(
        {
          socketPath: this.layout.socket,
          path,
          method: body === undefined ? 'GET' : 'POST',
          agent: false,
          ...(signal === undefined ? {} : { signal }),
        },
        (response) => {
          const chunks: Buffer[] = [];
          response.on('data', (chunk: Buffer) => chunks.push(chunk));
          response.once('error', ({ message }) => fail(message));
          response.once('end', () => {
            const value = JSON.parse(Buffer.concat(chunks).toString('utf8')) as { error?: string };
            if (response.statusCode === 200) resolve(value);
            else reject(new Error(value.error ?? `lab ${this.name} refused ${path}`));
          });
        },
      );
      asked.once('error', ({ message }) => fail(message));
      asked.end(body === undefined ? undefined : JSON.stringify(body));
    });
  }
}
