import { createHash } from 'node:crypto';
import { RpcError, StatusCode } from '../../grpc/status.js';
import { ApiError, type KubeApi } from '../../kube/api.js';
import { RESOURCES } from '../../kube/resources.js';
import { BoundedMap } from '../../lib/bounded-map.js';
import type { Clock } from '../../lib/clock.js';
import { err, ok, type Result } from '../../lib/result.js';
import type { Logger } from '../../telemetry/log.js';
import type { Counter, MetricsRegistry } from '../../telemetry/metrics.js';
import { unverifiedClaims } from './jwt.js';
import { isNodeName, parseServiceAccount } from './service-account.js';
import type { Principal, TokenVerifier } from './token-verifier.js';

export interface TokenReviewOptions {
  readonly api: Pick<KubeApi, 'create' | 'get'>;
  /** That tokens must be made for. */
  readonly audience: string;
  /** Of the identities that tokens stand for. */
  readonly trustDomain: string;
  readonly clock: Clock;
  readonly log: Logger;
  readonly metrics: MetricsRegistry;
}

/**
 * Believes what the API server believes of tokens of service accounts that are made for our audience. The node is that of
 * the pod that a token is bound to: a token that anybody may make for an account speaks for no node. Answers are
 * remembered for a short while; when there is none, nobody is refused: the caller is to come again (`UNAVAILABLE`).
 */
export class TokenReviewVerifier implements TokenVerifier {
  readonly #options: TokenReviewOptions;
  readonly #known = new BoundedMap<string, { readonly result: Result<Principal>; readonly untilMs: number }>(MAX_KNOWN);
  readonly #underWay = new Map<string, Promise<Result<Principal>>>();
  readonly #reviews: Counter;
  #lastTrouble = '';

  constructor(options: TokenReviewOptions) {
    this.#options = options;
    this.#reviews = options.metrics.counter('meltemi_token_reviews_total', 'Tokens that were judged.', ['result']);
  }

  async verify(token: string): Promise<Result<Principal>> {
    const key = createHash('sha256').update(token).digest('base64');
    const known = this.#known.use(key);
    if (known !== undefined && this.#options.clock.now() < known.untilMs) {
      this.#reviews.inc({ result: 'known' });
      return known.result;
    }
    const underWay = this.#underWay.get(key);
    if (underWay !== undefined) return underWay;
    if (this.#underWay.size >= MAX_UNDER_WAY) throw this.#unavailable(`${MAX_UNDER_WAY} are under way already`);
    const review = this.#review(token, key);
    this.#underWay.set(key, review);
    try {
      return await review;
    } finally {
      this.#underWay.delete(key);
    }
  }

  async #review(token: string, key: string): Promise<Result<Principal>> {
    let result: Result<Principal>;
    try {
      result = await this.#inTime(this.#ask(token));
    } catch (error) {
      throw this.#unavailable(error instanceof Error ? error.message : String(error));
    }
    this.#lastTrouble = '';
    this.#reviews.inc({ result: result.ok ? 'accepted' : 'refused' });
    const nowMs = this.#options.clock.now();
    const untilMs = result.ok ? Math.min(nowMs + ACCEPTED_MS, result.value.untilMs) : nowMs + REFUSED_MS;
    this.#known.set(key, { result, untilMs });
    return result;
  }

  async #ask(token: string): Promise<Result<Principal>> {
    const { api, audience, trustDomain, clock } = this.#options;
    const answer = await api.create(RESOURCES.TokenReview, {
      apiVersion: 'authentication.k8s.io/v1',
      kind: 'TokenReview',
      metadata: { name: '' },
      spec: { token, audiences: [audience] },
    });
    const status = record(answer.status);
    const user = record(status.user);
    if (status.authenticated !== true) return err(`the API server does not believe the token: ${quote(status.error)}`);
    // One that knows nothing of audiences leaves them out, and has not looked at them.
    if (!list(status.audiences).includes(audience)) {
      return err(`the token is for ${quote(status.audiences)}, not for ${quote(audience)}`);
    }
    const account = parseServiceAccount(typeof user.username === 'string' ? user.username : '');
    if (account === undefined) return err(`the token is that of ${quote(user.username)}, which is no service account`);
    const { exp } = unverifiedClaims(token) ?? {};
    const untilMs = typeof exp === 'number' ? exp * 1000 : clock.now() + UNKNOWN_LIFE_MS;
    if (untilMs <= clock.now()) return err(`the token ended at ${new Date(untilMs).toISOString()}`);
    const node = await this.#nodeOf(record(user.extra), account.namespace);
    if (!node.ok) return node;
    return ok({ identity: { trustDomain, ...account }, node: node.value, untilMs });
  }

  /** Of the pod that the token is bound to; undefined when it is bound to none. */
  async #nodeOf(extra: Readonly<Record<string, unknown>>, namespace: string): Promise<Result<string | undefined>> {
    const [name] = list(extra[`${PREFIX}pod-name`]);
    const [uid] = list(extra[`${PREFIX}pod-uid`]);
    if (name === undefined || uid === undefined) return ok(undefined);
    const [node] = list(extra[`${PREFIX}node-name`]);
    if (node !== undefined) return isNodeName(node) ? ok(node) : err(`the token’s node ${quote(node)} is no node name`);
    // API servers before 1.30 do not say.
    const pod = await this.#options.api.get(RESOURCES.Pod, { namespace, name });
    if (pod === undefined || pod.metadata.uid !== uid) return err(`the token’s pod ${namespace}/${name} is gone`);
    const { nodeName } = record(pod.spec);
    return ok(typeof nodeName === 'string' && nodeName !== '' ? nodeName : undefined);
  }

  #unavailable(why: string): RpcError {
    this.#reviews.inc({ result: 'failed' });
    if (why !== this.#lastTrouble) this.#options.log.error({ error: why }, 'tokens cannot be verified now');
    this.#lastTrouble = why;
    return new RpcError(StatusCode.UNAVAILABLE, 'tokens cannot be verified now');
  }

  #inTime<T>(request: Promise<T>): Promise<T> {
    const { promise, resolve, reject } = Promise.withResolvers<T>();
    const cancel = this.#options.clock.schedule(TIMEOUT_MS, () =>
      reject(new ApiError(0, '', `no answer to a TokenReview within ${TIMEOUT_MS} ms`)),
    );
    request.then(resolve, reject).finally(cancel);
    return promise;
  }
}

function record(value: unknown): Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null ? (value as Readonly<Record<string, unknown>>) : {};
}

function list(value: unknown): readonly string[] {
  return Array.isArray(value) ? value.filter((each) => typeof each === 'string') : [];
}

function quote(value: unknown): string {
  return (JSON.stringify(value) ?? 'nobody').slice(0, 200);
}

const PREFIX = 'authentication.kubernetes.io/';
/** A token that was good stays so for as long; a pod that is gone takes its token with it. */
const ACCEPTED_MS = 30_000;
/** One that was not may soon be: a clock that differs, a pod that is known to one API server already. */
const REFUSED_MS = 3_000;
const MAX_KNOWN = 4_096;
const MAX_UNDER_WAY = 128;
const TIMEOUT_MS = 5_000;
/** Of a token that does not say when it ends. */
const UNKNOWN_LIFE_MS = 600_000;
