import { Graph } from '../collections/graph.js';
import { createGrpcServer } from '../grpc/server.js';
import { inClusterApi } from '../kube/in-cluster.js';
import { type Clock, systemClock } from '../lib/clock.js';
import { collectYoung } from '../lib/collect-young.js';
import { formatHostPort } from '../lib/ip.js';
import { logger, setLevel } from '../telemetry/log.js';
import { createRegistry } from '../telemetry/metrics.js';
import { createAdsServer } from '../xds/server.js';
import { adsServerMetrics } from '../xds/server-metrics.js';
import { serveAdmin } from './admin.js';
import { publishTrust } from './bundles/publish-trust.js';
import { authenticatedBy } from './ca/certificate-service.js';
import { caRoutes } from './ca/routes.js';
import { clusterDuties } from './cluster-duties.js';
import { type ControlPlaneConfig, needsApiServer } from './config.js';
import { buildIdentity } from './identity.js';
import { inputSource } from './inputs/input-source.js';
import { makeInputs } from './inputs/inputs.js';
import { makeLeader } from './leader/make-leader.js';
import { deriveMesh } from './mesh/mesh.js';
import { pushMesh } from './push/push.js';
import { registryPage, statusPage } from './status-page.js';
import { untaintNodes } from './taint/untaint-nodes.js';
import { serveWebhook } from './validate/webhook-server.js';

export interface ControlPlane {
  /** Where it really listens; differs from the configuration where that says port 0. */
  readonly ports: { readonly tls: number; readonly plaintext: number | undefined };
  /** Starts to serve: resolves when the source has been read and every agent may have all of it. */
  run(): Promise<void>;
  /** Ends streams and calls, and lets go of everything. */
  close(): Promise<void>;
}

/**
 * Wires the parts of a control plane and takes its ports, so that conflicts show here; callers that come early wait.
 * No input is read before `run`. Rejects with what cannot be had: a port, a key, the CA's directory.
 */
export async function buildControlPlane(config: ControlPlaneConfig, clock: Clock = systemClock): Promise<ControlPlane> {
  await using built = new AsyncDisposableStack();
  setLevel(config.logLevel);
  const log = logger('control');
  const metrics = createRegistry({ processMetrics: true });

  // What is: inputs, the mesh that follows from them, and what agents are told of it.
  const graph = new Graph((message, error) => log.error({ error }, `a bug: ${message}`));
  const inputs = makeInputs(graph);
  const mesh = deriveMesh(graph, inputs, config.mesh);
  const { tables } = pushMesh(graph, mesh);
  mesh.warnings.subscribe((changes) => {
    for (const { key, after } of changes)
      if (after !== undefined) log.warn({ object: key, warnings: after }, 'no effect');
  });
  metrics.gauge('meltemi_mesh_warnings', 'Objects of which something has no effect.', [], () => mesh.warnings.size);
  const kube = needsApiServer(config) ? inClusterApi(config.kubernetes) : undefined;
  built.defer(() => kube?.close());
  const source = inputSource(config.source, kube, graph, inputs, {
    clock,
    log: logger('source'),
    metrics,
    rejected: (object) => duties?.rejected(object),
  });
  built.defer(() => source.close());

  // Who may ask, what they get signed, and which of several control planes writes.
  const loaded = Promise.withResolvers<void>();
  let isLoaded = false;
  const leader = makeLeader(config, kube, metrics);
  built.defer(() => leader.close());
  const identity = await buildIdentity(config, { kube, leader, mesh, loaded: loaded.promise, clock, metrics });
  built.defer(() => identity.close());
  const { authority, certificate } = identity;
  const duties =
    kube === undefined ? undefined : clusterDuties(config, { kube, leader, authority, inputs, mesh, clock, metrics });

  // The wire. Without TLS there is no CA, and everybody is let in: for tests and for debugging.
  const xdsMetrics = adsServerMetrics(metrics);
  const ads = createAdsServer(tables, {
    authenticate: authenticatedBy(identity.verifier),
    metrics: xdsMetrics,
    clock,
    largeLeft: collectYoung,
  });
  const openAds = createAdsServer(tables, {
    authenticate: () => loaded.promise.then(() => undefined),
    metrics: { ...xdsMetrics, streams() {} },
    clock,
    largeLeft: collectYoung,
  });
  const server = createGrpcServer();
  const openServer = createGrpcServer();
  built.defer(() => server.close(0));
  built.defer(() => openServer.close(0));
  ads.addTo(server);
  identity.addTo(server);
  openAds.addTo(openServer);
  const { tls, plaintext } = config.listen;
  const ports = {
    tls: await server.listen(tls, certificate.credentials),
    plaintext: plaintext === undefined ? undefined : await openServer.listen(plaintext),
  };

  if (config.webhook.port > 0) {
    const webhook = await serveWebhook({
      port: config.webhook.port,
      credentials: certificate.credentials,
      facts: () => (isLoaded ? mesh.facts : undefined),
      log: logger('webhook'),
      metrics,
    });
    built.defer(() => webhook.close());
  }

  const admin = await serveAdmin(
    {
      pending: () => (isLoaded ? [] : ['source']),
      metrics,
      config,
      registry: () => registryPage(mesh),
      status: () =>
        statusPage({ graph, mesh, source, agents: [...ads.streams(), ...openAds.streams()], tables, authority }),
      more: caRoutes(authority),
    },
    config.admin,
  );
  for (const each of admin) built.defer(() => void each.close());

  const parts = built.move();
  return {
    ports,
    async run() {
      await source.start();
      isLoaded = true;
      loaded.resolve();
      duties?.start();
      if (kube !== undefined && 'secret' in config.ca) {
        const { rootNamespace } = config.mesh;
        publishTrust({ kube, leader, authority, namespaces: inputs.Namespace, rootNamespace, clock, metrics });
      }
      if (kube !== undefined && 'kubernetes' in config.source) {
        untaintNodes({ kube, leader, rootNamespace: config.mesh.rootNamespace, clock, metrics });
      }
      log.info({ ...source.counts(), tls: formatHostPort(tls.ip, ports.tls), plaintext: ports.plaintext }, 'serving');
    },
    async close() {
      await parts.disposeAsync();
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
    await Promise.race([controlPlane.run(), stop.promise]);
    await stop.promise;
  } finally {
    await controlPlane.close();
  }
}
