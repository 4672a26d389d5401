/** Plays cells with real connections and compares what happened, on every side, with what must happen. */

import { canonicalIp, formatHostPort } from '../../../src/lib/ip.js';
import type { Packet } from '../../support/capture.js';
import type { AccessRecord } from '../../support/mesh.js';
import type { Greeting, Prober } from '../../support/prober.js';
import { type Addresses, type Cell, destination, PORT_OF } from './cells.js';
import type { Expectation } from './oracle.js';

export interface Played {
  readonly cell: Cell;
  readonly expected: Expectation;
  readonly got: Greeting;
}

/** Connects once for each cell, all at the same time. */
export function play(
  cells: readonly Cell[],
  expect: (cell: Cell) => Expectation,
  probers: ReadonlyMap<string, Prober>,
  addresses: Addresses,
): Promise<Played[]> {
  return Promise.all(
    cells.map(async (cell) => {
      const expected = expect(cell);
      const prober = probers.get(cell.client.name);
      if (prober === undefined) throw new Error(`no prober in ${cell.client.name}`);
      // Nobody says no to an address that is nowhere: routers may stay silent.
      const timeout = expected.inbound === undefined && expected.outcome === 'refused' ? 0.4 : 10;
      const got = await prober.probeFromNewPort({ ...destination(cell, addresses), family: cell.family, timeout });
      return { cell, expected, got };
    }),
  );
}

/** What is wrong with a cell, in a few words; undefined when nothing is. */
export function verdictOf(
  { cell, expected, got }: Played,
  addresses: Addresses,
  packets: readonly Packet[],
  records: ReadonlyMap<string, readonly AccessRecord[]>,
): string | undefined {
  const { client, server, kind, family } = cell;
  if (got.outcome !== expected.outcome) return `${got.outcome} (${got.how ?? got.server} ${got.error ?? ''})`;
  if (expected.inbound !== undefined && got.how === 'timeout') return 'refused by silence';
  const source = addresses.of(client.name, family);
  if (got.outcome === 'connected') {
    const name = kind === 'unknown' ? `node-${server.node}` : server.name;
    if (got.server !== name) return `answered by ${got.server}`;
    if (got.peer?.startsWith(family === 4 ? `${source}:` : `[${source}]:`) !== true) return `seen as ${got.peer}`;
  }
  const travelled = greetingInClear(packets, cell, addresses) ? 'plaintext' : 'none';
  if (travelled !== (expected.transport === 'plaintext' ? 'plaintext' : 'none')) return `on the wire: ${travelled}`;
  return wrongRecords({ cell, expected, got }, addresses, records);
}

function wrongRecords(
  { cell, expected, got }: Played,
  addresses: Addresses,
  records: ReadonlyMap<string, readonly AccessRecord[]>,
): string | undefined {
  const { client, server, kind, family } = cell;
  const source = addresses.of(client.name, family);
  if (expected.inbound !== undefined) {
    const found = (records.get(`node-${server.node}`) ?? []).filter((record) =>
      isInboundOf(record, source, formatHostPort(addresses.of(server.name, family), PORT_OF[kind])),
    );
    const [record] = found;
    if (record === undefined || found.length !== 1) return `${found.length} inbound records`;
    if (record.direction !== expected.inbound.direction) return `recorded as ${record.direction}`;
    const [from, to] = [record['src.identity'] ?? '', record['dst.identity'] ?? ''];
    if (from !== expected.inbound.client) return `inbound record has src.identity ${from || 'none'}`;
    if (to !== expected.inbound.server) return `inbound record has dst.identity ${to || 'none'}`;
    if ((record.error !== undefined) !== (expected.outcome === 'refused')) return `inbound error: ${record.error}`;
  }
  if (client.captured && got.outcome === 'connected') {
    const found = (records.get('node-1') ?? []).filter(
      (record) => record.direction === 'outbound' && record['src.addr'] === got.local,
    );
    const [record] = found;
    if (record === undefined || found.length !== 1) return `${found.length} outbound records for ${got.local}`;
    const tunnelled = record['dst.hbone_addr'] !== undefined;
    if (tunnelled !== (expected.transport === 'hbone')) return `outbound record says hbone: ${tunnelled}`;
    if (tunnelled && record['dst.identity'] !== expected.inbound?.server) {
      return `outbound record has dst.identity ${record['dst.identity'] ?? 'none'}`;
    }
  }
  return undefined;
}

/** True for the server side's record of a connection from `source` (whatever port) to `target`. */
export function isInboundOf(record: AccessRecord, source: string, target: string): boolean {
  if (record.direction === 'outbound') return false;
  const from = record['src.addr'];
  return (
    (from.startsWith(`${source}:`) || from.startsWith(`[${source}]:`)) &&
    (record['dst.hbone_addr'] ?? record['dst.addr']) === target
  );
}

function greetingInClear(
  packets: readonly Packet[],
  { client, server, kind, family }: Cell,
  addresses: Addresses,
): boolean {
  const from = kind === 'unknown' ? addresses.ofNode(server.node, family) : addresses.of(server.name, family);
  const to = addresses.of(client.name, family);
  return packets.some(
    (packet) =>
      packet.srcPort === PORT_OF[kind] &&
      canonicalIp(packet.srcIp) === from &&
      canonicalIp(packet.dstIp) === to &&
      packet.payload.includes('"server"'),
  );
}
