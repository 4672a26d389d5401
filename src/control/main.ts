import type { Server } from 'node:http';
import { Graph } from '../collections/graph.js';
import { createGrpcServer } from '../grpc/server.js';
import { type Clock, systemClock } from '../lib/clock.js';
import { formatHostPort } from '../lib/ip.js';
import { logger, setLevel } from '../telemetry/log.js';
import { createRegistry } from '../telemetry/metrics.js';
import { createAdsServer } from '../xds/server.js';
import { adsServerMetrics } from '../xds/server-metrics.js';
import { serveAdmin } from './admin.js';
import type { ControlPlaneConfig } from './config.js';
import { directoryInput } from './inputs/directory/directory-input.js';
import { makeInputs } from './inputs/inputs.js';
import { deriveMesh } from './mesh/mesh.js';
import { pushMesh } from './push/push.js';
import { registryPage, statusPage } from './status-page.js';

export interface ControlPlane {
  /** Where it really listens; differs from the configuration where that says port 0. */
  readonly ports: { readonly tls: number; readonly plaintext: number | undefined };
  /** Starts to serve: resolves when the source has been read and every agent may have all of it. */
  run(): Promise<void>;
  /** Ends streams and calls, and lets go of everything. */
  close(): Promise<void>;
}

/**
 * Wires the parts of a control plane and takes its ports, so that conflicts show here; agents that come early wait.
 * Nothing is read or decided before `run`.
 */
export async function buildControlPlane(config: ControlPlaneConfig, clock: Clock = systemClock): Promise<ControlPlane> {
  setLevel(config.logLevel);
  const log = logger('control');
  const metrics = createRegistry({ processMetrics: true });
  const graph = new Graph((message, error) => log.error({ error }, `a bug: ${message}`));
  const inputs = makeInputs(graph);
  const mesh = deriveMesh(graph, inputs, config.mesh);
  const { tables } = pushMesh(graph, mesh);
  const source = directoryInput(config.source.directory, graph, inputs, { clock, log: logger('source'), metrics });

  const loaded = Promise.withResolvers<void>();
  let isLoaded = false;
  const ads = createAdsServer(tables, {
    authenticate: () => loaded.promise,
    metrics: adsServerMetrics(metrics),
    clock,
  });
  const server = createGrpcServer();
  ads.addTo(server);
  const plaintext = config.listen.plaintext === undefined ? undefined : await server.listen(config.listen.plaintext);

  const admin: readonly Server[] = await serveAdmin(
    {
      pending: () => (isLoaded ? [] : ['source']),
      metrics,
      config,
      registry: () => registryPage(mesh),
      status: () => statusPage({ graph, mesh, source, ads, tables }),
    },
    config.admin,
  );

  return {
    ports: { tls: 0, plaintext },
    async run() {
      await source.start();
      isLoaded = true;
      loaded.resolve();
      log.info({ ...source.counts() }, 'serving');
    },
    async close() {
      await source.close();
      await server.close(0);
      for (const each of admin) each.close();
      log.info('stopped');
    },
  };
}

/** Builds, runs, and ends on SIGTERM or SIGINT. Resolves when everything has ended. */
export async function runControlPlane(config: ControlPlaneConfig): Promise<void> {
  const stop = Promise.withResolvers<void>();
  for (const signal of ['SIGTERM', 'SIGINT'] as const) process.once(signal, () => stop.resolve());
  const controlPlane = await buildControlPlane(config);
  try {
    await controlPlane.run();
    logger('control').info(
      { tls: formatHostPort(config.listen.tls.ip, controlPlane.ports.tls), plaintext: controlPlane.ports.plaintext },
      'listening',
    );
    await stop.promise;
  } finally {
    await controlPlane.close();
  }
}
