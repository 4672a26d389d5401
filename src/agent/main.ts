import { mkdirSync, readFileSync } from 'node:fs';
import { systemClock } from '../lib/clock.js';
import { limitRun, run } from '../lib/command.js';
import { logger, setLevel } from '../telemetry/log.js';
import { Agent, type AgentParts } from './agent.js';
import { nodeCni } from './cni/node-cni.js';
import { type AgentConfig, parseAgentConfig } from './config.js';
import { openNative } from './dataplane/native.js';
import { DEFAULT_ENGINE_OPTIONS } from './dataplane/options.js';
import { DnsProxy } from './dns/dns-proxy.js';
import { NETNS_SOCKETS } from './dns/netns-sockets.js';
import { PodDirectory } from './enroll/pod-directory.js';
import type { PodSource } from './enroll/pod-source.js';
import { Sandboxes } from './enroll/sandboxes.js';
import { NftRedirector } from './redirect/nft.js';
import { NodeGuard } from './redirect/node-guard.js';
import type { RedirectPorts } from './redirect/redirector.js';

/**
 * `meltemi agent`: the agent of one node, until SIGTERM or SIGINT. `configText` (YAML or JSON) is the content of
 * `configPath`. Rejects when the configuration is wrong or the
 * machine cannot do what is needed; after the start nothing that goes wrong ends it.
 */
export async function runAgent(configPath: string, configText: string): Promise<void> {
  const given = readConfig(configPath, configText);
  setLevel(given.logLevel);
  const log = logger('agent');
  mkdirSync(given.stateDir, { recursive: true });
  const sandboxes = new Sandboxes();
  const { config, pods } = await podsOf(given, sandboxes);
  const { dataplane, netns, releaseMemory } = openNative(config.engine);
  const { promise: asked, resolve: quit } = Promise.withResolvers<string>();
  const parts: AgentParts = {
    config,
    version: packageVersion(),
    dataplane,
    netns,
    redirector: new NftRedirector({ tools: netns, ports: redirectPorts(config), run: limitRun(run, MOST_NFT) }),
    guard: nodeGuard(config),
    pods,
    cni: config.cni === undefined ? undefined : nodeCni(config, config.cni, sandboxes),
    dns: config.dns.enabled ? (source) => dnsProxy(config, source) : undefined,
    clock: systemClock,
    compact: () => {
      // Only there when the process was started with it.
      globalThis.gc?.({ type: 'major', execution: 'sync', flavor: 'last-resort' });
      releaseMemory();
    },
  };
  const agent = new Agent(parts, () => quit('the admin interface'));
  // Nothing else is sure to keep the process: sockets of its own pages do not, and pods may be none.
  const alive = setInterval(() => undefined, ALIVE_INTERVAL_MS);
  try {
    for (const signal of ['SIGTERM', 'SIGINT'] as const) process.once(signal, () => quit(signal));
    for (const event of ['uncaughtException', 'unhandledRejection'] as const) {
      process.on(event, (error) => log.error({ error, event }, 'a bug: something failed that nobody waited for'));
    }
    const started = agent.start().then(() => log.info({ node: config.node }, 'running'));
    await Promise.race([started, asked]);
    log.info({ by: await asked }, 'asked to stop');
  } finally {
    await agent.stop();
    clearInterval(alive);
  }
}

function readConfig(path: string, text: string): AgentConfig {
  const parsed = parseAgentConfig(text, process.env.NODE_NAME);
  if (!parsed.ok) throw new Error(`${path}:\n  ${parsed.error.join('\n  ')}`);
  return parsed.value;
}

/** Where the pods come from, and the configuration with what is known from there. */
async function podsOf(config: AgentConfig, sandboxes: Sandboxes): Promise<{ config: AgentConfig; pods: PodSource }> {
  const log = logger('enroll');
  if (config.pods.from === 'directory') {
    return { config, pods: new PodDirectory(config.pods.directory, systemClock, log) };
  }
  // Not needed where there is no API server.
  const { agentApi, kubernetesPods, withNodeLocality } = await import('./kubernetes.js');
  const api = agentApi(config.pods);
  const located = await withNodeLocality(config, api, log);
  return { config: located, pods: kubernetesPods(api, located, config.pods, sandboxes, log) };
}

function nodeGuard({ hostNetns: netns, revision, engine }: AgentConfig): NodeGuard | undefined {
  if (netns === '') return undefined;
  const { inboundHbonePort: hbonePort } = { ...DEFAULT_ENGINE_OPTIONS, ...engine };
  return new NodeGuard({ netns, revision, hbonePort, clock: systemClock, log: logger('redirect') });
}

function dnsProxy(config: AgentConfig, source: ConstructorParameters<typeof DnsProxy>[0]['source']): DnsProxy {
  return new DnsProxy({
    clusterDomain: config.clusterDomain,
    network: config.network,
    port: config.dns.port,
    mark: MARK,
    sockets: NETNS_SOCKETS,
    source,
    clock: systemClock,
    onFailure: (message) => logger('dns').error(message),
  });
}

function redirectPorts({ engine, dns }: AgentConfig): RedirectPorts {
  const { outboundPort, inboundPlainPort, inboundHbonePort } = { ...DEFAULT_ENGINE_OPTIONS, ...engine };
  return { outbound: outboundPort, inboundPlain: inboundPlainPort, inboundHbone: inboundHbonePort, dns: dns.port };
}

function packageVersion(): string {
  const path = new URL('../../../package.json', import.meta.url);
  return (JSON.parse(readFileSync(path, 'utf8')) as { version: string }).version;
}

/** Programs that change or read rules of pods at a time, when many pods start at once. */
const MOST_NFT = 4;
const MARK = 0x539;
const ALIVE_INTERVAL_MS = 2 ** 30;
