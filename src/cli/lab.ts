import { spawn } from 'node:child_process';
import { constants } from 'node:os';
import { type Command, InvalidArgumentError, Option } from 'commander';
import type { ChangeReport } from '../lab/api.js';
import { LabClient } from '../lab/client.js';
import { isAlive, LabLayout, labNames, readLabFile } from '../lab/layout.js';
import type { LabStatus } from '../lab/status.js';
import { formatStatus } from './lab-status.js';
import { readSources } from './sources.js';

/** `meltemi lab …`: a mesh on one Linux machine. */
export function registerLab(program: Command): void {
  const lab = program
    .command('lab')
    .description('A mesh on one Linux machine: nodes and pods are network namespaces, containers real processes.');

  named(lab.command('up'))
    .description('start a lab in the background and wait until it is ready')
    .option(
      '-f, --filename <path>',
      'apply these objects, and wait until their pods are ready (repeatable)',
      collect,
      [],
    )
    .option('--nodes <count>', 'how many nodes', count, 2)
    .option('--mtu <bytes>', 'of all links', count, 1500)
    .option('--no-mesh', 'without agents and control plane')
    .option('--timeout <seconds>', 'how long to wait', count, 60)
    .action(up);

  named(lab.command('apply'))
    .description('create or change objects; a bad one is named and the rest applied')
    .requiredOption('-f, --filename <path>', 'file, directory, or - for standard input (repeatable)', collect, [])
    .action(async ({ name, filename }: NameOption & FileOption) =>
      report(await new LabClient(name).apply(await readSources(filename))),
    );

  named(lab.command('delete'))
    .description('remove objects')
    .requiredOption('-f, --filename <path>', 'file, directory, or - for standard input (repeatable)', collect, [])
    .action(async ({ name, filename }: NameOption & FileOption) =>
      report(await new LabClient(name).delete(await readSources(filename))),
    );

  named(lab.command('label'))
    .description('change labels: meltemi lab label namespace shop istio.io/dataplane-mode=ambient')
    .argument('<kind>')
    .argument('<object>')
    .argument('<change...>', 'KEY=VALUE sets, KEY- removes')
    .option('-n, --namespace <namespace>', 'of the object')
    .action(label);

  named(lab.command('exec'))
    .description('run a command in a pod, on a node (node/node-1), or in the fabric (fabric)')
    .argument('<pod>', 'POD or POD.NAMESPACE')
    .argument('<command...>', 'after --')
    .option('-i, --stdin', 'pass standard input on')
    .option('-c, --container <name>', 'of the pod; the first by default')
    .action(exec);

  named(lab.command('logs'))
    .description('what the processes of a pod wrote')
    .argument('<pod>', 'POD, POD.NAMESPACE, node/NODE or control-plane')
    .option('-f, --follow', 'go on')
    .action(logs);

  named(lab.command('status'))
    .description('nodes and pods: namespaces, addresses, pids, readiness, redirection')
    .option('--json', 'for programs')
    .action(async ({ name, json }: NameOption & { json?: boolean }) => {
      const status = await new LabClient(name).status();
      console.log(json === true ? JSON.stringify(status, undefined, 2) : formatStatus(status));
    });

  lab
    .command('list')
    .description('the names of all labs')
    .action(() => {
      for (const name of labNames()) {
        console.log(
          isAlive(readLabFile(new LabLayout(name)))
            ? name
            : `${name} (dead; meltemi lab down --name ${name} removes the rest)`,
        );
      }
    });

  named(lab.command('down')).description('end a lab and remove all of it').option('--all', 'every lab').action(down);

  for (const action of ['restart', 'stop', 'start'] as const) {
    named(lab.command(action))
      .description(`${action} a part of the mesh, for trying out faults: control-plane, or agent NODE`)
      .argument('<part>', 'control-plane or agent')
      .argument('[node]')
      .option('--kill', 'SIGKILL instead of SIGTERM')
      .action(async (part: string, node: string | undefined, { name, kill }: NameOption & { kill?: boolean }) => {
        if (part !== 'control-plane' && node === undefined) throw new Error('which agent? Say: agent NODE');
        report(
          await new LabClient(name).daemon({
            name: part === 'control-plane' ? part : (node ?? ''),
            action,
            kill: kill === true,
          }),
        );
      });
  }

  lab
    .command('supervise', { hidden: true })
    .requiredOption('--name <name>')
    .requiredOption('--nodes <count>', '', count)
    .requiredOption('--mtu <bytes>', '', count)
    .requiredOption('--marker <marker>')
    .option('--no-mesh')
    .action(async (options) => (await import('../lab/main.js')).supervise(options));
}

interface NameOption {
  readonly name: string;
}

interface FileOption {
  readonly filename: readonly string[];
}

interface UpOptions extends NameOption, FileOption {
  readonly nodes: number;
  readonly mtu: number;
  readonly mesh: boolean;
  readonly timeout: number;
}

async function up({ name, nodes, mtu, mesh, filename, timeout }: UpOptions): Promise<void> {
  const { startLab } = await import('../lab/up.js');
  const sources = await readSources(filename);
  const began = Date.now();
  const program = [process.execPath, ...process.execArgv, process.argv[1] ?? ''];
  const client = await startLab({ name, nodes, mtu, mesh, program });
  await within(timeout, 'the mesh is ready', client, (signal) => client.ready(signal));
  if (sources.length > 0) {
    report(await client.apply(sources));
    await within(timeout, 'every pod is ready', client, (signal) => podsReady(client, signal));
  }
  const { pods } = await client.status();
  console.log(
    `lab ${name} is up after ${((Date.now() - began) / 1000).toFixed(1)} s: ${nodes} nodes, ${pods.length} pods`,
  );
}

async function podsReady(client: LabClient, signal: AbortSignal): Promise<LabStatus> {
  for (let status = await client.status(); ; status = await client.status(status.version, signal)) {
    if (status.pods.every(({ ready, phase }) => ready || phase === 'Succeeded')) return status;
  }
}

/** The lab stays up when the time is over: its state is what one wants to look at then. */
async function within(
  seconds: number,
  what: string,
  client: LabClient,
  wait: (signal: AbortSignal) => Promise<unknown>,
): Promise<void> {
  const signal = AbortSignal.timeout(seconds * 1000);
  try {
    await wait(signal);
  } catch (error) {
    if (!signal.aborted) throw error;
    const status = await client.status();
    throw new Error(`not within ${seconds} s: ${what}\n${formatStatus(status)}\nlogs are in ${status.directory}`, {
      cause: error,
    });
  }
}

async function label(
  kind: string,
  object: string,
  changes: readonly string[],
  { name, namespace }: NameOption & { namespace?: string },
): Promise<void> {
  const parsed = changes.map((change): readonly [string, string | null] => {
    const set = /^([^=]+)=(.*)$/.exec(change);
    if (set !== null) return [set[1] ?? '', set[2] ?? ''];
    if (change.endsWith('-') && change.length > 1) return [change.slice(0, -1), null];
    throw new Error(`"${change}" is neither KEY=VALUE nor KEY-`);
  });
  report(
    await new LabClient(name).label({
      kind,
      name: object,
      namespace: namespace ?? null,
      changes: Object.fromEntries(parsed),
    }),
  );
}

async function exec(
  pod: string,
  command: readonly string[],
  { name, stdin, container }: NameOption & { stdin?: boolean; container?: string },
): Promise<void> {
  const [program = '', ...args] = await new LabClient(name).execArgv({
    target: pod,
    container: container ?? null,
    argv: command,
  });
  await follow(program, args, stdin === true);
}

async function logs(target: string, { name, follow: goOn }: NameOption & { follow?: boolean }): Promise<void> {
  const client = new LabClient(name);
  const status = await client.status();
  const node = status.nodes.find((each) => `node/${each.name}` === target);
  const path = target === 'control-plane' ? status.controlPlane?.log : (node?.log ?? (await client.podLog(target)));
  if (path === undefined) throw new Error('this lab has no control plane');
  await follow('tail', ['-n', '+1', ...(goOn === true ? ['-F'] : []), path], false);
}

async function down({ name, all }: NameOption & { all?: boolean }): Promise<void> {
  const { takeDown } = await import('../lab/up.js');
  const names = all === true ? labNames() : [name];
  const gone = await Promise.all(
    names.map(async (each) => ((await takeDown(each)) ? `lab ${each} is gone` : `there is no lab ${each}`)),
  );
  if (gone.length > 0) console.log(gone.join('\n'));
}

/** Runs a program in place of this one: its streams, its exit code; signals that end us end it. */
async function follow(program: string, args: readonly string[], stdin: boolean): Promise<void> {
  const child = spawn(program, args, { stdio: [stdin ? 'inherit' : 'ignore', 'inherit', 'inherit'] });
  for (const signal of ['SIGTERM', 'SIGHUP', 'SIGINT'] as const) process.on(signal, () => child.kill('SIGTERM'));
  process.exitCode = await new Promise<number>((resolve, reject) => {
    child.once('error', reject);
    child.once('exit', (code, signal) => resolve(code ?? 128 + constants.signals[signal ?? 'SIGTERM']));
  });
}

function report({ done, problems }: ChangeReport): void {
  for (const line of done) console.log(line);
  for (const problem of problems) console.error(`error: ${problem}`);
  if (problems.length > 0) process.exitCode = 1;
}

function named(command: Command): Command {
  return command.addOption(new Option('--name <name>', 'of the lab').default('default'));
}

function collect(value: string, former: readonly string[]): readonly string[] {
  return [...former, value];
}

function count(value: string): number {
  const number = Number(value);
  if (!Number.isInteger(number) || number < 1) throw new InvalidArgumentError('expected a whole number from 1.');
  return number;
}
