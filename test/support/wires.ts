/** Network namespaces joined by links, and who reaches whom in them. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { run } from '../../src/lib/command.js';

/** A network namespace that lasts as long as a process of ours. */
export class Netns {
  readonly #holder: ChildProcess;

  private constructor(holder: ChildProcess) {
    this.#holder = holder;
  }

  static async create(): Promise<Netns> {
    const script = `${NO_DAD}; ip link set lo up; echo; exec sleep infinity`;
    const holder = spawn('unshare', ['--net', '--', 'sh', '-c', script], { stdio: ['ignore', 'pipe', 'inherit'] });
    if (holder.stdout !== null) await once(holder.stdout, 'data');
    return new Netns(holder);
  }

  get pid(): number {
    return this.#holder.pid ?? 0;
  }

  get path(): string {
    return `/proc/${this.pid}/ns/net`;
  }

  /** Runs a shell script inside; throws with what it said. */
  async run(script: string): Promise<string> {
    const result = await run('nsenter', [`--net=${this.path}`, '--', 'sh', '-ec', script]);
    if (!result.ok) throw new Error(result.error);
    return result.value;
  }

  spawn(command: string, args: readonly string[]): ChildProcess {
    return spawn('nsenter', [`--net=${this.path}`, '--', command, ...args], { stdio: ['pipe', 'pipe', 'inherit'] });
  }

  async remove(): Promise<void> {
    if (this.#holder.exitCode !== null || this.#holder.signalCode !== null) return;
    const gone = once(this.#holder, 'exit');
    this.#holder.kill('SIGKILL');
    await gone;
  }
}

/** A link from `a` (as `nameInA`) to `b` (as `nameInB`). */
export async function link(a: Netns, nameInA: string, b: Netns, nameInB: string): Promise<void> {
  await a.run(
    `ip link add ${nameInA} type veth peer name ${nameInB} netns ${b.pid}; ip link set ${nameInA} up;
     nsenter --net=${b.path} ip link set ${nameInB} up`,
  );
}

/** Servers in a namespace that answer each connection with `PORT ADDRESS-OF-PEER`. */
export class Answering implements AsyncDisposable {
  private constructor(readonly child: ChildProcess) {}

  static async in(netns: Netns, ports: readonly number[]): Promise<Answering> {
    const child = netns.spawn(process.execPath, ['-e', ANSWER, ...ports.map(String)]);
    if (child.stdout !== null) await once(child.stdout, 'data');
    return new Answering(child);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const gone = once(this.child, 'exit');
    this.child.kill('SIGKILL');
    await gone;
  }
}

/** What a connection from `netns` to `ip:port` came to: what it was told, or `refused`, `timeout`. */
export async function dial(
  netns: Netns,
  ip: string,
  port: number,
  options: { readonly source?: string; readonly mark?: number; readonly timeoutMs?: number } = {},
): Promise<string> {
  const { source = '', mark = 0, timeoutMs = 3000 } = options;
  const args = ['-c', DIAL, ip, String(port), source, String(mark), String(timeoutMs / 1000)];
  const result = await run('nsenter', [`--net=${netns.path}`, '--', 'python3', ...args]);
  if (!result.ok) throw new Error(result.error);
  return result.value;
}

const NO_DAD = 'echo 0 > /proc/sys/net/ipv6/conf/default/accept_dad; echo 0 > /proc/sys/net/ipv6/conf/all/accept_dad';
const ANSWER = `const ports = process.argv.slice(1); let left = ports.length;
for (const port of ports) require('net').createServer((s) => { s.on('error', () => {});
s.end(port + ' ' + s.remoteAddress.replace('::ffff:', '')); }).listen(port, '::', () => --left || console.log('up'));`;
const DIAL = `
import socket, sys
ip, port, source, mark, timeout = sys.argv[1:]
s = socket.socket(socket.AF_INET6 if ":" in ip else socket.AF_INET, socket.SOCK_STREAM)
s.settimeout(float(timeout))
if int(mark): s.setsockopt(socket.SOL_SOCKET, 36, int(mark))
if source: s.bind((source, 0))
try:
    s.connect((ip, int(port)))
    print(s.recv(200).decode(), end="")
except ConnectionRefusedError: print("refused", end="")
except ConnectionResetError: print("reset", end="")
except TimeoutError: print("timeout", end="")
`;
