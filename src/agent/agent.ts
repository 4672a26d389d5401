import type { Server } from 'node:http';
import { networkInterfaces } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { AuthorizationSchema } from '../gen/istio/security/authorization_pb.js';
import { AddressSchema } from '../gen/istio/workload/workload_pb.js';
import { buildCsr } from '../identity/csr.js';
import type { Clock } from '../lib/clock.js';
import { type ListenAddress, type Route, serveHttp } from '../lib/http-server.js';
import { getOverSocket } from '../lib/unix-http.js';
import { logger } from '../telemetry/log.js';
import { createRegistry, type MetricsRegistry } from '../telemetry/metrics.js';
import { type AdsClient, connectAds } from '../xds/client.js';
import { AccessLog } from './admin/access-log.js';
import { Readiness } from './admin/readiness.js';
import { adminRoutes, metricsRoutes, readinessRoutes } from './admin/routes.js';
import { Authority } from './certs/authority.js';
import { Certificates } from './certs/certificates.js';
import { Trust } from './certs/trust.js';
import type { NodeCni } from './cni/node-cni.js';
import type { AgentConfig, Upstream } from './config.js';
import { readIfThere } from './credentials.js';
import type { Dataplane } from './dataplane/dataplane.js';
import type { NetnsTools, NetnsWatch } from './dataplane/netns.js';
import type { DnsProxy, DnsSource } from './dns/dns-proxy.js';
import { dnsChanges, dnsServices } from './dns-feed.js';
import { Enrolment } from './enroll/enrolment.js';
import type { PodSource } from './enroll/pod-source.js';
import { certificateStep, dataplaneStep, dnsStep, guardStep, redirectSteps, storeStep } from './enroll/steps.js';
import { MeshAddresses } from './mesh-addresses.js';
import type { NodeGuard } from './redirect/node-guard.js';
import type { Redirector } from './redirect/redirector.js';
import { Decider } from './route/decider.js';
import type { Self } from './route/observed.js';
import { ReadFilter } from './route/read-filter.js';
import { type Change, Store } from './store/store.js';
import { xdsMetrics } from './xds-metrics.js';

/** What the agent is made of that touches the machine. */
export interface AgentParts {
  readonly config: AgentConfig;
  readonly version: string;
  readonly dataplane: Dataplane;
  readonly netns: Pick<NetnsTools, 'netnsId' | 'NetnsWatch'>;
  readonly redirector: Redirector;
  /** Rules on the node's side of its pods, where they are wanted. */
  readonly guard: NodeGuard | undefined;
  readonly pods: PodSource;
  /** Makes the agent's side of the CNI, where pods wait for their enrolment. */
  readonly cni: ((enrolment: Enrolment, metrics: MetricsRegistry) => NodeCni) | undefined;
  /** Makes the DNS proxy, unless it is switched off. */
  readonly dns: ((source: DnsSource) => DnsProxy) | undefined;
  readonly clock: Clock;
  /** Gives memory back after the mesh was read for the first time. */
  readonly compact: () => void;
}

/**
 * The agent of a node, wired and not yet running: `listen` claims its ports (a conflict fails there), `run` starts the
 * work, `stop` ends it. Redirection stays in place when it stops: a captured pod never falls back to plaintext.
 */
export class Agent {
  readonly #log = logger('agent');
  readonly #filter = new ReadFilter();
  readonly #store = new Store((read) => this.#filter.has(read));
  readonly #registry: MetricsRegistry = createRegistry({ processMetrics: true });
  readonly #readiness = new Readiness();
  readonly #accessLog: AccessLog;
  readonly #decider: Decider;
  readonly #authority: Authority;
  readonly #certificates: Certificates;
  readonly #trust: Trust;
  readonly #dns: DnsProxy | undefined;
  readonly #meshAddresses: MeshAddresses;
  readonly #netnsWatch: NetnsWatch;
  readonly #enrolment: Enrolment;
  readonly #cni: NodeCni | undefined;
  readonly #servers: Server[] = [];
  readonly #tasks: Readonly<Record<'dataplane' | 'roots' | 'xds' | 'dns', () => void>>;
  #xds: AdsClient | undefined;
  #generation = 0;
  #compactedBytes = 0;
  #handedOver: Promise<boolean> = Promise.resolve(false);

  constructor(readonly parts: AgentParts) {
    const { config, dataplane, clock } = parts;
    this.#tasks = {
      dataplane: this.#readiness.task('dataplane'),
      roots: this.#readiness.task('trusted-roots'),
      xds: this.#readiness.task('xds-synced'),
      dns: this.#readiness.task('dns'),
    };
    this.#accessLog = new AccessLog(config.accessLog, (error) =>
      this.#log.error({ path: config.accessLog, error }, 'the access log cannot be written'),
    );
    this.#authority = new Authority({
      ...config.ca,
      cluster: config.cluster,
      rootCerts: () => readIfThere(config.ca.rootCert),
      token: async () => (await readIfThere(config.ca.token)) ?? '',
    });
    this.#certificates = new Certificates({
      dataplane,
      source: this.#authority,
      buildCsr,
      clock,
      log: logger('certs'),
    });
    this.#trust = new Trust({
      dataplane,
      clock,
      log: logger('certs'),
      trustDomain: config.trustDomain,
      rootsPath: config.ca.rootCert,
      revocationsPath: config.crlPath,
      // Another bundle means that the CA's root is being replaced: what we show must come from the new one in time.
      trusted: () => {
        this.#tasks.roots();
        this.#certificates.renewAll();
      },
    });
    this.#decider = new Decider({
      dataplane,
      store: this.#store,
      filter: this.#filter,
      self: selfOf(config),
      log: logger('route'),
      decisions: this.#registry.counter('meltemi_decisions_total', 'Decisions made for the engine, by reason.', [
        'direction',
        'because',
      ]),
      wanted: (identities) => this.#certificates.want(identities),
      accessLog: (lines) => this.#accessLog.write(lines),
    });
    this.#dns = parts.dns?.({ services: () => dnsServices(this.#store) });
    this.#meshAddresses = new MeshAddresses(this.#store, config.network);
    this.#netnsWatch = new parts.netns.NetnsWatch((uid) => this.#enrolment.suspect(uid));
    this.#enrolment = this.#makeEnrolment();
    this.#cni = parts.cni?.(this.#enrolment, this.#registry);
    this.#readiness.condition('pods-snapshot', () => this.#enrolment.settled);
    this.#readiness.condition('certificates', () => this.#certificates.missing().length === 0);
    this.#readiness.problem('cni-plugin', () => this.#cni?.problem ?? '');
    this.#declareMetrics();
  }

  /**
   * Learns the mesh, then takes the listeners of a former agent that is still at work, if there is one: it knows the
   * mesh and gives nothing up before this one does. It closes its own pages then, and carries what it has until it is
   * told to end. Without a former agent the control plane is waited for a moment only. To be called first, as both
   * agents may share a network namespace.
   */
  async takeOver(): Promise<void> {
    const { dataplane, clock } = this.parts;
    this.#decider.start();
    await this.#trust.start();
    this.#xds = this.#connectXds();
    await this.#learn();
    this.#generation = clock.now();
    const handover = await dataplane.takeHandover(this.#handoverPath, this.#generation);
    if (!handover.ok) this.#log.warn({ error: handover.error }, 'nothing taken over from a former agent');
    else if (handover.pods.length > 0) this.#log.info({ pods: handover.pods.length }, 'listeners taken over');
    this.#tasks.dataplane();
  }

  /** Resolves when the mesh is known; before, when nobody else serves the pods of this node and time passes. */
  async #learn(): Promise<void> {
    const deadline = Date.now() + LEARN_WAIT_MS;
    while (!this.#store.synced) {
      const former = await this.#formerAgent();
      if (!former && Date.now() > deadline) return;
      await delay(LEARN_POLL_MS);
    }
  }

  async #formerAgent(): Promise<boolean> {
    const { socket } = this.parts.config.admin;
    if (socket === '') return false;
    return await getOverSocket(socket, '/').then(
      ({ status }) => status === 200,
      () => false,
    );
  }

  /** Claims all ports; one that a former agent is about to leave is waited for. Rejects when one stays taken. */
  async listen(quit: () => void): Promise<void> {
    const { config } = this.parts;
    const admin = adminRoutes({
      dump: {
        store: this.#store,
        config,
        version: this.parts.version,
        groups: () => this.#decider.groups.all(),
        certificates: () => this.#certificates.states(),
        pods: () => this.#enrolment.states(),
        connections: () => this.parts.dataplane.connections(MAX_DUMPED_CONNECTIONS),
        stats: () => this.parts.dataplane.stats(),
        xds: () => this.#xds?.status(),
      },
      enrolment: this.#enrolment,
      explain: { source: this.#store, self: selfOf(config) },
      quit,
    });
    if (config.admin.socket !== '') await this.#serve(admin, { path: config.admin.socket });
    if (config.admin.port !== 0) await this.#serve(admin, { host: '127.0.0.1', port: config.admin.port });
    if (config.metricsPort !== 0) await this.#serve(metricsRoutes(this.#registry), everywhere(config.metricsPort));
    if (config.readinessPort !== 0) {
      await this.#serve(readinessRoutes(this.#readiness), everywhere(config.readinessPort));
    }
  }

  /** Starts the work. Rejects when the machine cannot do it; what others owe (roots, xDS, CA) is waited for. */
  async run(): Promise<void> {
    await this.#dns?.start();
    this.#tasks.dns();
    await this.#enrolment.start();
    await this.#cni?.start();
    this.#handedOver = this.#offerListeners();
  }

  /**
   * Ends the work: listeners go to a successor if there is one, connections may end by themselves for `drainSeconds`,
   * certificates are no longer renewed. Idempotent.
   */
  async stop(): Promise<void> {
    const { dataplane, config, clock } = this.parts;
    this.#log.info('shutting down; pods stay redirected');
    this.#cni?.close();
    this.#enrolment.close();
    this.#netnsWatch.close();
    this.parts.guard?.close();
    this.#xds?.close();
    this.#trust.close();
    // A successor that is just starting may still take the listeners.
    const { promise: late, resolve } = Promise.withResolvers<boolean>();
    const cancel = clock.schedule(HANDOVER_WAIT_MS, () => resolve(false));
    const handedOver = await Promise.race([this.#handedOver, late]);
    cancel();
    this.#log.info({ handedOver }, 'draining');
    const cut = await dataplane.drain(config.drainSeconds * 1000);
    if (cut > 0) this.#log.warn({ connections: cut }, 'connections were cut after the drain time');
    this.#authority.close();
    await this.#dns?.close();
    dataplane.close();
    await this.#accessLog.close();
    this.#closePages();
  }

  #closePages(): void {
    for (const server of this.#servers.splice(0)) {
      server.close();
      server.closeAllConnections();
    }
  }

  /** Waits for a successor. Once it has the listeners it has the pods, and this agent only carries what it has. */
  async #offerListeners(): Promise<boolean> {
    const offered = await this.parts.dataplane.offerHandover(this.#handoverPath, this.#generation);
    if (!offered.ok) {
      this.#log.warn({ error: offered.error }, 'a successor could not take over');
      return false;
    }
    this.#log.info('a successor has taken over; connections under way go on here');
    this.#closePages();
    this.#cni?.close();
    this.#enrolment.close();
    this.#netnsWatch.close();
    this.parts.guard?.close();
    this.#xds?.close();
    return true;
  }

  get #handoverPath(): string {
    return join(this.parts.config.stateDir, 'handover.sock');
  }

  #makeEnrolment(): Enrolment {
    const { config, dataplane, redirector, guard, pods, netns, clock } = this.parts;
    const { redirection, translation } = redirectSteps(redirector, this.#dns !== undefined);
    const store = storeStep(
      config.trustDomain,
      (pod) => this.#changed(this.#store.applyPod(pod)),
      (uid) => this.#changed(this.#store.removePod(uid)),
    );
    const listeners = dataplaneStep(config.trustDomain, dataplane);
    const dns = this.#dns === undefined ? [] : [dnsStep(this.#dns)];
    const certificate = certificateStep(config.trustDomain, this.#certificates);
    const guarded = guard === undefined ? [] : [guardStep(guard)];
    const drifts = this.#registry.counter(
      'meltemi_redirection_drift_total',
      'Times the rules of a captured pod were found changed.',
    );
    return new Enrolment({
      source: pods,
      steps: [store, certificate, translation, listeners, ...dns, ...guarded, redirection],
      watch: this.#netnsWatch,
      drifted: () => drifts.inc(),
      audited: async () => {
        if (this.#enrolment.settled) guard?.podsComplete();
        await guard?.audit();
      },
      cluster: config.cluster,
      netnsId: (path) => netns.netnsId(path),
      clock,
      log: logger('enroll'),
    });
  }

  #connectXds(): AdsClient {
    const { config, clock } = this.parts;
    return connectAds({
      address: config.xds.address,
      ...(config.xds.serverName === '' ? {} : { serverName: config.xds.serverName }),
      rootCerts: () => readIfThere(config.xds.rootCert),
      headers: () => headersOf(config.xds, config.cluster),
      node: nodeOf(config),
      types: [
        {
          typeUrl: typeUrl(AddressSchema.typeName),
          mode: 'wildcard',
          onUpdate: (update) => this.#apply(this.#store.applyAddresses(update)),
        },
        {
          typeUrl: typeUrl(AuthorizationSchema.typeName),
          mode: 'wildcard',
          onUpdate: (update) => this.#apply(this.#store.applyPolicies(update)),
        },
      ],
      onSynced: () => {
        this.#tasks.xds();
        this.#compactLater(COMPACT_AFTER_MS);
      },
      metrics: xdsMetrics(this.#registry),
      clock,
      log: logger('xds'),
    });
  }

  /** Gives memory back when the process has grown since the last time: once after the start, then now and then. */
  #compactLater(delayMs: number): void {
    this.parts.clock.schedule(delayMs, () => {
      if (process.memoryUsage.rss() > this.#compactedBytes * COMPACT_GROWTH) {
        this.parts.compact();
        this.#compactedBytes = process.memoryUsage.rss();
      }
      this.#compactLater(COMPACT_INTERVAL_MS);
    });
  }

  #apply(change: Change): Change['refused'] {
    this.#changed(change);
    return change.refused;
  }

  #changed(change: Change): void {
    this.#decider.changed(change);
    const { guard } = this.parts;
    if (guard !== undefined) {
      const { added, removed } = this.#meshAddresses.changed(change);
      guard.meshChanged(added, removed, this.#store.synced);
    }
    this.#dns?.update(dnsChanges(change, this.#store));
  }

  #declareMetrics(): void {
    const { dataplane, version, dns } = this.parts;
    const registry = this.#registry;
    registry.append(() => dataplane.metrics());
    if (dns !== undefined) registry.append(() => this.#dns?.metrics() ?? '');
    registry.gauge('istio_build', 'Version of this agent.', ['component', 'tag']).set(1, {
      component: 'meltemi',
      tag: version,
    });
    const count = (name: string, help: string, read: () => number) => registry.gauge(name, help, [], read);
    count('istio_active_proxy_count', 'Enrolled pods.', () => dataplane.stats().pods);
    count('istio_pending_proxy_count', 'Captured pods that are not enrolled yet.', () => this.#enrolment.pending);
    count('meltemi_uncaptured_pods', 'Running pods that should be captured and are not.', () => {
      return this.#enrolment.uncaptured;
    });
    const { guard } = this.parts;
    if (guard !== undefined) declareGuardMetrics(registry, guard);
    count('meltemi_workloads', 'Workloads of the mesh known here.', () => this.#store.sizes.workloads);
    count('meltemi_services', 'Services of the mesh known here.', () => this.#store.sizes.services);
    count('meltemi_policies', 'Policies known here.', () => this.#store.sizes.policies);
    count('meltemi_certificates_missing', 'Identities without a valid certificate.', () => {
      return this.#certificates.missing().length;
    });
    count('meltemi_access_log_unwritten', 'Access log lines that could not be written.', () => this.#accessLog.dropped);
  }

  async #serve(routes: ReadonlyMap<string, Route>, address: ListenAddress): Promise<void> {
    const deadline = Date.now() + PORT_WAIT_MS;
    for (;;) {
      try {
        this.#servers.push(await serveHttp(routes, address));
        return;
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code !== 'EADDRINUSE' || Date.now() > deadline) throw error;
        await delay(PORT_RETRY_MS);
      }
    }
  }
}

function declareGuardMetrics(registry: MetricsRegistry, guard: NodeGuard): void {
  const count = (name: string, help: string, read: () => number) => registry.gauge(name, help, [], read);
  count('meltemi_plaintext_held_total', 'Packets of captured pods to the mesh outside tunnels, refused.', () => {
    return guard.counts.held;
  });
  count('meltemi_probe_source_spoofed_total', 'Packets under the address of health probes, dropped.', () => {
    return guard.counts.spoofed;
  });
  count('meltemi_node_rules_drift_total', 'Times the rules of the node were found changed.', () => guard.drifts);
}

function selfOf(config: AgentConfig): Self {
  const { node, cluster, network, trustDomain, clusterDomain, locality, meshPrefixes } = config;
  return { node, cluster, network, trustDomain, clusterDomain, locality, meshPrefixes };
}

async function headersOf(upstream: Upstream, cluster: string): Promise<Record<string, string>> {
  const token = await readIfThere(upstream.token);
  return { clusterid: cluster, ...(token === undefined ? {} : { authorization: `Bearer ${token}` }) };
}

/** As control planes of this ecosystem expect a node agent to introduce itself. */
function nodeOf(config: AgentConfig) {
  const name = `meltemi-agent-${config.node}`;
  const { rootNamespace, clusterDomain, locality } = config;
  return {
    id: `ztunnel~${ownIp()}~${name}.${rootNamespace}~${rootNamespace}.svc.${clusterDomain}`,
    cluster: config.cluster,
    locality: { region: locality.region, zone: locality.zone, subZone: locality.subzone },
    metadata: {
      NAME: name,
      NAMESPACE: rootNamespace,
      NODE_NAME: config.node,
      CLUSTER_ID: config.cluster,
      NETWORK: config.network,
    },
  };
}

function ownIp(): string {
  for (const addresses of Object.values(networkInterfaces())) {
    const own = addresses?.find(({ internal, family }) => !internal && family === 'IPv4');
    if (own !== undefined) return own.address;
  }
  return '127.0.0.1';
}

/** All addresses of both families, where the machine has both. */
function everywhere(port: number): ListenAddress {
  const hasIpv6 = Object.values(networkInterfaces()).some((each) => each?.some(({ family }) => family === 'IPv6'));
  return { host: hasIpv6 ? '::' : '0.0.0.0', port };
}

function typeUrl(name: string): string {
  return `type.googleapis.com/${name}`;
}

const MAX_DUMPED_CONNECTIONS = 10_000;
const HANDOVER_WAIT_MS = 200;
/** How long a former agent may take to leave its ports. */
const PORT_WAIT_MS = 3000;
const PORT_RETRY_MS = 20;
/** How long an agent waits for the control plane before it captures pods whose connections it must then refuse. */
const LEARN_WAIT_MS = 5000;
const LEARN_POLL_MS = 50;
const COMPACT_AFTER_MS = 1000;
const COMPACT_INTERVAL_MS = 60_000;
const COMPACT_GROWTH = 1.1;
