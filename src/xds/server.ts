import { AggregatedDiscoveryService } from '../gen/envoy/service/discovery/v3/ads_pb.js';
import type { Caller, GrpcServer } from '../grpc/server.js';
import { RpcError, StatusCode } from '../grpc/status.js';
import { type Clock, systemClock } from '../lib/clock.js';
import { type Logger, logger } from '../telemetry/log.js';
import { Gate } from './gate.js';
import type { ResourceSource } from './resource-source.js';
import type { AdsServerMetrics } from './server-metrics.js';
import { AdsServerStream, type StreamStatus } from './server-stream.js';
import { SharedResponses } from './shared-responses.js';

export interface AdsServerOptions {
  /**
   * Rejects with the reason when the caller may not listen; the caller learns only that it is unauthenticated, or an
   * `RpcError` itself. Resolves
   * with the time (ms since the epoch) at which its stream is to end, or with nothing: then it may stay.
   */
  readonly authenticate?: (caller: Caller) => Promise<{ readonly untilMs: number } | undefined>;
  readonly metrics?: AdsServerMetrics;
  readonly clock?: Clock;
  readonly log?: Logger;
  /** Names one stream may ask for, of one type. */
  readonly maxNames?: number;
  /** Called after each large response: what it leaves behind is many megabytes. */
  readonly largeLeft?: () => void;
}

export interface AdsServer {
  /** Adds the service to a gRPC server; to several, if there are several. */
  addTo(server: GrpcServer): void;
  streams(): readonly StreamStatus[];
}

/**
 * Serves these sources over delta ADS. Where changes of one turn touch several sources, a stream is told in their
 * order: put first what others refer to.
 */
export function createAdsServer(sources: readonly ResourceSource[], options: AdsServerOptions = {}): AdsServer {
  const log = options.log ?? logger('ads');
  const metrics = options.metrics ?? SILENT;
  const clock = options.clock ?? systemClock;
  const maxNames = options.maxNames ?? DEFAULT_MAX_NAMES;
  const largeLeft = options.largeLeft ?? (() => {});
  const streams = new Set<AdsServerStream>();
  const responses = new SharedResponses();
  const gate = new Gate(LARGE_AT_ONCE, LARGE_MS, clock);

  /** A proof that has ended proves nothing: the client comes back with a newer one. Returns how to cancel. */
  const endAt = (untilMs: number, stream: { caller: Caller; end(error: RpcError): void }): (() => void) => {
    if (untilMs === Number.POSITIVE_INFINITY) return () => {};
    return clock.schedule(untilMs - clock.now(), () => {
      metrics.expired();
      log.info({ peer: stream.caller.peer }, 'stream ended with its token');
      stream.end(new RpcError(StatusCode.UNAUTHENTICATED, 'the token has ended'));
    });
  };

  return {
    streams: () => [...streams].map((stream) => stream.status()),
    addTo(server) {
      server.bidi(AggregatedDiscoveryService.method.deltaAggregatedResources, async (stream) => {
        let gone = false;
        stream.onClose(() => {
          gone = true;
        });
        let untilMs = Number.POSITIVE_INFINITY;
        try {
          const admitted = await options.authenticate?.(stream.caller);
          if (admitted) untilMs = admitted.untilMs;
        } catch (error) {
          if (error instanceof RpcError) {
            // Not its fault: it is to come again.
            stream.end(error);
            return;
          }
          metrics.unauthenticated();
          const why = error instanceof Error ? error.message : String(error);
          log.warn({ peer: stream.caller.peer, error: why }, 'stream refused');
          stream.end(new RpcError(StatusCode.UNAUTHENTICATED, 'request authenticate failure'));
          return;
        }
        if (gone) return;
        const served = new AdsServerStream(stream, {
          sources,
          metrics,
          responses,
          gate,
          largeLeft,
          clock,
          log,
          maxNames,
        });
        streams.add(served);
        metrics.streams(streams.size);
        const cancelEnd = endAt(untilMs, stream);
        stream.onClose(() => {
          cancelEnd();
          served.close();
          streams.delete(served);
          metrics.streams(streams.size);
        });
      });
      server.bidi(AggregatedDiscoveryService.method.streamAggregatedResources, (stream) => {
        stream.end(new RpcError(StatusCode.UNIMPLEMENTED, 'only the delta variant of ADS is served'));
      });
    },
  };
}

const SILENT: AdsServerMetrics = {
  streams() {},
  pushed() {},
  converged() {},
  rejected() {},
  unauthenticated() {},
  expired() {},
};
/** Large responses on their way at once, and how long one may keep the others waiting. */
const LARGE_AT_ONCE = 4;
const LARGE_MS = 1000;
const DEFAULT_MAX_NAMES = 200_000;
