/**
 * The small world of most mesh tests: in the mesh `caller` (node-1), `server` (node-2, two of them behind the Service
 * `servers`) and `neighbour` (node-1); outside of it `stranger` (node-1) and the server `bare` (node-2).
 */

import type { LabStatus } from '../../src/lab/status.js';
import { CAPTURED, idlePod, type Manifest, namespace, serverPod, service } from '../support/manifests.js';
import { addressOf, Mesh, podOf } from '../support/mesh.js';
import type { Prober, Target } from '../support/prober.js';

export interface Town extends AsyncDisposable {
  readonly mesh: Mesh;
  readonly status: LabStatus;
  readonly caller: Prober;
  readonly stranger: Prober;
  /** `IP:8080` of a pod by its key, for example `server.app`. */
  at(key: string, family?: 4 | 6, port?: number): { host: string; port: number };
}

export const CAPTURED_PODS = ['caller.app', 'server.app', 'second.app', 'neighbour.app'];
export const SERVERS_VIP = '10.96.210.1';
export const SERVERS_NAME = 'servers.app.svc.cluster.local';
export const PORT = 8080;
export const callerId = identityOf('caller');
export const serverId = identityOf('server');

/** A lab with the town in it, every pod ready, plus `more`. */
export async function startTown(
  name: string,
  more: { manifests?: readonly Manifest[]; captured?: readonly string[]; args?: readonly string[] } = {},
): Promise<Town> {
  const mesh = await Mesh.up(name, { args: more.args ?? [] });
  try {
    await mesh.apply([...townManifests(), ...(more.manifests ?? [])]);
    const status = await mesh.ready([...CAPTURED_PODS, ...(more.captured ?? [])]);
    const caller = await mesh.prober('caller.app');
    const stranger = await mesh.prober('stranger.street');
    return {
      mesh,
      status,
      caller,
      stranger,
      at: (key, family = 4, port = PORT) => ({ host: addressOf(podOf(status, key), family), port }),
      [Symbol.asyncDispose]: () => mesh[Symbol.asyncDispose](),
    };
  } catch (error) {
    const logs = mesh.logs();
    await mesh[Symbol.asyncDispose]();
    throw new Error(`the town did not come up: ${String(error)}\n${logs}`);
  }
}

export const theServers: Target = { host: SERVERS_VIP, port: 80 };

export function identityOf(name: string, namespace = 'app', trustDomain = 'cluster.local'): string {
  return `spiffe://${trustDomain}/ns/${namespace}/sa/${name}`;
}

function townManifests(): Manifest[] {
  return [
    namespace('app', CAPTURED),
    namespace('street'),
    idlePod({ name: 'caller', namespace: 'app', node: 1 }),
    serverPod({ name: 'server', namespace: 'app', node: 2, labels: { group: 'servers' } }, [PORT]),
    serverPod({ name: 'second', namespace: 'app', node: 2, labels: { group: 'servers' } }, [PORT]),
    serverPod({ name: 'neighbour', namespace: 'app', node: 1 }, [PORT]),
    service({
      name: 'servers',
      namespace: 'app',
      selector: { group: 'servers' },
      ports: [
        { port: 80, targetPort: PORT },
        { port: 82, targetPort: 'first' },
      ],
      addresses: [SERVERS_VIP, 'fd00:10:96::d201'],
    }),
    idlePod({ name: 'stranger', namespace: 'street', node: 1 }),
    serverPod({ name: 'bare', namespace: 'street', node: 2 }, [PORT]),
  ];
}
