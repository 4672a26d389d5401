/** What must happen in a cell, worked out from the table alone. */
import type { Cell, Mode } from './cells.js';
import { PORT_OF } from './cells.js';
import type { PolicyCase } from './policies.js';

export interface Expectation {
  readonly outcome: 'connected' | 'refused';
  /** How the bytes travel between the pods; nothing travels on `none`. */
  readonly transport: 'hbone' | 'plaintext' | 'none';
  /** A record at the server's node with these identities; undefined: the mesh is not on that side. */
  readonly inbound: { readonly direction: string; readonly client: string; readonly server: string } | undefined;
}

export function expectation(cell: Cell, mode: Mode, policy: PolicyCase): Expectation {
  const { client, server, kind } = cell;
  const known = kind !== 'unknown';
  // A ServiceEntry has an address in the mesh only: nobody else on the network has heard of it.
  if (kind === 'service-entry' && !client.captured)
    return { outcome: 'refused', transport: 'none', inbound: undefined };
  const enforced = server.captured && known;
  const tunnelled = enforced && client.captured;
  const allowed =
    !enforced ||
    ((mode !== 'STRICT' || tunnelled) &&
      policy.allows({
        identity: tunnelled ? client.name : '',
        namespace: tunnelled ? client.namespace : '',
        source: client.name,
        port: PORT_OF[kind],
      }));
  return {
    outcome: allowed ? 'connected' : 'refused',
    transport: allowed ? (tunnelled ? 'hbone' : 'plaintext') : 'none',
    inbound: enforced
      ? {
          direction: tunnelled ? 'inbound' : 'inbound-plaintext',
          client: tunnelled ? `spiffe://cluster.local/ns/${client.namespace}/sa/${client.name}` : '',
          server: `spiffe://cluster.local/ns/srv/sa/${server.name}`,
        }
      : undefined,
  };
}
