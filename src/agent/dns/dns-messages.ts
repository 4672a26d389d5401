import type { DnsChange } from './dns-table.js';

/** What crosses between the main thread and the DNS worker: flat values only. */

/** A captured pod whose queries are answered. */
export interface DnsPod {
  readonly uid: string;
  /** Path of its network namespace. */
  readonly netns: string;
  readonly namespace: string;
  /** Of its resolv.conf, in order: `10.96.0.10`, or `ip:port`. What cannot be read is passed over. */
  readonly nameservers: readonly string[];
  /** Of its resolv.conf, in order. */
  readonly searchDomains: readonly string[];
  /** Labels of its metrics: canonical service name and revision. */
  readonly canonicalName: string;
  readonly canonicalRevision: string;
}

export interface DnsWorkerData {
  readonly clusterDomain: string;
  readonly network: string;
  readonly port: number;
  readonly mark: number;
  /** URL of a `PodSocketsModule`. */
  readonly sockets: string;
}

export type ToWorker =
  | { readonly kind: 'update'; readonly changes: readonly DnsChange[] }
  | { readonly kind: 'add'; readonly call: number; readonly pod: DnsPod }
  | { readonly kind: 'remove'; readonly uid: string }
  | { readonly kind: 'retire' }
  | { readonly kind: 'metrics'; readonly call: number }
  | { readonly kind: 'close'; readonly call: number };

/** The answer to a call: `text` is the metrics, or an error (empty when there is none), or the bound port of an added pod. */
export interface FromWorker {
  readonly call: number;
  readonly error: string;
  readonly text: string;
}
