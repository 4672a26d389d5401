import { request } from 'node:http';
import { connect } from 'node:net';
import type { Clock } from '../lib/clock.js';
import { run } from '../lib/command.js';
import { isIpv6 } from '../lib/ip.js';
import { PROBE_SOURCE } from './addresses.js';
import type { Probe } from './pod-plan.js';

export interface ReadinessTarget {
  readonly probe: Probe;
  /** The pod's address. */
  readonly ip: string;
  /** Wraps a command so that it runs in the container. */
  exec(argv: readonly string[]): readonly string[] | undefined;
}

/** Probes a container until `stop`; `onChange` is told when it becomes ready or ceases to be. */
export class Readiness {
  ready = false;
  #stopped = false;
  #successes = 0;
  #failures = 0;
  #cancel: () => void;

  constructor(
    readonly target: ReadinessTarget,
    readonly clock: Clock,
    readonly onChange: () => void,
  ) {
    this.#cancel = clock.schedule(target.probe.initialDelayMs, () => void this.#round());
  }

  stop(): void {
    this.#stopped = true;
    this.#cancel();
  }

  async #round(): Promise<void> {
    const { probe } = this.target;
    const success = await attempt(this.target);
    if (this.#stopped) return;
    this.#successes = success ? this.#successes + 1 : 0;
    this.#failures = success ? 0 : this.#failures + 1;
    const ready = this.ready ? this.#failures < probe.failureThreshold : this.#successes >= probe.successThreshold;
    if (ready !== this.ready) {
      this.ready = ready;
      this.onChange();
    }
    // While it is not ready somebody waits for it.
    const period = ready ? probe.periodMs : Math.min(probe.periodMs, EAGER_PERIOD_MS);
    this.#cancel = this.clock.schedule(period, () => void this.#round());
  }
}

async function attempt({ probe, ip, exec }: ReadinessTarget): Promise<boolean> {
  const { check, timeoutMs } = probe;
  switch (check.type) {
    case 'tcp':
      return await tcpConnects(ip, check.port, timeoutMs);
    case 'http':
      return await httpAnswers(ip, check.port, check.path, check.headers, timeoutMs);
    case 'exec': {
      const [command, ...args] = exec(check.argv) ?? [];
      return command !== undefined && (await run(command, args, { timeoutMs })).ok;
    }
  }
}

function tcpConnects(host: string, port: number, timeoutMs: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect({ host, port, localAddress: probeSource(host) });
    const end = (success: boolean) => () => {
      socket.destroy();
      resolve(success);
    };
    socket.setTimeout(timeoutMs, end(false));
    socket.once('connect', end(true));
    socket.once('error', end(false));
  });
}

function httpAnswers(
  host: string,
  port: number,
  path: string,
  headers: Readonly<Record<string, string>>,
  timeoutMs: number,
): Promise<boolean> {
  return new Promise((resolve) => {
    const asked = request(
      { host, port, path, headers, localAddress: probeSource(host), timeout: timeoutMs, agent: false },
      (response) => {
        response.resume();
        const status = response.statusCode ?? 0;
        resolve(status >= 200 && status < 400);
        asked.destroy();
      },
    );
    asked.once('timeout', () => asked.destroy(new Error('timeout')));
    asked.once('error', () => resolve(false));
    asked.end();
  });
}

function probeSource(ip: string): string {
  return isIpv6(ip) ? PROBE_SOURCE.ipv6 : PROBE_SOURCE.ipv4;
}

const EAGER_PERIOD_MS = 200;
