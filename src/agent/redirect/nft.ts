import { access } from 'node:fs/promises';
import { type Run, run } from '../../lib/command.js';
import { err, ok, type Result } from '../../lib/result.js';
import type { NetnsTools, PodRouting } from '../dataplane/netns.js';
import { DEFAULT_REDIRECT_PORTS, type RedirectedPod, type Redirector, type RedirectPorts } from './redirector.js';
import { captureRuleset, releaseRuleset, removalRuleset, TABLE } from './ruleset.js';

export interface NftRedirectorOptions {
  tools: Pick<NetnsTools, 'addRouting' | 'removeRouting' | 'ensureRouting'>;
  ports?: RedirectPorts;
  run?: Run;
}

/** Redirection by `nft`, started inside the pod's namespace by `nsenter`; policy routing by netlink. */
export class NftRedirector implements Redirector {
  readonly #tools: NftRedirectorOptions['tools'];
  readonly #ports: RedirectPorts;
  readonly #run: Run;
  /** What `nft list` showed right after the last apply, by path of the namespace. */
  readonly #applied = new Map<string, string>();

  constructor(options: NftRedirectorOptions) {
    this.#tools = options.tools;
    this.#ports = options.ports ?? DEFAULT_REDIRECT_PORTS;
    this.#run = options.run ?? run;
  }

  async apply(pod: RedirectedPod): Promise<Result<void>> {
    // Routing first: with rules but no routes, replies to a peer would leave the pod in plaintext.
    const routed = this.#tools.addRouting(pod.netns, routingOf(pod));
    if (!routed.ok) return err(`pod ${pod.name}: policy routing cannot be set: ${routed.error}`);
    const set = await this.#nft(pod, ['-f', '-'], captureRuleset(pod, this.#ports));
    if (!set.ok) return err(`pod ${pod.name}: redirection cannot be set: ${set.error}`);
    const listed = await this.#nft(pod, LIST);
    if (!listed.ok) return err(`pod ${pod.name}: redirection cannot be read back: ${listed.error}`);
    this.#applied.set(pod.netns, listed.value);
    return ok(undefined);
  }

  async release(pod: RedirectedPod): Promise<Result<void>> {
    this.#applied.delete(pod.netns);
    if (await isGone(pod.netns)) return ok(undefined);
    const set = await this.#nft(pod, ['-f', '-'], releaseRuleset());
    return set.ok ? ok(undefined) : err(`pod ${pod.name}: redirection cannot be released: ${set.error}`);
  }

  async remove(pod: RedirectedPod): Promise<Result<void>> {
    this.#applied.delete(pod.netns);
    if (await isGone(pod.netns)) return ok(undefined);
    const removed = await this.#nft(pod, ['-f', '-'], removalRuleset());
    if (!removed.ok) return err(`pod ${pod.name}: redirection cannot be removed: ${removed.error}`);
    const unrouted = this.#tools.removeRouting(pod.netns, routingOf(pod));
    return unrouted.ok ? ok(undefined) : err(`pod ${pod.name}: policy routing cannot be removed: ${unrouted.error}`);
  }

  async audit(pod: RedirectedPod): Promise<Result<readonly string[]>> {
    const wanted = this.#applied.get(pod.netns);
    if (wanted === undefined) return ok([`pod ${pod.name}: redirection was not set by this agent yet`]);
    const routing = this.#tools.ensureRouting(pod.netns, routingOf(pod));
    if (!routing.ok) return err(`pod ${pod.name}: policy routing cannot be looked after: ${routing.error}`);
    const unrouted = routing.missing ? [`pod ${pod.name}: policy routing was gone; it is back`] : [];
    const tables = await this.#nft(pod, ['list', 'tables', 'inet']);
    if (!tables.ok) return err(`pod ${pod.name}: redirection cannot be read: ${tables.error}`);
    if (!tables.value.split('\n').includes(`table inet ${TABLE}`)) {
      return ok([`pod ${pod.name}: the table inet ${TABLE} is gone`, ...unrouted]);
    }
    const listed = await this.#nft(pod, LIST);
    if (!listed.ok) return err(`pod ${pod.name}: redirection cannot be read: ${listed.error}`);
    return ok([...differences(wanted, listed.value).map((line) => `pod ${pod.name}: ${line}`), ...unrouted]);
  }

  #nft(pod: RedirectedPod, args: readonly string[], input = ''): Promise<Result<string>> {
    return this.#run('nsenter', [`--net=${pod.netns}`, 'nft', ...args], { input });
  }
}

function differences(wanted: string, found: string): readonly string[] {
  const [before, after] = [wanted, found].map((text) => text.split('\n').map((line) => line.trim())) as [
    string[],
    string[],
  ];
  const missing = before.filter((line) => !after.includes(line)).map((line) => `missing: ${line}`);
  const foreign = after.filter((line) => !before.includes(line)).map((line) => `not ours: ${line}`);
  if (missing.length + foreign.length > 0) return [...missing, ...foreign];
  return wanted === found ? [] : ['the rules are in another order'];
}

async function isGone(path: string): Promise<boolean> {
  return await access(path).then(
    () => false,
    () => true,
  );
}

function routingOf(pod: RedirectedPod): PodRouting {
  return { mark: 0x111, mask: 0xfff, table: 100, priority: 32764, ipv6: pod.ipv6 };
}

const LIST: readonly string[] = ['list', 'table', 'inet', TABLE];
