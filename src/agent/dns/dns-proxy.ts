import { Worker } from 'node:worker_threads';
import { BackOff } from '../../lib/back-off.js';
import type { Clock } from '../../lib/clock.js';
import { err, ok, type Result } from '../../lib/result.js';
import type { DnsPod, DnsWorkerData, FromWorker, ToWorker } from './dns-messages.js';
import type { DnsChange, DnsService } from './dns-table.js';

/**
 * The DNS proxy as the main thread sees it. It answers for the names of the mesh and passes on the rest (answer.ts says
 * which), on a worker thread, in each pod's own network namespace, on 127.0.0.1 and ::1; so it goes on while this
 * thread is busy. Wiring:
 *
 *   const dns = new DnsProxy({ …, source });      // source: all services, asked for at start (and after a crash)
 *   await dns.start();
 *   dns.update(changes);                          // on each new snapshot, only what changed
 *   await dns.addPod(pod); dns.removePod(uid);    // with enrolment; add before redirecting, remove after
 *   registry.append(() => dns.metrics());
 *
 * A worker that dies is started again with everything it knew; queries meanwhile go unanswered and resolvers try again.
 */
export class DnsProxy {
  readonly #options: DnsProxyOptions;
  readonly #pods = new Map<string, DnsPod>();
  readonly #calls = new Map<number, (reply: FromWorker) => void>();
  readonly #backOff = new BackOff(100, 10_000);
  #worker: Worker | undefined;
  #nextCall = 1;
  #closed = false;
  #restarts = 0;

  constructor(options: DnsProxyOptions) {
    this.#options = options;
  }

  /** Starts the worker with the services of `source`. Rejects when the worker cannot run at all. */
  async start(): Promise<void> {
    this.#launch();
    const failure = await this.#call((call) => ({ kind: 'metrics', call }), START_TIMEOUT_MS);
    if (failure.error !== '') throw new Error(`the DNS worker does not start: ${failure.error}`);
  }

  /** Opens the pod's DNS sockets; the value is their port. Adding a pod twice is no error. */
  async addPod(pod: DnsPod): Promise<Result<number>> {
    this.#pods.set(pod.uid, pod);
    const reply = await this.#call((call) => ({ kind: 'add', call, pod }));
    if (reply.error === '') return ok(Number(reply.text));
    this.#pods.delete(pod.uid);
    return err(`DNS for pod ${pod.uid} in ${pod.netns}: ${reply.error}`);
  }

  /** Closes the pod's DNS sockets. Unknown uids are ignored. */
  removePod(uid: string): void {
    this.#pods.delete(uid);
    this.#post({ kind: 'remove', uid });
  }

  /** A successor has the sockets: what was asked here is answered, and nothing more is read. Pods may be added again. */
  retire(): void {
    this.#pods.clear();
    this.#post({ kind: 'retire' });
  }

  /** Tells what changed, in order. */
  update(changes: readonly DnsChange[]): void {
    if (changes.length > 0) this.#post({ kind: 'update', changes });
  }

  /** Prometheus text of the worker's counts; empty when the worker does not answer in time. */
  async metrics(): Promise<string> {
    const reply = await this.#call((call) => ({ kind: 'metrics', call }));
    const restarts = `# HELP meltemi_dns_worker_restarts_total Times the DNS worker died.\n# TYPE meltemi_dns_worker_restarts_total counter\nmeltemi_dns_worker_restarts_total ${this.#restarts}\n`;
    return `${reply.text}${restarts}`;
  }

  async close(): Promise<void> {
    this.#closed = true;
    await this.#call((call) => ({ kind: 'close', call }));
    await this.#worker?.terminate();
  }

  #launch(): void {
    const { clusterDomain, network, port, mark, sockets, source } = this.#options;
    const data: DnsWorkerData = { clusterDomain, network, port, mark, sockets: sockets.href };
    const worker = new Worker(WORKER, {
      workerData: data,
      name: 'dns',
      // A young generation of the default size costs the node megabytes for garbage of microseconds.
      resourceLimits: { maxYoungGenerationSizeMb: 4 },
    });
    this.#worker = worker;
    worker.on('message', (reply: FromWorker) => {
      const waiting = this.#calls.get(reply.call);
      this.#calls.delete(reply.call);
      waiting?.(reply);
    });
    worker.on('error', (error) => this.#options.onFailure(error instanceof Error ? error.message : String(error)));
    worker.on('exit', () => this.#exited(worker));
    const puts: DnsChange[] = [];
    for (const service of source.services()) puts.push({ kind: 'put', service });
    this.update(puts);
  }

  #exited(worker: Worker): void {
    if (this.#worker !== worker) return;
    this.#worker = undefined;
    for (const [call, waiting] of this.#calls) waiting({ call, error: 'the DNS worker died', text: '' });
    this.#calls.clear();
    if (this.#closed) return;
    this.#restarts += 1;
    this.#options.clock.schedule(this.#backOff.next(), () => {
      if (this.#closed) return;
      this.#launch();
      for (const pod of this.#pods.values()) {
        void this.#call((call) => ({ kind: 'add', call, pod })).then((reply) => {
          if (reply.error !== '') this.#options.onFailure(`DNS for pod ${pod.uid}: ${reply.error}`);
          else this.#backOff.reset();
        });
      }
    });
  }

  #post(message: ToWorker): void {
    this.#worker?.postMessage(message);
  }

  #call(make: (call: number) => ToWorker, timeoutMs = CALL_TIMEOUT_MS): Promise<FromWorker> {
    return new Promise((resolve) => {
      const call = this.#nextCall++;
      if (this.#worker === undefined) return resolve({ call, error: 'the DNS worker does not run', text: '' });
      const cancel = this.#options.clock.schedule(timeoutMs, () => {
        this.#calls.delete(call);
        resolve({ call, error: `the DNS worker did not answer within ${timeoutMs} ms`, text: '' });
      });
      this.#calls.set(call, (reply) => {
        cancel();
        resolve(reply);
      });
      this.#post(make(call));
    });
  }
}

/** Everything the mesh knows by name, at this moment. */
export interface DnsSource {
  services(): Iterable<DnsService>;
}

export interface DnsProxyOptions {
  /** `cluster.local`. */
  readonly clusterDomain: string;
  /** The node's network. */
  readonly network: string;
  /** Loopback port in each pod: 15053. 0 picks one (see `addPod`). */
  readonly port: number;
  /** Socket mark of upstream queries: 0x539. */
  readonly mark: number;
  /** The module that makes sockets, a `PodSocketsModule`: `NETNS_SOCKETS` of netns-sockets.ts. */
  readonly sockets: URL;
  readonly source: DnsSource;
  readonly clock: Clock;
  /** Something went wrong on the worker; it mends itself, but a log should say so. */
  readonly onFailure: (message: string) => void;
}

const WORKER = new URL('./dns-worker.js', import.meta.url);
const CALL_TIMEOUT_MS = 5000;
/** On a machine that starts everything at once a thread takes long to come up; one that fails says so at once. */
const START_TIMEOUT_MS = 60_000;
