import { ApiError, type ApiObject, type KubeApi } from '../../kube/api.js';
import { RESOURCES } from '../../kube/resources.js';
import type { Clock } from '../../lib/clock.js';
import { isRecord } from '../../model/kubernetes/fields.js';
import type { Logger } from '../../telemetry/log.js';
import type { MetricsRegistry } from '../../telemetry/metrics.js';
import { pause } from '../leader/terms.js';
import { probeAnswer, probeObject } from './admission-review.js';

export interface WebhookConfigurationOptions {
  /** Writes are refused when we do not lead. */
  readonly api: Pick<KubeApi, 'get' | 'replace' | 'create'>;
  /** Of the ValidatingWebhookConfiguration, which an installation brings. */
  readonly name: string;
  readonly namespace: string;
  /** What is to become of objects while no replica answers. */
  readonly failurePolicy: 'Fail' | 'Ignore';
  /** PEM of what our certificates come from, now. */
  roots(): string;
  /** Calls back when that has changed; returns the way out. */
  subscribe(listener: () => void): () => void;
  readonly clock: Clock;
  readonly log: Logger;
  readonly metrics: MetricsRegistry;
}

/**
 * Keeps the configuration by which the API server finds the webhook: our roots in it, at once when they change, and the
 * failure policy that is wanted, once a probe has come through. Until then what nobody can judge is let in. Runs until
 * the signal aborts; looks again every minute, and rejects with what the API server says.
 */
export async function keepWebhookConfiguration(
  options: WebhookConfigurationOptions,
  signal: AbortSignal,
): Promise<void> {
  const { clock, log, name, failurePolicy } = options;
  const reachable = options.metrics.gauge(
    'meltemi_webhook_reachable',
    'Whether the API server reaches the webhook, by the last probe.',
  );
  let changed = new AbortController();
  const unsubscribe = options.subscribe(() => changed.abort());
  let told = '';
  let failures = 0;
  try {
    while (!signal.aborted) {
      changed = new AbortController();
      const outcome = await keep(options);
      reachable.set(outcome === 'kept' ? 1 : 0);
      failures = outcome === 'kept' ? 0 : failures + 1;
      // An API server takes a moment to hear of a configuration.
      if (outcome !== told && (outcome === 'kept' || failures >= PATIENCE)) {
        log[outcome === 'kept' ? 'info' : 'warn']({ configuration: name, failurePolicy }, SENTENCES[outcome]);
        told = outcome;
      }
      const delayMs = outcome === 'kept' ? LOOK_AGAIN_MS : RETRY_MS;
      await pause(clock, delayMs, AbortSignal.any([signal, changed.signal]));
    }
  } finally {
    unsubscribe();
  }
}

type Outcome = keyof typeof SENTENCES;

async function keep(options: WebhookConfigurationOptions): Promise<Outcome> {
  const { api, name } = options;
  const object = await api.get(RESOURCES.ValidatingWebhookConfiguration, { name });
  if (object === undefined) return 'missing';
  const caBundle = Buffer.from(options.roots()).toString('base64');
  const withBundle = await write(api, object, (webhook) => ({
    ...webhook,
    clientConfig: { ...(isRecord(webhook.clientConfig) ? webhook.clientConfig : {}), caBundle },
  }));
  if (!(await answers(options))) return 'unreachable';
  await write(api, withBundle, (webhook) =>
    isJudging(webhook) ? { ...webhook, failurePolicy: options.failurePolicy } : webhook,
  );
  return 'kept';
}

/** Writes only what differs. Another's change in between is a conflict, and looked at again. */
async function write(
  api: WebhookConfigurationOptions['api'],
  object: ApiObject,
  edit: (webhook: Readonly<Record<string, unknown>>) => Readonly<Record<string, unknown>>,
): Promise<ApiObject> {
  const before = Array.isArray(object.webhooks) ? object.webhooks.filter(isRecord) : [];
  const webhooks = before.map(edit);
  if (JSON.stringify(webhooks) === JSON.stringify(before)) return object;
  return api.replace(
    RESOURCES.ValidatingWebhookConfiguration,
    { ...object, webhooks },
    { fieldManager: FIELD_MANAGER },
  );
}

/** Of the others, which only warn, nothing may ever depend. */
function isJudging({ name }: Readonly<Record<string, unknown>>): boolean {
  return typeof name === 'string' && name.endsWith(JUDGING);
}

/** Nothing is written: the probe is refused, and would be dry if it were not. */
async function answers({ api, namespace }: WebhookConfigurationOptions): Promise<boolean> {
  const nonce = `${process.pid}-${process.hrtime.bigint()}`;
  try {
    await api.create(RESOURCES.ConfigMap, probeObject(namespace, nonce), { dryRun: true });
    return false;
  } catch (error) {
    if (!(error instanceof ApiError) || error.status === 0) throw error;
    return error.message.includes(probeAnswer(nonce));
  }
}

const SENTENCES = {
  kept: 'the API server reaches the webhook',
  unreachable:
    'the API server does not reach the webhook (is 15017 of the control plane open to it?): objects are let in unseen',
  missing: 'there is no such webhook configuration: objects are let in unseen; meltemi upgrade brings it back',
} as const;
const JUDGING = '.validation.meltemi.io';
const FIELD_MANAGER = 'meltemi-webhook';
const LOOK_AGAIN_MS = 60_000;
const RETRY_MS = 2_000;
const PATIENCE = 5;
