import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { createInterface } from 'node:readline';
import type { TestCluster } from './suite.js';

/** A pod's ports on this machine's loopback, also where pods cannot be reached otherwise. */
export interface PortForward extends AsyncDisposable {
  /** Where one of the ports is. */
  at(port: number): string;
}

/** Resolves when all of them are there; rejects with what kubectl says. */
export async function forwardPorts(
  cluster: TestCluster,
  namespace: string,
  pod: string,
  ports: readonly number[],
): Promise<PortForward> {
  const args = ['port-forward', '-n', namespace, `pod/${pod}`, ...ports.map((port) => `:${port}`)];
  const [file = '', ...rest] = cluster.kubectlCommand(args);
  const child = spawn(file, rest, { stdio: ['ignore', 'pipe', 'pipe'] });
  let problem = '';
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    problem += text;
  });
  const found = new Map<number, string>();
  for await (const line of createInterface({ input: child.stdout })) {
    const [, local, port] = /^Forwarding from 127\.0\.0\.1:(\d+) -> (\d+)$/.exec(line) ?? [];
    if (port !== undefined) found.set(Number(port), `127.0.0.1:${local}`);
    if (found.size === ports.length) break;
  }
  if (found.size < ports.length) throw new Error(`ports of ${pod} cannot be forwarded: ${problem.trim()}`);
  child.stdout.resume();
  return {
    at: (port) => found.get(port) ?? '',
    async [Symbol.asyncDispose]() {
      if (child.exitCode !== null || child.signalCode !== null) return;
      const ended = once(child, 'exit');
      child.kill();
      await ended;
    },
  };
}
