import { globSync, readFileSync } from 'node:fs';
import { dirname, join, relative, resolve } from 'node:path';
import t from 'tap';

/**
 * The rules of the house: imports point down the list of rooms, agent and control never meet, and each outside
 * dependency has one door. The graph is read from the sources at every run.
 */
const root = resolve(import.meta.dirname, '../../../..');
const rooms = [
  'cli',
  'lab',
  ['agent', 'control'],
  'xds',
  'grpc',
  'kube',
  'identity',
  'collections',
  'model',
  'gen',
  'telemetry',
  'lib',
];

/** Package -> the only place under src/ that may import it. */
const doors: Record<string, string> = {
  '#engine': 'agent/dataplane/',
  '@grpc/grpc-js': 'grpc/',
  'node-forge': 'identity/',
  '@kubernetes/client-node': 'kube/',
  execa: 'lib/command.ts',
  'ipaddr.js': 'lib/ip.ts',
  yaml: 'lib/yaml.ts',
  'dns-packet': 'lib/dns-codec.ts',
  pino: 'telemetry/log.ts',
  'prom-client': 'telemetry/metrics.ts',
  commander: 'cli/',
  ajv: 'cli/chart/values.ts',
};
/** The generated code's run time, wherever messages are made or read. */
const everywhere = ['@bufbuild/protobuf', '@bufbuild/protobuf/wkt', '@bufbuild/protobuf/codegenv2'];

interface Import {
  readonly from: string;
  readonly to: string;
}

const files = globSync('src/**/*.ts', { cwd: root }).map((file) => relative('src', file));
const imports: Import[] = files.flatMap((from) => {
  const text = readFileSync(join(root, 'src', from), 'utf8');
  const found = text.matchAll(/^(?:import|export)\s[^;]*?from\s+'([^']+)'|^import\s+'([^']+)'|\bimport\('([^']+)'\)/gm);
  return [...found].map(([, a, b, c]) => {
    const target = a ?? b ?? c ?? '';
    return { from, to: target.startsWith('.') ? join(dirname(from), target) : target };
  });
});

const roomOf = (file: string): string => file.split('/')[0] ?? '';
const rank = (room: string): number =>
  rooms.findIndex((entry) => entry === room || (Array.isArray(entry) && entry.includes(room)));
const isInside = ({ to }: Import): boolean => rank(roomOf(to)) >= 0 && to.endsWith('.js');

t.test('the graph is really read', async (t) => {
  t.ok(files.length > 10);
  t.ok(imports.filter(isInside).length > 10);
});

t.test('every file is in a known room', async (t) => {
  t.same(
    files.filter((file) => rank(roomOf(file)) < 0 && roomOf(file) !== 'proto'),
    [],
  );
});

t.test('imports only point down the list of rooms', async (t) => {
  const upward = imports.filter((edge) => isInside(edge) && rank(roomOf(edge.to)) < rank(roomOf(edge.from)));
  t.same(upward, []);
});

t.test('agent and control never import each other', async (t) => {
  const meeting = imports.filter((edge) => {
    const pair = [roomOf(edge.from), roomOf(edge.to)];
    return pair.includes('agent') && pair.includes('control');
  });
  t.same(meeting, []);
});

t.test('each outside dependency has one door', async (t) => {
  const outside = imports.filter(
    ({ from, to }) => !to.startsWith('node:') && !isInside({ from, to }) && !everywhere.includes(to),
  );
  const wrong = outside.filter(({ from, to }) => {
    if (/\.node$|\/native\//.test(to)) return !from.startsWith('agent/dataplane/');
    const door = doors[to];
    return door === undefined || !from.startsWith(door);
  });
  t.same(wrong, []);
});

t.test('decisions do no input or output', async (t) => {
  const pure = ['agent/route/', 'agent/authz/', 'control/mesh/', 'collections/', 'model/'];
  const allowed = new Set(['node:crypto', 'node:assert']);
  const impure = imports.filter(
    ({ from, to }) => pure.some((room) => from.startsWith(room)) && to.startsWith('node:') && !allowed.has(to),
  );
  t.same(impure, []);
});
