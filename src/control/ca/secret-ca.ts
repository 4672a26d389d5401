import type { KubeApi } from '../../kube/api.js';
import type { Clock } from '../../lib/clock.js';
import type { Logger } from '../../telemetry/log.js';
import { Authority } from './authority.js';
import { Holders } from './holders.js';
import { SecretSource } from './secret-source.js';

export interface SecretCaOptions {
  readonly api: KubeApi;
  /** Where the Secrets are. */
  readonly namespace: string;
  readonly trustDomain: string;
  /** Life of a certificate when the request names none. */
  readonly defaultTtlSeconds: number;
  /** Whether what is due by time is for this process to do. */
  readonly isInCharge: () => boolean;
  readonly clock: Clock;
  readonly log: Logger;
}

/** The CA that all control planes of a cluster share. Rejects when what is in its Secrets cannot be used. */
export async function openSecretCa(options: SecretCaOptions): Promise<Authority> {
  const { defaultTtlSeconds, clock, log } = options;
  const holders = new Holders({ clock, defaultTtlSeconds, isShared: true });
  const source = await SecretSource.open({ ...options, holders });
  return new Authority({ source, holders, defaultTtlSeconds, clock, log });
}
