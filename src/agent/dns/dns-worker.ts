import { parentPort, workerData } from 'node:worker_threads';
import { systemClock } from '../../lib/clock.js';
import { canonicalIp, parseHostPort } from '../../lib/ip.js';
import type { DnsPod, DnsWorkerData, FromWorker, ToWorker } from './dns-messages.js';
import { DnsMetrics } from './dns-metrics.js';
import { DnsTable } from './dns-table.js';
import { PodListeners } from './pod-listeners.js';
import { PodResolver } from './pod-resolver.js';
import type { PodSocketsModule } from './pod-sockets.js';
import { askUpstream, type Nameserver } from './upstream.js';

/**
 * The DNS worker: holds the table and the pods' sockets, and needs the main thread for nothing while it answers.
 * Messages are taken one after another, so that what was told first holds first.
 */
const port = parentPort;
if (port === null) throw new Error('dns-worker runs as a worker thread only');
const settings = workerData as DnsWorkerData;
const sockets = ((await import(settings.sockets)) as PodSocketsModule).openSockets();
const table = new DnsTable();
const metrics = new DnsMetrics();
const pods = new Map<string, { close(): void; retire(): Promise<void>; port: number }>();
let turn: Promise<void> = Promise.resolve();

port.on('message', (message: ToWorker) => {
  turn = turn.then(() => handle(message));
});

async function handle(message: ToWorker): Promise<void> {
  switch (message.kind) {
    case 'update':
      return table.apply(message.changes);
    case 'add':
      return answerCall(message.call, () => addPod(message.pod));
    case 'remove':
      return removePod(message.uid);
    case 'retire':
      for (const pod of pods.values()) void pod.retire();
      return pods.clear();
    case 'metrics':
      return answerCall(message.call, async () => metrics.render());
    case 'close':
      for (const uid of [...pods.keys()]) removePod(uid);
      await answerCall(message.call, async () => '');
      port?.close();
  }
}

async function answerCall(call: number, run: () => Promise<string>): Promise<void> {
  const reply: FromWorker = await run().then(
    (text) => ({ call, error: '', text }),
    (error: unknown) => ({ call, error: error instanceof Error ? error.message : String(error), text: '' }),
  );
  port?.postMessage(reply);
}

/** A pod that is there already keeps its sockets: adding is idempotent. */
async function addPod(pod: DnsPod): Promise<string> {
  const known = pods.get(pod.uid);
  if (known !== undefined) return String(known.port);
  const counters = metrics.retain(pod.canonicalName, pod.canonicalRevision);
  const upstreamPod = { netns: pod.netns, nameservers: pod.nameservers.flatMap(nameserver) };
  const deps = { sockets, clock: systemClock, mark: settings.mark };
  const client = {
    namespace: pod.namespace,
    network: settings.network,
    searchDomains: pod.searchDomains.map((domain) => domain.toLowerCase().replace(/\.$/, '')).filter((d) => d !== ''),
    clusterDomain: settings.clusterDomain,
  };
  const resolver = new PodResolver(client, {
    table,
    counters,
    clock: systemClock,
    random: Math.random,
    upstream: (bytes, query, protocol) => askUpstream(bytes, query, protocol, upstreamPod, deps),
  });
  try {
    const listeners = await PodListeners.open(pod.netns, settings.port, sockets, resolver);
    pods.set(pod.uid, {
      port: listeners.port,
      close() {
        listeners.close();
        counters.release();
      },
      async retire() {
        await listeners.retire(systemClock);
        counters.release();
      },
    });
    return String(listeners.port);
  } catch (error) {
    counters.release();
    throw error;
  }
}

function removePod(uid: string): void {
  pods.get(uid)?.close();
  pods.delete(uid);
}

function nameserver(text: string): Nameserver[] {
  const ip = canonicalIp(text);
  if (ip !== undefined) return [{ ip, port: DNS_PORT }];
  const parsed = parseHostPort(text);
  return parsed === undefined || canonicalIp(parsed.host) === undefined ? [] : [{ ip: parsed.host, port: parsed.port }];
}

const DNS_PORT = 53;
