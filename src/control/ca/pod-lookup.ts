import { RpcError, StatusCode } from '../../grpc/status.js';
import type { KubeApi } from '../../kube/api.js';
import { RESOURCES } from '../../kube/resources.js';
import { BoundedMap } from '../../lib/bounded-map.js';
import type { Clock } from '../../lib/clock.js';
import { formatSpiffeId, type SpiffeId } from '../../model/spiffe-id.js';
import type { Logger } from '../../telemetry/log.js';
import type { Counter, MetricsRegistry } from '../../telemetry/metrics.js';

export interface PodLookupOptions {
  readonly api: Pick<KubeApi, 'list'>;
  readonly clock: Clock;
  readonly log: Logger;
  readonly metrics: MetricsRegistry;
}

/**
 * Asks the API server itself whether a pod of an account lives on a node: an agent may know a new pod sooner than our own
 * watch. Equal questions are asked once, and once a second.
 */
export class PodLookup {
  readonly #underWay = new Map<string, Promise<boolean>>();
  readonly #absent = new BoundedMap<string, number>(MAX_KNOWN);
  readonly #lookups: Counter;

  constructor(readonly options: PodLookupOptions) {
    this.#lookups = options.metrics.counter(
      'meltemi_ca_pod_lookups_total',
      'Times the API server was asked for a pod that the watch had not shown.',
      ['result'],
    );
  }

  /** Rejects with `UNAVAILABLE` when nobody knows. */
  async lives(node: string, identity: SpiffeId): Promise<boolean> {
    const key = `${node} ${formatSpiffeId(identity)}`;
    if (this.options.clock.now() < (this.#absent.use(key) ?? 0)) return false;
    const underWay = this.#underWay.get(key);
    if (underWay !== undefined) return underWay;
    if (this.#underWay.size >= MAX_UNDER_WAY) throw this.#unavailable(`${MAX_UNDER_WAY} are under way already`);
    const asked = this.#ask(node, identity, key);
    this.#underWay.set(key, asked);
    try {
      return await asked;
    } finally {
      this.#underWay.delete(key);
    }
  }

  async #ask(node: string, { namespace, serviceAccount }: SpiffeId, key: string): Promise<boolean> {
    const { api, clock } = this.options;
    const fieldSelector = [
      `spec.nodeName=${node}`,
      `spec.serviceAccountName=${serviceAccount}`,
      'status.phase!=Succeeded',
      'status.phase!=Failed',
    ].join(',');
    try {
      const { items } = await api.list(RESOURCES.Pod, { namespace, fieldSelector }, { limit: 1 });
      const lives = items.length > 0;
      this.#lookups.inc({ result: lives ? 'found' : 'none' });
      if (!lives) this.#absent.set(key, clock.now() + ABSENT_MS);
      return lives;
    } catch (error) {
      throw this.#unavailable(error instanceof Error ? error.message : String(error));
    }
  }

  #unavailable(why: string): RpcError {
    this.#lookups.inc({ result: 'failed' });
    this.options.log.error({ error: why }, 'the API server cannot be asked for a pod');
    return new RpcError(StatusCode.UNAVAILABLE, 'pods cannot be looked up now');
  }
}

const ABSENT_MS = 1_000;
const MAX_KNOWN = 1_024;
const MAX_UNDER_WAY = 32;
