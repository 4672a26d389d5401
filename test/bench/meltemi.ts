import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as wait } from 'node:timers/promises';
import { TokenIssuer } from '../../src/lab/tokens.js';
import { systemClock } from '../../src/lib/clock.js';
import { formatYaml } from '../../src/lib/yaml.js';
import { Background } from './process.js';
import { clearRedirection, inNamespace, type Place, type Topology } from './topology.js';
import type { Variant } from './variant.js';

/**
 * A control plane and two agents, with everything on: policies, metrics, access log in a file, DNS. The bench is the
 * kubelet: it writes the pod records that agents watch and the Pod objects that the control plane reads.
 */
export function meltemi(cli: string, directory: string, congestion: string): Variant {
  return {
    name: 'meltemi',
    about: 'control plane and two agents, policies, metrics, access log and DNS on',
    knowsWorkloads: true,
    async start(topology, { workloads }) {
      const home = new Home(directory, topology, cli, congestion);
      const parts: Background[] = [];
      const stop = async () => {
        // An agent that goes leaves its pods redirected, for the next one to take: let it let go of them first.
        for (const side of SIDES) await home.withdraw(side);
        for (const part of parts.reverse()) await part.stop();
      };
      try {
        home.writeMesh(workloads);
        parts.push(home.startControlPlane());
        const patience = workloads > 0 ? 180_000 : 15_000;
        await parts[0]?.until(async () => existsSync(join(home.ca, 'root-cert.pem')), patience);
        const agents = SIDES.map((side) => home.startAgent(side));
        parts.push(...agents);
        for (const [i, side] of SIDES.entries()) {
          await agents[i]?.until(() => home.enrolled(side), patience);
        }
        return { pids: agents.map((agent) => agent.pid), stop };
      } catch (error) {
        await stop();
        throw error;
      }
    },
  };
}

/** The files of one mesh, made anew for each start. */
class Home {
  readonly manifests: string;
  readonly control: string;
  readonly ca: string;
  readonly #tokens: TokenIssuer;

  constructor(
    readonly directory: string,
    readonly topology: Topology,
    readonly cli: string,
    readonly congestion: string,
  ) {
    rmSync(directory, { recursive: true, force: true });
    [this.manifests, this.control, this.ca] = ['manifests', 'control', 'ca'].map((name) => join(directory, name)) as [
      string,
      string,
      string,
    ];
    for (const each of [this.manifests, this.control, this.ca]) mkdirSync(each, { recursive: true });
    this.#tokens = new TokenIssuer('bench', systemClock, join(this.control, 'issuer.pem'));
  }

  writeMesh(others: number): void {
    const objects = [
      {
        apiVersion: 'v1',
        kind: 'Namespace',
        metadata: { name: 'bench', labels: { 'istio.io/dataplane-mode': 'ambient' } },
      },
      ...SIDES.map((side) => podObject('bench', side, this.topology[side].ip, nodeOf(side))),
      serviceObject(this.topology.port),
      ...POLICIES,
    ];
    writeFileSync(join(this.manifests, 'bench.yaml'), objects.map((object) => formatYaml(object)).join('---\n'));
    // JSON is YAML, and quickly written.
    for (let from = 0; from < others; from += PODS_PER_FILE) {
      const pods = Array.from({ length: Math.min(PODS_PER_FILE, others - from) }, (_, i) => {
        const n = from + i;
        return podObject(
          `others-${n % 50}`,
          `other-${n}`,
          `10.${100 + (n >> 16)}.${(n >> 8) & 255}.${n & 255}`,
          `node-${3 + (n % 100)}`,
        );
      });
      writeFileSync(
        join(this.manifests, `others-${from}.yaml`),
        JSON.stringify({ apiVersion: 'v1', kind: 'List', items: pods }),
      );
    }
  }

  startControlPlane(): Background {
    const config = join(this.control, 'control-plane.yaml');
    const text = formatYaml({
      source: { directory: this.manifests },
      listen: { tls: CONTROL_PLANE, plaintext: '' },
      admin: { socket: join(this.control, 'admin.sock'), port: 15014 },
      ca: { directory: this.ca },
      auth: { issuers: [{ issuer: 'bench', audience: 'istio-ca', publicKey: join(this.control, 'issuer.pem') }] },
    });
    writeFileSync(config, text);
    return this.#run('control plane', ['control-plane', '--config', config], join(this.control, 'log'));
  }

  startAgent(side: Side): Background {
    const directory = this.#node(side);
    const place = this.topology[side];
    mkdirSync(join(directory, 'pods'), { recursive: true });
    writeFileSync(join(directory, 'token'), this.#tokens.forNode(nodeOf(side)));
    writeFileSync(join(directory, 'pods', `${side}.json`), JSON.stringify(podRecord(side, place)));
    const rootCert = join(this.ca, 'root-cert.pem');
    const upstream = {
      address: CONTROL_PLANE,
      serverName: 'meltemi.istio-system.svc',
      rootCert,
      token: join(directory, 'token'),
    };
    const config = join(directory, 'agent.yaml');
    const text = formatYaml({
      node: nodeOf(side),
      xds: upstream,
      ca: upstream,
      pods: { directory: join(directory, 'pods') },
      stateDir: directory,
      admin: { socket: join(directory, 'admin.sock'), port: 0 },
      metricsPort: METRICS_PORTS[side],
      readinessPort: READINESS_PORTS[side],
      accessLog: join(directory, 'access.log'),
      dns: { enabled: true },
      engine: { congestionControl: this.congestion },
      drainSeconds: 0,
    });
    writeFileSync(config, text);
    return this.#run(`agent (${side})`, ['agent', '--config', config], join(directory, 'log'));
  }

  /** The agent is ready and has captured its pod. */
  async enrolled(side: Side): Promise<boolean> {
    const path = join(this.#node(side), 'redirection', side);
    if (!existsSync(path) || readFileSync(path, 'utf8').trim() !== 'enabled') return false;
    const url = `http://127.0.0.1:${READINESS_PORTS[side]}/healthz/ready`;
    const probe = ['-s', '-o', '/dev/null', '-w', '%{http_code}', url];
    return (await inNamespace(this.topology.mesh, 'curl', probe).catch(() => '')) === '200';
  }

  /** Takes the pod from its agent, and clears away what an agent that failed has left. */
  async withdraw(side: Side): Promise<void> {
    const path = join(this.#node(side), 'redirection', side);
    rmSync(join(this.#node(side), 'pods', `${side}.json`), { force: true });
    for (let tries = 0; tries < 100 && existsSync(path); tries++) await wait(50);
    if (existsSync(path)) await clearRedirection(this.topology[side]);
  }

  #run(name: string, args: readonly string[], log: string): Background {
    return Background.start(name, this.topology.mesh, [process.execPath, this.cli, ...args], log);
  }

  #node(side: Side): string {
    return join(this.directory, 'nodes', nodeOf(side));
  }
}

type Side = (typeof SIDES)[number];

function nodeOf(side: Side): string {
  return side === 'client' ? 'node-1' : 'node-2';
}

function podRecord(side: Side, place: Place) {
  return {
    uid: side,
    name: side,
    namespace: 'bench',
    serviceAccount: side,
    labels: { app: side },
    annotations: {},
    namespaceLabels: { 'istio.io/dataplane-mode': 'ambient' },
    hostNetwork: false,
    netns: place.netns,
    ips: [place.ip],
    nameservers: [],
    searchDomains: [],
    phase: 'Running',
  };
}

function podObject(namespace: string, name: string, ip: string, nodeName: string) {
  return {
    apiVersion: 'v1',
    kind: 'Pod',
    metadata: {
      name,
      namespace,
      uid: name,
      labels: { app: name },
      annotations: { 'ambient.istio.io/redirection': 'enabled' },
    },
    spec: { nodeName, serviceAccountName: name, containers: [{ name: 'app' }] },
    status: { phase: 'Running', podIP: ip, podIPs: [{ ip }], conditions: [{ type: 'Ready', status: 'True' }] },
  };
}

function serviceObject(port: number) {
  const spec = {
    clusterIP: '10.96.0.1',
    clusterIPs: ['10.96.0.1'],
    selector: { app: 'server' },
    ports: [{ port, targetPort: port }],
  };
  return { apiVersion: 'v1', kind: 'Service', metadata: { name: 'server', namespace: 'bench' }, spec };
}

function policy(name: string, spec: object) {
  return {
    apiVersion: 'security.istio.io/v1',
    kind: 'AuthorizationPolicy',
    metadata: { name, namespace: 'bench' },
    spec,
  };
}

const SIDES = ['client', 'server'] as const;
const CONTROL_PLANE = '127.0.0.1:15012';
const METRICS_PORTS = { client: 15020, server: 15030 };
const READINESS_PORTS = { client: 15021, server: 15031 };
const PODS_PER_FILE = 1000;
const POLICIES = [
  policy('clients', { rules: [{ from: [{ source: { principals: ['cluster.local/ns/bench/sa/client'] } }] }] }),
  policy('no-strangers', { action: 'DENY', rules: [{ from: [{ source: { notNamespaces: ['bench'] } }] }] }),
  policy('no-odd-ports', { action: 'DENY', rules: [{ to: [{ operation: { ports: ['1', '2', '3'] } }] }] }),
];
