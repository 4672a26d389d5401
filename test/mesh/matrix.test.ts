/**
 * The capture matrix: every combination of client, server, way to name it, address family, mode and policy is one real
 * connection, and the client, the server, the wire and both access logs must agree with an oracle that knows the table
 * only.
 */
import root, { test } from 'tap';
import { formatHostPort } from '../../src/lib/ip.js';
import { Capture, type Packet } from '../support/capture.js';
import { peerAuthentication } from '../support/manifests.js';
import { type AccessLog, addressOf, Mesh, nodeOf, podOf, until } from '../support/mesh.js';
import { pythonFile } from '../support/prober.js';
import { Program } from '../support/program.js';
import { type Addresses, CLIENTS, cells, MODES, PORT_OF, podKeys, SERVER_NAMESPACE, world } from './matrix/cells.js';
import { expectation } from './matrix/oracle.js';
import { isInboundOf, type Played, play, verdictOf } from './matrix/play.js';
import { POLICY_CASES } from './matrix/policies.js';

// Each test has a limit of its own, and the runner has one for the file.
root.setTimeout(0);

test('every cell of the capture matrix goes as its table says', { timeout: 300_000 }, async (t) => {
  await using mesh = await Mesh.up('matrix');
  await mesh.apply(world());
  const status = await mesh.ready(podKeys());
  const addresses: Addresses = {
    of: (pod, family) => addressOf(podOf(status, `${pod}.${namespaceOf(pod)}`), family),
    ofNode: (node, family) => addressOf(nodeOf(status, `node-${node}`), family),
  };
  const probers = new Map(
    await Promise.all(
      CLIENTS.map(async ({ name, namespace }) => [name, await mesh.prober(`${name}.${namespace}`)] as const),
    ),
  );
  for (const { name, netns } of status.nodes) {
    const outsider = new Program({ netns }, ['python3', '-u', pythonFile('server.py'), name, String(PORT_OF.unknown)]);
    mesh.onClose(() => outsider.close());
  }
  const carol = probers.get('carol');
  for (const node of [1, 2]) {
    await until(`node-${node} listens`, async () => {
      const target = { host: addresses.ofNode(node, 4), port: PORT_OF.unknown };
      return (await carol?.probe(target))?.outcome === 'connected';
    });
  }
  const captures = await Promise.all(status.nodes.map(({ netns }) => Capture.start(netns, CAPTURE_FILTER, 1000)));
  for (const capture of captures) mesh.onClose(async () => void (await capture.stop()));
  const logs = new Map(status.nodes.map(({ name }) => [name, mesh.accessLog(name)] as const));

  let played = 0;
  const wrong: string[] = [];
  let former = { apply: [peerAuthentication('mode', SERVER_NAMESPACE, 'PERMISSIVE')] };
  for (const mode of MODES) {
    for (const policy of POLICY_CASES) {
      const started = performance.now();
      const wrongBefore = wrong.length;
      const next = { apply: [peerAuthentication('mode', SERVER_NAMESPACE, mode), ...policy.manifests(addresses)] };
      await mesh.change({ remove: former.apply.slice(1), ...next });
      former = next;
      for (const capture of captures) capture.packets.length = 0;
      for (const log of logs.values()) log.restart();

      const round = await play(cells(), (cell) => expectation(cell, mode, policy), probers, addresses);
      await recordsOf(round, logs, addresses).catch(() => undefined);
      // What went before is in the captures once they show a connection that came after.
      const last = await carol?.probe({ host: addresses.ofNode(2, 4), port: PORT_OF.unknown });
      const isLast = ({ srcIp, srcPort }: Packet): boolean => `${srcIp}:${srcPort}` === last?.local;
      await Promise.all(captures.map((capture) => capture.until((seen) => seen.some(isLast))));
      const packets = captures.flatMap((capture) => capture.packets);
      const records = new Map([...logs].map(([node, log]) => [node, log.records()] as const));
      for (const one of round) {
        const problem = verdictOf(one, addresses, packets, records);
        if (problem === undefined) continue;
        const { client, server, kind, family } = one.cell;
        const { outcome, transport } = one.expected;
        wrong.push(
          [
            `${mode} ${policy.name}`,
            `${client.name}→${server.name}`,
            `${kind} v${family}`,
            `${outcome} ${transport}`,
            problem,
          ].join(' | '),
        );
      }
      played += round.length;
      const took = Math.round(performance.now() - started);
      t.comment(`${mode} ${policy.name}: ${round.length} cells, ${wrong.length - wrongBefore} wrong, ${took} ms`);
      for (const line of wrong.slice(wrongBefore)) t.comment(line);
    }
  }
  t.comment(`${played} cells played, ${wrong.length} wrong`);
  if (wrong.length > 0) t.comment(mesh.logs());
  t.equal(wrong.length, 0, `every cell of ${played} is as expected`);
  t.ok(played >= 2000, 'the matrix is whole');
});

/** Resolves when the connections that must leave a record have left it. */
async function recordsOf(
  round: readonly Played[],
  logs: ReadonlyMap<string, AccessLog>,
  addresses: Addresses,
): Promise<void> {
  const awaited = round.filter(({ expected }) => expected.inbound !== undefined);
  await until(
    'every inbound connection is recorded',
    async () => {
      const all = new Map([...logs].map(([node, log]) => [node, log.records()] as const));
      const outbound = new Set((all.get('node-1') ?? []).map((record) => record['src.addr']));
      return (
        awaited.every(({ cell }) => {
          const target = formatHostPort(addresses.of(cell.server.name, cell.family), PORT_OF[cell.kind]);
          const source = addresses.of(cell.client.name, cell.family);
          return all.get(`node-${cell.server.node}`)?.some((record) => isInboundOf(record, source, target));
        }) &&
        round.every(
          ({ cell, got }) => !cell.client.captured || got.outcome !== 'connected' || outbound.has(got.local ?? ''),
        )
      );
    },
    5000,
  );
}

function namespaceOf(pod: string): string {
  return CLIENTS.find(({ name }) => name === pod)?.namespace ?? SERVER_NAMESPACE;
}

const CAPTURE_FILTER = `tcp and (${Object.values(PORT_OF)
  .map((port) => `port ${port}`)
  .join(' or ')})`;
