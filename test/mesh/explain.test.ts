/** `meltemi explain` must agree with what the traffic does: random worlds, each cell a real connection. */
import root, { test } from 'tap';
import { labAgents } from '../../src/cli/agents.js';
import { explain } from '../../src/cli/explain.js';
import type { Explanation } from '../../src/cli/explanation.js';
import type { Manifest } from '../support/manifests.js';
import { type AccessRecord, Mesh, meltemi, podOf, until } from '../support/mesh.js';
import { type Greeting, type Prober, pythonFile } from '../support/prober.js';
import { Program } from '../support/program.js';
import { Random } from '../support/random.js';
import {
  capturedUnder,
  keyOf,
  labelled,
  OUTSIDE_PORT,
  PEOPLE,
  type Person,
  randomLabels,
  randomPolicies,
  services,
  targets,
  UNLABELLED,
} from './agreement/generate.js';

// Each test has a limit of its own, and the runner has one for the file.
root.setTimeout(0);

const ROUNDS = 10;
const CELLS_PER_ROUND = 80;
const SEED = Number(process.env.SEED ?? 20_261_121);

interface Cell {
  readonly person: Person;
  readonly target: string;
}

test('explain says what happens, in every cell of random worlds', { timeout: 300_000 }, async (t) => {
  await using mesh = await Mesh.up('explain');
  await mesh.apply([...labelled(UNLABELLED), ...services()]);
  const status = await mesh.ready([]);
  const probers = new Map(
    await Promise.all(PEOPLE.map(async (person) => [keyOf(person), await mesh.prober(keyOf(person))] as const)),
  );
  for (const { name, netns } of status.nodes) {
    const outsider = new Program({ netns }, ['python3', '-u', pythonFile('server.py'), name, String(OUTSIDE_PORT)]);
    mesh.onClose(() => outsider.close());
  }
  const addresses = PEOPLE.flatMap((person) => podOf(status, keyOf(person)).addresses);
  const nodes = status.nodes.flatMap((node) => node.addresses);
  const [first] = probers.values();
  for (const host of nodes) {
    await until(
      `${host} listens`,
      async () => (await first?.probe({ host, port: OUTSIDE_PORT }))?.outcome === 'connected',
    );
  }
  const random = new Random(SEED);
  const all = PEOPLE.flatMap((person) => targets(addresses, nodes).map((target): Cell => ({ person, target })));
  const tally = { cells: 0, allowed: 0, denied: 0, mixed: 0, unknown: 0, hbone: 0 };
  const wrong: string[] = [];
  let former: Manifest[] = [];
  for (let round = 0; round < ROUNDS; round++) {
    const labels = randomLabels(random);
    await mesh.apply(labelled(labels));
    await mesh.ready(capturedUnder(labels));
    const next = randomPolicies(random, addresses);
    await mesh.change({ remove: former, apply: next });
    former = next;
    const logs = status.nodes.map(({ name }) => mesh.accessLog(name));
    const cells = random.some(all, CELLS_PER_ROUND);
    const results = await Promise.all(cells.map((cell) => both(cell, mesh.name, probers)));
    const captured = capturedUnder(labels);
    // What a pod says to itself never leaves it.
    const awaited = results.filter(
      ({ cell, got }) =>
        captured.includes(keyOf(cell.person)) && got.local !== undefined && hostOf(got.local) !== hostOf(got.remote),
    );
    const outbound = new Map<string, AccessRecord>();
    await until(
      'every connection of a captured client is recorded',
      async () => {
        for (const record of logs.flatMap((log) => log.records())) {
          if (record.direction === 'outbound') outbound.set(record['src.addr'], record);
        }
        return awaited.every(({ got }) => outbound.has(got.local ?? ''));
      },
      5000,
      () =>
        awaited
          .filter(({ got }) => !outbound.has(got.local ?? ''))
          .map(({ cell, got }) => `${keyOf(cell.person)} → ${cell.target} ${got.local} ${got.outcome} ${got.how}`)
          .join('; '),
    ).catch((error: unknown) => wrong.push(`round ${round}: ${String(error)}`));
    for (const { cell, got, said } of results) {
      const problem = disagreement(got, said, outbound.get(got.local ?? ''));
      tally.cells += 1;
      tally[said.outcome] += 1;
      if (said.transport === 'hbone') tally.hbone += 1;
      if (problem !== undefined) wrong.push(`round ${round} | ${keyOf(cell.person)} → ${cell.target} | ${problem}`);
    }
    if (wrong.length > 0 && round === ROUNDS - 1) t.comment(JSON.stringify({ labels, next }));
  }
  t.comment(`seed ${SEED}: ${JSON.stringify(tally)}`);
  for (const line of wrong) t.comment(line);
  t.equal(wrong.length, 0, 'explain and traffic agree');
  t.ok(tally.cells >= 500, `${tally.cells} cells`);
  const least = tally.cells / 10;
  t.ok(tally.allowed > least && tally.denied > least && tally.hbone > least, 'no outcome is rare');

  const [one] = all;
  if (one === undefined) throw new Error('no cell');
  const direct = await explain(keyOf(one.person), one.target, labAgents(mesh.name));
  const command = await meltemi('explain', '--lab', mesh.name, '--json', keyOf(one.person), one.target);
  t.same(JSON.parse(command.stdout), direct, 'the command prints the same');
  t.equal(command.exitCode, direct.outcome === 'allowed' ? 0 : 2);
  const text = await meltemi('explain', '--lab', mesh.name, keyOf(one.person), one.target);
  t.match(text.stdout, `-> ${one.target}: ${direct.outcome}`);
});

async function both({ person, target }: Cell, lab: string, probers: ReadonlyMap<string, Prober>) {
  const prober = probers.get(keyOf(person));
  if (prober === undefined) throw new Error('no prober');
  const colon = target.lastIndexOf(':');
  const host = target.slice(0, colon).replace(/^\[(.*)\]$/, '$1');
  const got = await prober.probeFromNewPort({ host, port: Number(target.slice(colon + 1)), timeout: 3 });
  const said = await explain(keyOf(person), target, labAgents(lab));
  return { cell: { person, target }, got, said };
}

function hostOf(address = ''): string {
  return address.slice(0, address.lastIndexOf(':'));
}

/** In words, when what was said is not what happened. */
function disagreement(got: Greeting, said: Explanation, record: AccessRecord | undefined): string | undefined {
  const told = `explain: ${said.outcome} ${said.transport} (${said.because}${said.objects.map((each) => ` ${each}`).join('')})`;
  const real = `${got.outcome} ${got.server ?? ''} ${got.how ?? ''} ${got.error ?? ''} ${record?.error ?? ''}`;
  const expected = outcomeFor(got, said);
  if (expected !== undefined && (got.outcome === 'connected') !== (expected === 'allowed'))
    return `${told}; real: ${real}`;
  if (got.outcome === 'broken') return real;
  if (record === undefined || said.transport === 'mixed' || said.transport === 'none') return undefined;
  // Which of several endpoints refused is not known to the client.
  if (said.outcome === 'mixed' && got.outcome !== 'connected') return undefined;
  const hbone = record['dst.hbone_addr'] !== undefined;
  if (hbone !== (said.transport === 'hbone')) return `${told}; the record says hbone: ${hbone}; real: ${real}`;
  return undefined;
}

/** What explain says of the endpoint that was in fact reached, where it depends on the endpoint. */
function outcomeFor(got: Greeting, said: Explanation): 'allowed' | 'denied' | undefined {
  if (said.outcome === 'unknown') return undefined;
  if (said.outcome === 'mixed') {
    const isIpv6 = hostOf(got.remote).includes(':');
    const reached = said.endpoints.find(({ uid, ip }) => uid.endsWith(`/${got.server}`) && ip.includes(':') === isIpv6);
    return got.outcome === 'connected' ? (reached?.outcome ?? 'denied') : undefined;
  }
  return said.outcome === 'allowed' ? 'allowed' : 'denied';
}
