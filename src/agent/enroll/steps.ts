import type { Result } from '../../lib/result.js';
import { formatSpiffeId } from '../../model/spiffe-id.js';
import type { Certificates } from '../certs/certificates.js';
import type { Dataplane } from '../dataplane/dataplane.js';
import type { Redirector } from '../redirect/redirector.js';
import { canonicalNames } from '../store/facts.js';
import type { LocalPod } from '../store/snapshot.js';
import type { EnrolledPod, EnrolmentStep } from './enrolment.js';
import { DELETED } from './pod-task.js';

/** The pod becomes known to decisions. */
export function storeStep(
  trustDomain: string,
  apply: (pod: LocalPod) => void,
  remove: (uid: string) => void,
): EnrolmentStep {
  return {
    name: 'store',
    ahead: true,
    async enrol(pod) {
      apply(localPod(pod, trustDomain));
      return undefined;
    },
    async unenrol({ uid }) {
      remove(uid);
      return undefined;
    },
  };
}

/** Its certificate is asked for, and kept valid. Not waited for: a connection that needs it waits by itself. */
export function certificateStep(trustDomain: string, certificates: Certificates): EnrolmentStep {
  return {
    name: 'certificate',
    ahead: true,
    async enrol(pod) {
      certificates.hold(localPod(pod, trustDomain).identity, pod.uid);
      return undefined;
    },
    async unenrol(pod) {
      certificates.release(localPod(pod, trustDomain).identity, pod.uid);
      return undefined;
    },
  };
}

/** The engine's listeners in its network namespace. */
export function dataplaneStep(trustDomain: string, dataplane: Dataplane): EnrolmentStep {
  return {
    name: 'listeners',
    async enrol(pod) {
      const { uid, name, namespace, identity, addresses } = localPod(pod, trustDomain);
      const { netns } = pod.record;
      const result = await dataplane.addPod({ uid, name, namespace, identity, netns, addresses: [...addresses] });
      return result.ok ? undefined : result.error;
    },
    async unenrol({ uid }, why) {
      dataplane.removePod(uid, why);
      return undefined;
    },
  };
}

/** Its names are answered. */
export function dnsStep(dns: PodDns): EnrolmentStep {
  return {
    name: 'dns',
    async enrol({ uid, record }) {
      if (!capturesDns(record)) {
        dns.removePod(uid);
        return undefined;
      }
      const { netns, namespace, nameservers, searchDomains } = record;
      const result = await dns.addPod({
        uid,
        netns,
        namespace,
        nameservers,
        searchDomains,
        ...canonicalNames(record.name, record.labels),
      });
      return result.ok ? undefined : result.error;
    },
    async unenrol({ uid }) {
      dns.removePod(uid);
      return undefined;
    },
  };
}

/**
 * Its connections are steered to those listeners. Two steps: `redirection` comes last and goes first, but then only
 * captures nothing new; `translation` (of connections under way) goes when the engine has closed them.
 */
export function redirectSteps(
  redirector: Redirector,
  dnsEnabled: boolean,
): { readonly redirection: EnrolmentStep; readonly translation: EnrolmentStep } {
  const redirected = ({ record }: EnrolledPod) => ({
    name: `${record.namespace}/${record.name}`,
    netns: record.netns,
    ipv6: record.ips.some((ip) => ip.includes(':')),
    nameservers: dnsEnabled && capturesDns(record) ? record.nameservers : [],
    bypassInbound: record.annotations['ambient.istio.io/bypass-inbound-capture'] === 'true',
  });
  const errorOf = (result: Result<unknown>) => (result.ok ? undefined : result.error);
  return {
    redirection: {
      name: 'redirection',
      staysInPod: true,
      ofNode: true,
      enrol: async (pod) => errorOf(await redirector.apply(redirected(pod))),
      unenrol: async (pod) => errorOf(await redirector.release(redirected(pod))),
      async audit(pod) {
        const result = await redirector.audit(redirected(pod));
        return result.ok ? result.value : [result.error];
      },
    },
    translation: {
      name: 'translation',
      staysInPod: true,
      ofNode: true,
      enrol: async () => undefined,
      unenrol: async (pod) => errorOf(await redirector.remove(redirected(pod))),
    },
  };
}

/**
 * The node's own rules know it. Two steps: `guard` comes before its connections are steered, so that its health probes
 * never miss it; `hold` after that, and goes before: what it says to the mesh untunnelled is refused only while it has
 * another way. A pod that does not run yet says nothing, and is held at once.
 */
export function guardSteps(guard: PodGuard): { readonly guard: EnrolmentStep; readonly hold: EnrolmentStep } {
  const guarded = ({ record }: EnrolledPod) => ({ ips: record.ips, nameservers: record.nameservers });
  const errorOf = (result: Result<void>) => (result.ok ? undefined : result.error);
  return {
    guard: {
      name: 'guard',
      ofNode: true,
      async enrol(pod) {
        const passing = pod.record.phase === 'Running' && !guard.holds(pod.uid);
        return errorOf(await guard.put(pod.uid, { ...guarded(pod), passing }));
      },
      unenrol: async ({ uid }) => errorOf(await guard.remove(uid)),
    },
    hold: {
      name: 'hold',
      ofNode: true,
      enrol: async (pod) => (guard.holds(pod.uid) ? undefined : errorOf(await guard.put(pod.uid, guarded(pod)))),
      async unenrol(pod, why) {
        if (why === DELETED || !guard.holds(pod.uid)) return undefined;
        return errorOf(await guard.put(pod.uid, { ...guarded(pod), passing: true }));
      },
    },
  };
}

/** The part of the node's rules that enrolment needs. */
export interface PodGuard {
  holds(uid: string): boolean;
  put(
    uid: string,
    pod: { readonly ips: readonly string[]; readonly nameservers: readonly string[]; readonly passing?: boolean },
  ): Promise<Result<void>>;
  remove(uid: string): Promise<Result<void>>;
}

/** The part of the DNS proxy that enrolment needs. */
export interface PodDns {
  addPod(pod: {
    uid: string;
    netns: string;
    namespace: string;
    nameservers: readonly string[];
    searchDomains: readonly string[];
    canonicalName: string;
    canonicalRevision: string;
  }): Promise<Result<unknown>>;
  removePod(uid: string): void;
}

function localPod({ uid, record }: EnrolledPod, trustDomain: string): LocalPod {
  const { name, namespace, serviceAccount, labels } = record;
  return {
    uid,
    name,
    namespace,
    serviceAccount,
    identity: formatSpiffeId({ trustDomain, namespace, serviceAccount }),
    addresses: record.ips,
    labels,
  };
}

function capturesDns(record: EnrolledPod['record']): boolean {
  return record.annotations['ambient.istio.io/dns-capture'] !== 'false';
}
