import type { Clock } from '../../lib/clock.js';
import type { Logger } from '../../telemetry/log.js';
import type { MetricsRegistry } from '../../telemetry/metrics.js';
import { Terms } from './terms.js';

/**
 * Of several control planes the one that writes. All of them serve; whatever changes objects of the cluster runs here.
 */
export interface Leader {
  /**
   * Runs `task` whenever this process leads, at once if it does now. The signal aborts when it no longer does: from
   * then on nothing may be written. A task that returns has nothing more to do in this term; one that rejects is
   * reported and started again after a pause. `name` is for logs and metrics. Returns how to end it for good.
   */
  run(name: string, task: LeaderTask): () => void;
  /** Judged by the clock, so it holds also where a timer is late. */
  readonly isLeader: boolean;
  /** Ends the tasks, and gives the office up so that another can have it at once. */
  close(): Promise<void>;
}

export type LeaderTask = (signal: AbortSignal) => Promise<void>;

export interface SoleLeaderOptions {
  readonly clock: Clock;
  readonly log: Logger;
  readonly metrics: MetricsRegistry;
}

/** For a control plane that is the only one: it leads from the start until it is closed. */
export function soleLeader(options: SoleLeaderOptions): Leader {
  const terms = new Terms(options);
  terms.begin();
  return {
    run: (name, task) => terms.run(name, task),
    get isLeader() {
      return terms.isRunning;
    },
    async close() {
      terms.end('closed');
      await terms.settled();
    },
  };
}
