import { ApiError, type KubeApi, type Resource } from '../../kube/api.js';
import { reflect } from '../../kube/reflect.js';
import { RESOURCES } from '../../kube/resources.js';
import type { Clock } from '../../lib/clock.js';
import type { Logger } from '../../telemetry/log.js';
import type { Counter } from '../../telemetry/metrics.js';
import { pause } from '../leader/terms.js';
import { WorkQueue } from '../leader/work-queue.js';

export interface ClusterTrustBundleOptions {
  readonly api: KubeApi;
  /** PEM of the roots. */
  readonly bundle: () => string;
  /** Called with what to do after the bundle has changed. Returns how to stop. */
  readonly subscribe: (changed: () => void) => () => void;
  readonly clock: Clock;
  readonly log: Logger;
  readonly writes: Counter;
  readonly failures: Counter;
}

/**
 * Keeps the roots in a ClusterTrustBundle, which pods project without a copy in their namespace. Where the API server
 * does not serve that kind there is nothing to do, and it is looked for again now and then.
 */
export async function keepClusterTrustBundle(options: ClusterTrustBundleOptions, signal: AbortSignal): Promise<void> {
  const { api, clock, log } = options;
  while (!signal.aborted) {
    const resource = await served(api);
    if (resource !== undefined) {
      log.info({ name: CLUSTER_TRUST_BUNDLE, version: resource.version }, 'the roots are in a ClusterTrustBundle, too');
      return keep(resource, options, signal);
    }
    await pause(clock, LOOK_AGAIN_MS, signal);
  }
}

/** Under the newest version that the API server has of it; undefined when it has none. */
async function served(api: KubeApi): Promise<Resource | undefined> {
  const { group, plural } = RESOURCES.ClusterTrustBundle;
  for (const version of VERSIONS) {
    const path = `/apis/${group}/${version}`;
    const answer = await api.request('GET', path).catch((error: unknown) => {
      if (error instanceof ApiError && error.status === 404) return {};
      throw error;
    });
    const { resources = [] } = answer as { readonly resources?: readonly { readonly name?: string }[] };
    if (resources.some(({ name }) => name === plural)) return { ...RESOURCES.ClusterTrustBundle, version };
  }
  return undefined;
}

function keep(resource: Resource, options: ClusterTrustBundleOptions, signal: AbortSignal): Promise<void> {
  const { api, bundle, subscribe, clock, log, writes, failures } = options;
  let present: unknown;
  const queue = new WorkQueue({
    async work() {
      const trustBundle = bundle();
      if (present === trustBundle) return;
      await api.apply(
        resource,
        {
          apiVersion: `${resource.group}/${resource.version}`,
          kind: resource.kind,
          metadata: { name: CLUSTER_TRUST_BUNDLE, labels: { 'app.kubernetes.io/managed-by': 'meltemi' } },
          spec: { signerName: SIGNER, trustBundle },
        },
        { force: true },
      );
      writes.inc();
    },
    failed(_, error) {
      failures.inc();
      log.warn({ name: CLUSTER_TRUST_BUNDLE, error }, 'the ClusterTrustBundle cannot be written; trying again');
    },
    clock,
  });
  const look = (spec: unknown): void => {
    present = (spec as { readonly trustBundle?: unknown } | undefined)?.trustBundle;
    if (present !== bundle()) queue.add(CLUSTER_TRUST_BUNDLE);
  };
  const reflection = reflect(api, resource, {
    selection: { fieldSelector: `metadata.name=${CLUSTER_TRUST_BUNDLE}` },
    read: ({ spec }) => spec,
    handler: {
      synced: ([spec]) => look(spec),
      changed: ({ type, object }) => look(type === 'deleted' ? undefined : object),
    },
    clock,
    trouble: ({ what, message }) => log.warn({ name: CLUSTER_TRUST_BUNDLE, error: message }, what),
  });
  const unsubscribe = subscribe(() => queue.add(CLUSTER_TRUST_BUNDLE, true));
  return new Promise((resolve) => {
    const end = (): void => {
      unsubscribe();
      reflection.close();
      queue.close();
      resolve();
    };
    signal.addEventListener('abort', end, { once: true });
    if (signal.aborted) end();
  });
}

const SIGNER = 'meltemi.io/ca';
/** The signer's name, with a colon for the slash, must come first. */
export const CLUSTER_TRUST_BUNDLE = 'meltemi.io:ca:root-cert';
const VERSIONS = ['v1', 'v1beta1'];
const LOOK_AGAIN_MS = 600_000;
