import { canonicalIp } from '../../lib/ip.js';
import { err, ok, type Result } from '../../lib/result.js';

/** What the plugin tells (`native/cni/src/verbs.rs`). */
export interface CniRequest {
  readonly containerId: string;
  readonly namespace: string;
  readonly name: string;
  /** Of the pod object; empty when the runtime does not tell. */
  readonly uid: string;
  /** Path of the network namespace on the node. */
  readonly netns: string;
  /** Canonical addresses. */
  readonly ips: readonly string[];
  /** How long the plugin is going to wait. */
  readonly waitMs: number;
}

/** Error: what is wrong with the body, as a sentence. Unknown fields are those of a newer plugin. */
export function parseCniRequest(text: string): Result<CniRequest> {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    return err('the request is no JSON');
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return err('the request is no object');
  const { ips = [], waitMs = 0, ...fields } = value as Readonly<Record<string, unknown>>;
  for (const name of TEXTS) {
    const text = fields[name] ?? '';
    if (typeof text !== 'string' || text.length > MAX_TEXT) return err(`the request's ${name} is no good`);
  }
  const texts = fields as Readonly<Record<(typeof TEXTS)[number], string | undefined>>;
  const { containerId = '', namespace = '', name = '', uid = '', netns = '' } = texts;
  if (containerId === '' || namespace === '' || name === '') return err('the request names no pod');
  if (netns !== '' && !netns.startsWith('/')) return err(`the request's netns ${JSON.stringify(netns)} is no path`);
  if (typeof waitMs !== 'number' || !(waitMs >= 0)) return err("the request's waitMs is no good");
  if (!Array.isArray(ips) || ips.length > MAX_IPS) return err("the request's ips are no list of addresses");
  const canonical = ips.map((ip) => (typeof ip === 'string' ? canonicalIp(ip) : undefined));
  const bad = canonical.indexOf(undefined);
  if (bad >= 0) return err(`the request names ${JSON.stringify(ips[bad])}, which is no address`);
  return ok({
    containerId,
    namespace,
    name,
    uid,
    netns,
    ips: canonical.filter((ip) => ip !== undefined),
    waitMs: Math.min(waitMs, MAX_WAIT_MS),
  });
}

const TEXTS = ['containerId', 'namespace', 'name', 'uid', 'netns'] as const;
const MAX_TEXT = 4096;
const MAX_IPS = 16;
/** As long as a plugin may be configured to wait. */
const MAX_WAIT_MS = 200_000;
