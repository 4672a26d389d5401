import { createServer, type IncomingMessage, type Server } from 'node:http';
import { type KubeObject, kindOf, objectTitle, parseObjects } from './objects.js';
import type { LabPod } from './pod.js';
import type { Supervisor } from './supervisor.js';

/** A text with objects, and where it came from, for messages. */
export interface Source {
  readonly name: string;
  readonly text: string;
}

export interface ChangeReport {
  /** One line each: `Pod shop/web created`. */
  readonly done: readonly string[];
  readonly problems: readonly string[];
}

export interface LabelRequest {
  readonly kind: string;
  readonly namespace: string | null;
  readonly name: string;
  /** Null takes a label away. */
  readonly changes: Readonly<Record<string, string | null>>;
}

export interface DaemonRequest {
  /** `control-plane` or the name of a node. */
  readonly name: string;
  readonly action: 'restart' | 'stop' | 'start';
  /** SIGKILL instead of SIGTERM. */
  readonly kill: boolean;
}

export interface ExecRequest {
  /** `POD`, `POD.NAMESPACE`, `node/NODE` or `fabric`. */
  readonly target: string;
  readonly container: string | null;
  readonly argv: readonly string[];
}

/** The lab's own interface: JSON over HTTP on its Unix socket, one operation a path. A refusal is `{ error }`. */
export function serveApi(supervisor: Supervisor, socket: string, onDown: () => void): Server {
  const server = createServer((request, response) => {
    const { pathname, searchParams } = new URL(request.url ?? '/', 'http://lab');
    const operation = OPERATIONS[pathname];
    const reply = (status: number, value: unknown): void => {
      response.writeHead(status, { 'content-type': 'application/json' }).end(JSON.stringify(value));
    };
    if (operation === undefined) {
      reply(404, { error: `the lab knows no ${pathname}` });
      return;
    }
    readBody(request)
      .then((body) => operation(supervisor, body, searchParams))
      .then(
        (value) => {
          reply(200, value ?? {});
          if (pathname === '/down') response.once('close', onDown);
        },
        (error: unknown) => reply(400, { error: error instanceof Error ? error.message : String(error) }),
      );
  });
  server.requestTimeout = 0;
  return server.listen(socket);
}

type Operation = (supervisor: Supervisor, body: unknown, query: URLSearchParams) => unknown;

const OPERATIONS: Readonly<Record<string, Operation>> = {
  '/status': async (supervisor, _body, query) => {
    const after = query.get('after');
    if (after !== null) await supervisor.until(() => supervisor.version > Number(after));
    return supervisor.status();
  },
  '/ready': async (supervisor) => {
    await supervisor.until(() => supervisor.mesh?.ready !== false);
    return supervisor.status();
  },
  '/apply': (supervisor, body) => changeObjects(supervisor, body as Source[], applyOne),
  '/delete': (supervisor, body) => changeObjects(supervisor, body as Source[], deleteOne),
  '/label': (supervisor, body) => label(supervisor, body as LabelRequest),
  '/daemon': (supervisor, body) => changeDaemon(supervisor, body as DaemonRequest),
  '/exec': (supervisor, body) => ({ argv: execCommand(supervisor, body as ExecRequest) }),
  '/pod': (supervisor, body) => {
    const { object, start } = findPod(supervisor, (body as { target: string }).target);
    return { name: object.metadata.name, namespace: object.metadata.namespace, log: start.log };
  },
  '/down': async (supervisor) => await supervisor.stop(),
};

function changeObjects(
  supervisor: Supervisor,
  sources: readonly Source[],
  change: (supervisor: Supervisor, object: KubeObject) => { done: string } | { problem: string },
): ChangeReport {
  const done: string[] = [];
  const problems: string[] = [];
  for (const { name, text } of sources) {
    const parsed = parseObjects(text, name);
    problems.push(...parsed.problems);
    for (const object of parsed.objects) {
      const outcome = change(supervisor, object);
      if ('done' in outcome) done.push(outcome.done);
      else problems.push(`${name}: ${outcome.problem}`);
    }
  }
  supervisor.touch();
  return { done, problems };
}

function applyOne(supervisor: Supervisor, object: KubeObject): { done: string } | { problem: string } {
  const applied = supervisor.store.apply(object);
  return applied.ok ? { done: `${objectTitle(object)} ${applied.value}` } : { problem: applied.error };
}

function deleteOne(supervisor: Supervisor, object: KubeObject): { done: string } | { problem: string } {
  return supervisor.store.delete(object)
    ? { done: `${objectTitle(object)} deleted` }
    : { problem: `${objectTitle(object)}: there is none` };
}

function label(supervisor: Supervisor, { kind, name, namespace, changes }: LabelRequest): ChangeReport {
  const object = supervisor.store.find(kind, namespace ?? 'default', name);
  if (object !== undefined) {
    supervisor.store.label(object, changes);
    supervisor.touch();
    return { done: [`${objectTitle(object)} labelled`], problems: [] };
  }
  const pod = kindOf(kind) === 'Pod' ? supervisor.pods.find(name, namespace ?? undefined) : undefined;
  if (pod === undefined)
    throw new Error(`${kind} ${namespace === null ? '' : `${namespace}/`}${name}: there is none in this lab`);
  supervisor.labelPod(pod, changes);
  return { done: [`Pod ${pod.key} labelled`], problems: [] };
}

async function changeDaemon(supervisor: Supervisor, { name, action, kill }: DaemonRequest): Promise<ChangeReport> {
  if (supervisor.mesh === undefined) throw new Error('this lab has no mesh (it was started with --no-mesh)');
  const daemon = supervisor.mesh.daemon(name);
  if (daemon === undefined) throw new Error(`there is neither a control plane nor a node of the name ${name}`);
  if (action === 'restart') await daemon.restart(kill, DAEMON_GRACE_MS);
  else if (action === 'stop') await daemon.stop(kill ? 0 : DAEMON_GRACE_MS);
  else if (daemon.pid === undefined) daemon.run();
  return { done: [`${daemon.start.name}: ${action}`], problems: [] };
}

function execCommand(supervisor: Supervisor, { target, container, argv }: ExecRequest): readonly string[] {
  if (argv.length === 0) throw new Error('there is no command to run: put it after --');
  const { nodes, fabric } = supervisor.status();
  const node = target.startsWith('node/') ? nodes.find(({ name }) => name === target.slice('node/'.length)) : undefined;
  const netns = target === 'fabric' ? fabric.netns : node?.netns;
  if (netns !== undefined) return ['nsenter', `--net=${netns}`, '--', ...argv];
  const pod = findPod(supervisor, target);
  const command = pod.exec(argv, container ?? undefined);
  if (command === undefined)
    throw new Error(
      `pod ${pod.key} has no running container${container === null ? '' : ` ${container}`}: ${pod.message}`,
    );
  return command;
}

/** `POD` or `POD.NAMESPACE`; a name may hold dots, so the longest name that exists wins. */
function findPod(supervisor: Supervisor, target: string): LabPod {
  const dot = target.lastIndexOf('.');
  const found =
    supervisor.pods.find(target, undefined) ??
    (dot > 0 ? supervisor.pods.find(target.slice(0, dot), target.slice(dot + 1)) : undefined);
  if (found !== undefined) return found;
  const names = supervisor.pods.list().map(({ object }) => `${object.metadata.name}.${object.metadata.namespace}`);
  throw new Error(
    `there is no pod ${target}${names.length === 0 ? '; there are none at all' : `; there are ${names.slice(0, 20).join(', ')}`}`,
  );
}

async function readBody(request: IncomingMessage): Promise<unknown> {
  const chunks: Buffer[] = [];
  let size = 0;
  for await (const chunk of request as AsyncIterable<Buffer>) {
    size += chunk.length;
    if (size > MAX_BODY_BYTES) throw new Error(`more than ${MAX_BODY_BYTES} bytes at once`);
    chunks.push(chunk);
  }
  return size === 0 ? undefined : JSON.parse(Buffer.concat(chunks).toString('utf8'));
}

const MAX_BODY_BYTES = 256 * 1024 * 1024;
/** An agent drains for 5 s. */
const DAEMON_GRACE_MS = 8000;
