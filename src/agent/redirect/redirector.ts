import type { Result } from '../../lib/result.js';

/**
 * Steers a pod's TCP connections (and DNS queries) to the agent's listeners inside the pod's own network namespace.
 * Every call is idempotent; nothing outside the namespace is touched. Calls for one pod must not overlap.
 */
export interface Redirector {
  /** Puts the rules and the policy routing in place, in one transaction; the former rules hold until then. */
  apply(pod: RedirectedPod): Promise<Result<void>>;
  /**
   * First step of letting go: captures nothing new, but goes on translating the packets of captured connections, so
   * that their ends reach the app. Then close the pod's connections in the engine, then `remove`.
   */
  release(pod: RedirectedPod): Promise<Result<void>>;
  /** Takes away everything that `apply` made. A namespace that is gone, or never had any, is no error. */
  remove(pod: RedirectedPod): Promise<Result<void>>;
  /**
   * What differs from what this process's last `apply` left, one sentence each; empty when nothing does. A pod that was
   * never applied is reported as such. Policy routing that was missing is put back at once, and reported.
   */
  audit(pod: RedirectedPod): Promise<Result<readonly string[]>>;
}

export interface RedirectedPod {
  /** For messages: `namespace/name`. */
  name: string;
  /** Path of the pod's network namespace. */
  netns: string;
  /** The pod has an IPv6 stack: rules and routes are made for both families. */
  ipv6: boolean;
  /** Nameservers whose port 53 is captured; empty when DNS is left alone. Loopback addresses are passed over. */
  nameservers: readonly string[];
  /** `ambient.istio.io/bypass-inbound-capture`: inbound connections reach the app as they come. Default false. */
  bypassInbound?: boolean;
}

/** The agent's listeners in the pod's namespace. */
export interface RedirectPorts {
  outbound: number;
  inboundPlain: number;
  inboundHbone: number;
  dns: number;
}

export const DEFAULT_REDIRECT_PORTS: RedirectPorts = {
  outbound: 15001,
  inboundPlain: 15006,
  inboundHbone: 15008,
  dns: 15053,
};
