import { networkInterfaces } from 'node:os';
import { setTimeout as delay } from 'node:timers/promises';
import { buildCsr } from '../identity/csr.js';
import type { Clock } from '../lib/clock.js';
import type { ListenAddress, Route } from '../lib/http-server.js';
import { logger } from '../telemetry/log.js';
import { createRegistry, type MetricsRegistry } from '../telemetry/metrics.js';
import type { AdsClient } from '../xds/client.js';
import { AccessLog } from './admin/access-log.js';
import { Pages } from './admin/pages.js';
import { Readiness } from './admin/readiness.js';
import { adminRoutes, metricsRoutes, readinessRoutes } from './admin/routes.js';
import { declareAgentMetrics } from './agent-metrics.js';
import { Authority } from './certs/authority.js';
import { Certificates } from './certs/certificates.js';
import { Trust } from './certs/trust.js';
import type { NodeCni } from './cni/node-cni.js';
import type { AgentConfig } from './config.js';
import { connectMesh } from './connect-mesh.js';
import { readIfThere } from './credentials.js';
import type { Dataplane } from './dataplane/dataplane.js';
import type { NetnsTools, NetnsWatch } from './dataplane/netns.js';
import type { DnsProxy, DnsSource } from './dns/dns-proxy.js';
import { dnsChanges, dnsServices } from './dns-feed.js';
import { Enrolment } from './enroll/enrolment.js';
import { untunnelled } from './enroll/farewell.js';
import type { PodSource } from './enroll/pod-source.js';
import { certificateStep, dataplaneStep, dnsStep, guardSteps, redirectSteps, storeStep } from './enroll/steps.js';
import { MeshAddresses } from './mesh-addresses.js';
import type { Names } from './names/names.js';
import { nodeNames } from './names/node-names.js';
import type { NodeGuard } from './redirect/node-guard.js';
import type { Redirector } from './redirect/redirector.js';
import { Decider } from './route/decider.js';
import type { Self } from './route/observed.js';
import { ReadFilter } from './route/read-filter.js';
import { type Change, Store } from './store/store.js';
import { Succession } from './succession.js';

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
 * The agent of a node, wired and not yet running: `start` begins the work, and takes it over from an agent that does it
 * already; `stop` ends it. Redirection stays in place when it stops: a captured pod never falls back to plaintext.
 */
export class Agent {
  readonly #log = logger('agent');
  readonly #filter = new ReadFilter();
  readonly #store = new Store((read) => this.#filter.has(read));
  readonly #registry: MetricsRegistry = createRegistry({ processMetrics: true });
  readonly #readiness = new Readiness();
  readonly #accessLog: AccessLog;
  readonly #decider: Decider;
  readonly #names: Names;
  readonly #authority: Authority;
  readonly #certificates: Certificates;
  readonly #trust: Trust;
  readonly #dns: DnsProxy | undefined;
  readonly #meshAddresses: MeshAddresses;
  readonly #netnsWatch: NetnsWatch;
  readonly #enrolment: Enrolment;
  readonly #cni: NodeCni | undefined;
  readonly #succession: Succession;
  readonly #pages: Pages;
  readonly #tasks: Readonly<Record<'dataplane' | 'roots' | 'xds' | 'dns' | 'handover', () => void>>;
  #xds: AdsClient | undefined;
  #compactedBytes = 0;

  /** `quit`: an operator asks this process to end. */
  constructor(
    readonly parts: AgentParts,
    quit: () => void,
  ) {
    const { config, dataplane, clock } = parts;
    this.#tasks = {
      dataplane: this.#readiness.task('dataplane'),
      roots: this.#readiness.task('trusted-roots'),
      xds: this.#readiness.task('xds-synced'),
      dns: this.#readiness.task('dns'),
      handover: this.#readiness.task('handover'),
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
      revoked: (lists) => this.#certificates.renewRevoked(lists),
    });
    this.#names = nodeNames(config.dns.resolvConf, this.#store, clock, this.#registry, (host, known) =>
      this.#changed(this.#store.applyName(host, known)),
    );
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
      overLimit: this.#registry.counter(
        'meltemi_names_refused_total',
        'Connections refused because too many of their pod waited for names.',
      ),
      wantedName: (host) => this.#names.want(host),
      wanted: (identities) => this.#certificates.want(identities),
      accessLog: (lines) => this.#accessLog.write(lines),
    });
    this.#dns = parts.dns?.({ services: () => dnsServices(this.#store) });
    this.#meshAddresses = new MeshAddresses(this.#store, config.network);
    this.#netnsWatch = new parts.netns.NetnsWatch((uid) => this.#enrolment.suspect(uid));
    this.#enrolment = this.#makeEnrolment();
    this.#cni = parts.cni?.(this.#enrolment, this.#registry);
    this.#succession = new Succession({
      dataplane,
      stateDir: config.stateDir,
      revision: config.revision,
      clock,
      log: this.#log,
      relieved: (sharesNetwork) => this.#standBy(sharesNetwork),
      resumed: () => this.#resume(),
    });
    this.#pages = new Pages(() => this.#pagesByAddress(quit));
    this.#readiness.condition('pods-snapshot', () => this.#enrolment.settled);
    this.#readiness.condition('certificates', () => this.#certificates.missing().length === 0);
    this.#readiness.problem('node-rules', () => parts.guard?.problem ?? '');
    this.#readiness.problem('cni-plugin', () => this.#cni?.problem ?? '');
    declareAgentMetrics(this.#registry, {
      version: parts.version,
      dataplane,
      guard: parts.guard,
      store: this.#store,
      decider: this.#decider,
      enrolment: this.#enrolment,
      certificates: this.#certificates,
      accessLog: this.#accessLog,
      dns: this.#dns,
    });
  }

  /**
   * Learns the mesh and starts the work. An agent that is at work on this node already serves until this one does: it
   * is relieved when all that this one needs is there. Rejects when a port is taken, or when the machine cannot do the
   * work; what others owe (roots, xDS, CA) is waited for.
   */
  async start(): Promise<void> {
    // Where both agents are in one network namespace, the ports become free when the former one is relieved.
    const hasPages = await this.#pages.open({ isPatient: false }).catch((error: unknown) => {
      if (!this.#succession.hasPredecessor) throw error;
      return false;
    });
    this.#decider.start();
    await this.#trust.start();
    this.#xds = connectMesh(this.parts.config, this.parts.clock, this.#registry, {
      addresses: (update) => this.#apply(this.#store.applyAddresses(update)),
      policies: (update) => this.#apply(this.#store.applyPolicies(update)),
      synced: () => {
        this.#tasks.xds();
        this.#compactLater(COMPACT_AFTER_MS);
      },
    });
    await this.#dns?.start();
    this.#tasks.dns();
    await this.#learn();
    await this.#prepare();
    await this.#succession.take();
    this.#tasks.dataplane();
    await this.#enrolment.start();
    if (this.#succession.hasPredecessor) await this.#until(() => this.#enrolment.settled);
    await this.#succession.complete();
    await this.#cni?.start();
    if (!hasPages) await this.#pages.open({ isPatient: true });
    this.#tasks.handover();
  }

  /** Resolves when the mesh is known; before, when nobody else serves the pods of this node and time passes. */
  async #learn(): Promise<void> {
    const deadline = Date.now() + LEARN_WAIT_MS;
    await this.#until(() => this.#store.synced || (!this.#succession.hasPredecessor && Date.now() > deadline));
  }

  /** While another agent serves there is time: for the certificates, too. */
  async #prepare(): Promise<void> {
    if (!this.#succession.hasPredecessor) return;
    await this.#enrolment.prepare();
    const isPrepared = () => this.#enrolment.prepared && this.#certificates.missing().length === 0;
    const sayLater = () =>
      this.parts.clock.schedule(SAY_WAITING_MS, () => {
        const missing = this.#certificates.missing();
        this.#log.warn({ missing }, 'another agent of this node serves on, as certificates are missing here');
        cancel = sayLater();
      });
    let cancel = sayLater();
    await this.#until(() => isPrepared() || !this.#succession.hasPredecessor);
    cancel();
  }

  async #until(condition: () => boolean): Promise<void> {
    while (!condition()) await delay(POLL_MS);
  }

  /**
   * Ends the work. Once a successor serves, connections may end by themselves for `drainSeconds`; they are judged by
   * what the control plane says and cut when their pod goes until then. Without a successor this agent serves as long
   * as it may: nobody else would. Idempotent.
   */
  async stop(): Promise<void> {
    const { dataplane, config, guard } = this.parts;
    this.#log.info({ isRelieved: this.#succession.isRelieved }, 'shutting down; pods stay redirected');
    const deadline = Date.now() + config.drainSeconds * 1000;
    while (!this.#succession.isRelieved && dataplane.stats().connections > 0 && Date.now() < deadline) {
      await Promise.race([this.#succession.relieved, delay(POLL_MS)]);
    }
    this.#succession.close();
    this.#cni?.close();
    const cut = await dataplane.drain(Math.max(0, deadline - Date.now()));
    if (cut > 0) this.#log.warn({ connections: cut }, 'connections were cut after the drain time');
    this.#enrolment.close();
    this.#netnsWatch.close();
    guard?.close();
    this.#xds?.close();
    this.#trust.close();
    this.#authority.close();
    this.#names.close();
    await this.#dns?.close();
    dataplane.close();
    await this.#accessLog.close();
    this.#pages.close();
  }

  /** A successor has the pods: this agent only carries what it has. */
  #standBy(sharesNetwork: boolean): void {
    if (sharesNetwork) this.#pages.close();
    this.#cni?.close();
    this.#enrolment.standBy();
    this.parts.guard?.standBy();
    this.#dns?.retire();
  }

  async #resume(): Promise<void> {
    this.parts.guard?.resume();
    this.#enrolment.resume();
    await this.#cni?.start();
    await this.#pages.open({ isPatient: true }).catch((error: unknown) => {
      this.#log.error({ error }, 'the pages of this agent cannot be opened again');
    });
  }

  #pagesByAddress(quit: () => void): [ListenAddress, ReadonlyMap<string, Route>][] {
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
        names: () => this.#names.states(),
      },
      enrolment: this.#enrolment,
      explain: { source: this.#store, self: selfOf(config) },
      lookUp: (host) => this.#names.settled(host),
      quit,
    });
    const pages: [ListenAddress, ReadonlyMap<string, Route>][] = [];
    if (config.admin.port !== 0) pages.push([{ host: '127.0.0.1', port: config.admin.port }, admin]);
    if (config.metricsPort !== 0) pages.push([everywhere(config.metricsPort), metricsRoutes(this.#registry)]);
    if (config.readinessPort !== 0) pages.push([everywhere(config.readinessPort), readinessRoutes(this.#readiness)]);
    // Last: it replaces another agent's, which stays where the ports are not free.
    if (config.admin.socket !== '') pages.push([{ path: config.admin.socket }, admin]);
    return pages;
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
    const guarded = guard === undefined ? undefined : guardSteps(guard);
    const drifts = this.#registry.counter(
      'meltemi_redirection_drift_total',
      'Times the rules of a captured pod were found changed.',
    );
    return new Enrolment({
      source: pods,
      steps: [
        ...[store, certificate, translation, listeners, ...dns],
        ...(guarded === undefined ? [redirection] : [guarded.guard, redirection, guarded.hold]),
      ],
      watch: this.#netnsWatch,
      untunnelled: (uid) => untunnelled(this.#store, uid, clock),
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
      const isUrgent = removed.some((ip) => this.#store.workloadsAt(this.parts.config.network, ip).length > 0);
      guard.meshChanged(added, removed, this.#store.synced, isUrgent);
    }
    this.#dns?.update(dnsChanges(change, this.#store));
  }
}

function selfOf(config: AgentConfig): Self {
  const { node, cluster, network, trustDomain, clusterDomain, locality, meshPrefixes } = config;
  return { node, cluster, network, trustDomain, clusterDomain, locality, meshPrefixes };
}

/** All addresses of both families, where the machine has both. */
function everywhere(port: number): ListenAddress {
  const hasIpv6 = Object.values(networkInterfaces()).some((each) => each?.some(({ family }) => family === 'IPv6'));
  return { host: hasIpv6 ? '::' : '0.0.0.0', port };
}

const MAX_DUMPED_CONNECTIONS = 10_000;
/** How long an agent waits for the control plane before it captures pods whose connections it must then refuse. */
const LEARN_WAIT_MS = 5000;
const POLL_MS = 20;
const SAY_WAITING_MS = 30_000;
const COMPACT_AFTER_MS = 1000;
const COMPACT_INTERVAL_MS = 60_000;
const COMPACT_GROWTH = 1.1;
