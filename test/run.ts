/**
 * Runs the suites and prints one closing line, `N passed, N failed`. Each compiled test file is a process of its own
 * that speaks TAP; each suite of cargo counts its own tests. Usage: run.js [SUITE…], all suites by default.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync, globSync, readdirSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { join, relative } from 'node:path';
import { Parser } from 'tap-parser';
import { clusterNames, takeDown } from './cluster/harness/down.js';

interface Suite {
  readonly name: string;
  run(): Promise<Tally>;
}

interface Tally {
  passed: number;
  failed: number;
}

const root = join(import.meta.dirname, '../..');
const FILE_TIMEOUT_MS = 10 * 60_000;
const MAX_OUTPUT = 20_000;
const LABS = '/run/meltemi/labs';
// Two runs on one machine keep out of each other's way.
process.env.LAB_SUFFIX = `-run${process.pid}`;

const suites: Suite[] = [
  { name: 'lint', run: lint },
  { name: 'rust', run: rust },
  tap('unit', availableParallelism()),
  tap('golden', availableParallelism()),
  tap('contract', 1),
  tap('mesh', 1),
  tap('interop', 1),
  tap('cluster', 1),
];

const wanted = process.argv.slice(2);
const unknown = wanted.filter((name) => !suites.some((suite) => suite.name === name));
if (unknown.length > 0) {
  console.error(`no suite ${unknown.join(', ')}; there are ${suites.map((suite) => suite.name).join(', ')}`);
  process.exit(2);
}

const children = new Set<ChildProcess>();
for (const signal of ['SIGINT', 'SIGTERM'] as const) {
  process.on(signal, () => {
    for (const child of children) child.kill(signal);
    process.exitCode = 130;
  });
}

const total: Tally = { passed: 0, failed: 0 };
await endLabs();
await endClusters();
for (const suite of suites.filter(({ name }) => wanted.length === 0 || wanted.includes(name))) {
  const started = Date.now();
  const tally = await suite.run();
  console.log(
    `suite ${suite.name}: ${tally.passed} passed, ${tally.failed} failed, ${Math.round((Date.now() - started) / 1000)} s\n`,
  );
  total.passed += tally.passed;
  total.failed += tally.failed;
  await endClusters();
}
console.log(`${total.passed} passed, ${total.failed} failed`);
process.exitCode = total.failed > 0 || total.passed === 0 ? 1 : 0;

/** `parallel` files run at once; what uses namespaces shares the machine with nobody. */
function tap(name: string, parallel: number): Suite {
  return {
    name,
    async run() {
      const files = globSync(join(root, 'dist/test', name, '**/*.test.js')).sort();
      const tally: Tally = { passed: 0, failed: 0 };
      const next = async (): Promise<void> => {
        for (let file = files.shift(); file !== undefined; file = files.shift()) {
          const result = await tapFile(file);
          tally.passed += result.passed;
          tally.failed += result.failed;
        }
      };
      await Promise.all(Array.from({ length: parallel }, next));
      return tally;
    },
  };
}

/** Counts top-level tests. A file that crashes, hangs or plans wrongly has one failure more. */
async function tapFile(file: string): Promise<Tally> {
  const label = relative(join(root, 'dist'), file);
  const tally: Tally = { passed: 0, failed: 0 };
  let output = '';
  const parser = new Parser();
  parser.on('assert', ({ ok, skip, todo }) => {
    if (skip || todo) return;
    if (ok) tally.passed += 1;
    else tally.failed += 1;
  });
  const done = new Promise<boolean>((resolve) => parser.on('complete', ({ ok }) => resolve(ok)));
  const started = Date.now();
  const code = await runProcess(process.execPath, ['--enable-source-maps', file], (chunk) => {
    output += chunk;
    parser.write(chunk);
  });
  await endLabs();
  parser.end();
  if ((!(await done) || code !== 0) && tally.failed === 0) tally.failed += 1;
  console.log(
    `${tally.failed > 0 ? 'FAILED' : 'ok'} ${label} (${tally.passed}/${tally.passed + tally.failed}, ${Date.now() - started} ms)`,
  );
  if (tally.failed > 0) console.log(output.slice(-MAX_OUTPUT));
  return tally;
}

async function rust(): Promise<Tally> {
  let output = '';
  const code = await runProcess(
    'cargo',
    ['test', '--workspace', '--quiet'],
    (chunk) => {
      output += chunk;
    },
    'native',
  );
  const tally: Tally = { passed: 0, failed: 0 };
  for (const [, passed, failed] of output.matchAll(/^test result: \w+\. (\d+) passed; (\d+) failed/gm)) {
    tally.passed += Number(passed);
    tally.failed += Number(failed);
  }
  if (code !== 0 && tally.failed === 0) tally.failed = 1;
  if (tally.failed > 0) console.log(output.slice(-MAX_OUTPUT));
  return tally;
}

/** Formatter and linter of both languages, one verdict each. */
async function lint(): Promise<Tally> {
  const tally: Tally = { passed: 0, failed: 0 };
  const checks: [string, string[], string][] = [
    [join(root, 'node_modules/.bin/biome'), ['check', '.'], '.'],
    ['cargo', ['fmt', '--check'], 'native'],
    ['cargo', ['clippy', '--workspace', '--all-targets', '--quiet', '--', '-D', 'warnings'], 'native'],
  ];
  for (const [command, args, directory] of checks) {
    let output = '';
    const code = await runProcess(
      command,
      args,
      (chunk) => {
        output += chunk;
      },
      directory,
    );
    if (code === 0) tally.passed += 1;
    else {
      tally.failed += 1;
      console.log(`FAILED ${command} ${args.join(' ')}\n${output.slice(-MAX_OUTPUT)}`);
    }
  }
  return tally;
}

/** Takes down the labs of this run, and of runs that are dead: a test that crashed could not. */
async function endLabs(): Promise<void> {
  if (!existsSync(LABS)) return;
  for (const name of readdirSync(LABS)) {
    const pid = Number(/-run(\d+)$/.exec(name)?.[1] ?? 0);
    if (pid === 0 || (pid !== process.pid && existsSync(`/proc/${pid}`))) continue;
    await runProcess(join(root, 'bin/meltemi'), ['lab', 'down', '--name', name], () => {});
  }
}

/** The same for clusters, at the end of a suite: its files share one. */
async function endClusters(): Promise<void> {
  for (const name of clusterNames()) {
    const pid = Number(/-run(\d+)$/.exec(name)?.[1] ?? 0);
    if (pid === 0 || (pid !== process.pid && existsSync(`/proc/${pid}`))) continue;
    await takeDown(name);
  }
}

function runProcess(
  command: string,
  args: string[],
  onOutput: (chunk: string) => void,
  directory = '.',
): Promise<number> {
  return new Promise((resolve) => {
    const child = spawn(command, args, { cwd: join(root, directory), stdio: ['ignore', 'pipe', 'pipe'] });
    children.add(child);
    const timer = setTimeout(() => {
      onOutput(`\n# still running after ${FILE_TIMEOUT_MS / 1000} s: killed\n`);
      child.kill('SIGKILL');
    }, FILE_TIMEOUT_MS);
    child.stdout.setEncoding('utf8').on('data', onOutput);
    child.stderr
      .setEncoding('utf8')
      .on('data', (chunk: string) => onOutput(chunk.replaceAll(/^(?=ok|not ok|1\.\.)/gm, '# ')));
    child.on('error', (error) => onOutput(`# ${error.message}\n`));
    child.on('close', (code) => {
      clearTimeout(timer);
      children.delete(child);
      resolve(code ?? 1);
    });
  });
}
