import { canonicalIp, formatHostPort, parseHostPort } from '../../lib/ip.js';
import { authorize, type NamedPolicy } from '../authz/authorize.js';
import { serviceKey } from '../store/facts.js';
import type { LocalPod } from '../store/snapshot.js';
import { targetPort } from './candidates.js';
import { type Decision, OWN_PORTS, type Refuse, refuse } from './decision.js';
import type { Observed } from './observed.js';
import { preferredService } from './outbound.js';

/** Whether a tunnelled connection is delivered: the authority must mean this pod, and policy must agree. */
export function decideInbound(seen: Observed): Decision {
  const pod = seen.pod(seen.podUid);
  if (pod === undefined) return refuse('unknown-pod', 503, [`pod/${seen.podUid}`]);
  const target = targetOf(seen, pod);
  if ('action' in target) return target;
  return deliver(seen, pod, target, true);
}

/** Whether a plaintext connection is delivered: nobody vouches for its source. */
export function decideInboundPlaintext(seen: Observed): Decision {
  const pod = seen.pod(seen.podUid);
  if (pod === undefined) return refuse('unknown-pod', 503, [`pod/${seen.podUid}`]);
  if (!pod.addresses.includes(seen.dstIp)) {
    return refuse('not-own-address', 400, [`pod/${pod.uid}`, `address/${seen.dstIp}`]);
  }
  return deliver(seen, pod, { ip: seen.dstIp, port: seen.dstPort }, false);
}

interface Target {
  readonly ip: string;
  readonly port: number;
}

function targetOf(seen: Observed, pod: LocalPod): Target | Refuse {
  const authority = parseHostPort(seen.authority);
  if (authority === undefined) return refuse('bad-authority', 400, [`pod/${pod.uid}`]);
  const ip = canonicalIp(authority.host);
  if (ip !== undefined) {
    if (pod.addresses.includes(ip)) return { ip, port: authority.port };
    return refuse('not-own-address', 400, [`pod/${pod.uid}`, `address/${ip}`]);
  }
  return servicePort(seen, pod, authority.host, authority.port);
}

/** `hostname:port` of a service of which this pod is an endpoint. */
function servicePort(seen: Observed, pod: LocalPod, hostname: string, port: number): Target | Refuse {
  const own = seen
    .servicesNamed(hostname)
    .filter((key) => seen.isEndpoint(key, pod.uid))
    .map((key) => seen.service(key))
    .filter((service) => service !== undefined);
  const service = preferredService(own, pod.namespace);
  const workload = seen.workload(pod.uid);
  if (service === undefined || workload === undefined) {
    return refuse('not-own-address', 400, [`pod/${pod.uid}`, `hostname/${hostname}`]);
  }
  const key = serviceKey(service);
  const target = targetPort(service, workload, key, port);
  if (target === undefined) return refuse('no-such-port', 400, [`service/${key}`], { service });
  const ip = pod.addresses.includes(seen.dstIp) ? seen.dstIp : pod.addresses[0];
  if (ip === undefined) return refuse('not-own-address', 400, [`pod/${pod.uid}`]);
  return { ip, port: target };
}

function deliver(seen: Observed, pod: LocalPod, target: Target, tunnelled: boolean): Decision {
  if (OWN_PORTS.includes(target.port)) {
    return refuse('illegal-port', 400, [`pod/${pod.uid}`, `address/${formatHostPort(target.ip, target.port)}`]);
  }
  const policies = policiesInScope(seen, pod);
  if ('action' in policies) return policies;
  const authz = authorize(policies, {
    get identity() {
      return tunnelled ? seen.peerIdentity : '';
    },
    get sourceIp() {
      return seen.srcIp;
    },
    destinationIp: target.ip,
    destinationPort: target.port,
  });
  const objects = authz.policy === '' ? authz.candidates : [authz.policy];
  const named = objects.map((key) => `policy/${key}${authz.problem === '' ? '' : ` (${authz.problem})`}`);
  const targetPort = target.port;
  if (!authz.allowed) return refuse(authz.because, 401, named, { authz, targetPort });
  return { action: 'direct', because: authz.because, objects: named, ...target, targetPort, authz };
}

/**
 * Policies of the whole mesh, of the namespace, and those that name this workload. Refuses while the workload is not
 * known, or not everything has been received: then nobody can say what policy wants. That goes for one that the workload
 * names and that has never come, too; one that was taken back wants nothing, the workload just has not heard of it yet.
 */
function policiesInScope(seen: Observed, pod: LocalPod): NamedPolicy[] | Refuse {
  const own = seen.synced ? seen.policiesOf(pod.uid) : undefined;
  if (own === undefined) return refuse('unknown-workload', 503, [`workload/${pod.uid}`]);
  const keys = new Set([...seen.policiesIn(''), ...seen.policiesIn(pod.namespace), ...[...own].sort()]);
  const known: NamedPolicy[] = [];
  const missing: string[] = [];
  for (const key of keys) {
    const policy = seen.policy(key);
    if (policy !== undefined) known.push({ key, policy });
    else if (!seen.isPolicyRemoved(key)) missing.push(`policy/${key}`);
  }
  return missing.length === 0 ? known : refuse('policy-not-known', 503, missing);
}
