/** Our delta ADS server with a stock Envoy as its client: what it takes, what it refuses, how it comes back. */
import { readFileSync } from 'node:fs';
import { get } from 'node:http';
import { homedir } from 'node:os';
import { join } from 'node:path';
import root, { type Test, test } from 'tap';
import { setLevel } from '../../src/telemetry/log.js';
import { ResourceTable } from '../../src/xds/resource-table.js';
import type { AdsServerMetrics } from '../../src/xds/server-metrics.js';
import { installEnvoy } from '../bench/envoy.js';
import { type RunningAdsServer, startAdsServer } from '../support/ads-server.js';
import { until } from '../support/mesh.js';
import { Program } from '../support/program.js';

setLevel('silent');
root.setTimeout(0);

const CLUSTER = 'type.googleapis.com/envoy.config.cluster.v3.Cluster';

test('a stock Envoy follows, refuses by name, and resumes', { timeout: 300_000 }, async (t) => {
  const envoy = await installEnvoy(process.env.MELTEMI_TEST_CACHE ?? join(homedir(), '.cache/meltemi'));
  const pushes: number[] = [];
  const metrics: AdsServerMetrics = {
    streams() {},
    converged() {},
    rejected() {},
    unauthenticated() {},
    expired() {},
    pushed: (_type, bytes) => pushes.push(bytes),
  };
  const table = new ResourceTable(CLUSTER, 'cds');
  table.apply([cluster('alpha'), cluster('beta', LARGE)]);
  let server = await startAdsServer([table], { metrics });
  t.teardown(() => server.close());
  const it = await startEnvoy(t, envoy, server.port);

  await until('Envoy has both clusters', async () => same(await it.clusters(), ['alpha', 'beta']));

  table.apply([cluster('gamma')], ['alpha']);
  await until('Envoy follows', async () => same(await it.clusters(), ['beta', 'gamma']));

  table.apply([cluster('delta'), cluster('broken', EDS_WITHOUT_CONFIG)]);
  await until('Envoy refuses', async () => refusals(server).length > 0);
  t.match(refusals(server)[0], /broken/, 'the bad one is named');
  t.ok(same(await it.clusters(), ['beta', 'delta', 'gamma']), 'and the good one of the same response is in use');

  table.apply([], ['broken']);
  await server.close();
  const reborn = new ResourceTable(CLUSTER, 'cds');
  reborn.apply([cluster('beta', LARGE), cluster('delta'), cluster('epsilon')]);
  pushes.length = 0;
  server = await startAdsServer([reborn], { metrics, port: server.port });
  await until('Envoy comes back', async () => same(await it.clusters(), ['beta', 'delta', 'epsilon']));
  t.ok((pushes[0] ?? 0) < LARGE.length, 'without what it still has');
});

async function startEnvoy(t: Test, envoy: string, port: number) {
  const directory = t.testdir({ 'bootstrap.json': JSON.stringify(bootstrap(port)) });
  const addressPath = join(directory, 'admin');
  const command = [
    envoy,
    '-c',
    join(directory, 'bootstrap.json'),
    '--admin-address-path',
    addressPath,
    '--concurrency',
    '1',
  ];
  const program = new Program({}, [...command, '--base-id', String(process.pid), '--log-level', 'warn']);
  t.teardown(() => program.close());
  let admin = '';
  await until('Envoy listens', async () => {
    if (!program.running) throw new Error(program.output);
    admin = readIfThere(addressPath);
    return admin !== '';
  });
  const clusters = async (): Promise<string[]> => {
    const dump = JSON.parse(await fetchText(`http://${admin}/config_dump?resource=dynamic_active_clusters`));
    return (dump.configs ?? []).map((each: { cluster: { name: string } }) => each.cluster.name).sort();
  };
  return { clusters };
}

function bootstrap(port: number): object {
  const endpoint = { address: { socket_address: { address: '127.0.0.1', port_value: port } } };
  return {
    node: { id: 'envoy', cluster: 'test' },
    admin: { address: { socket_address: { address: '127.0.0.1', port_value: 0 } } },
    dynamic_resources: {
      ads_config: {
        api_type: 'DELTA_GRPC',
        transport_api_version: 'V3',
        grpc_services: [{ envoy_grpc: { cluster_name: 'ads' } }],
      },
      cds_config: { ads: {}, resource_api_version: 'V3' },
    },
    static_resources: {
      clusters: [
        {
          name: 'ads',
          type: 'STATIC',
          typed_extension_protocol_options: {
            'envoy.extensions.upstreams.http.v3.HttpProtocolOptions': {
              '@type': 'type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions',
              explicit_http_config: { http2_protocol_options: {} },
            },
          },
          load_assignment: { cluster_name: 'ads', endpoints: [{ lb_endpoints: [{ endpoint }] }] },
        },
      ],
    },
  };
}

/** `Cluster { name = 1 }`, which is a static cluster without endpoints, and more fields as bytes. */
function cluster(name: string, more: readonly number[] = []) {
  return { name, bytes: Uint8Array.of(0x0a, name.length, ...Buffer.from(name), ...more) };
}

function refusals(server: RunningAdsServer): string[] {
  return server.ads.streams().flatMap(({ types }) => types.flatMap(({ lastRefusal }) => lastRefusal?.message ?? []));
}

function same(a: readonly string[], b: readonly string[]): boolean {
  return JSON.stringify(a) === JSON.stringify(b);
}

function readIfThere(path: string): string {
  try {
    return readFileSync(path, 'utf8').trim();
  } catch {
    return '';
  }
}

function fetchText(url: string): Promise<string> {
  return new Promise((resolve, reject) => {
    get(url, (response) => {
      let text = '';
      response.setEncoding('utf8').on('data', (part: string) => {
        text += part;
      });
      response.on('end', () => resolve(text));
    }).on('error', reject);
  });
}

/** `type = 2: EDS`, which needs an `eds_cluster_config` that is not there. */
const EDS_WITHOUT_CONFIG = [0x10, 0x03];
/** `alt_stat_name = 28`, long enough to tell whether a response carries it. */
const LARGE = [0xe2, 0x01, 0xe8, 0x07, ...Buffer.alloc(1000, 'x')];
