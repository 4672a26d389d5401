import type { Service, Workload } from '../../gen/istio/workload/workload_pb.js';
import { ipFromBytes, makePrefix, type Prefix } from '../../lib/ip.js';
import { formatSpiffeId } from '../../model/spiffe-id.js';

/** What follows from a workload or service message. Pure. */

/** Canonical addresses of a workload. */
export function addressesOf(workload: Pick<Workload, 'addresses'>): string[] {
  return workload.addresses.map((bytes) => ipFromBytes(bytes)).filter((ip) => ip !== undefined);
}

/** The host name by which a workload without addresses is reached, lower case; undefined when it has none. */
export function hostOf(workload: Pick<Workload, 'addresses' | 'hostname'>): string | undefined {
  if (workload.addresses.length > 0 || workload.hostname === '') return undefined;
  return workload.hostname.toLowerCase();
}

/** The SPIFFE id that a workload presents. */
export function identityOf(workload: Pick<Workload, 'trustDomain' | 'namespace' | 'serviceAccount'>): string {
  return formatSpiffeId({
    trustDomain: workload.trustDomain || 'cluster.local',
    namespace: workload.namespace,
    serviceAccount: workload.serviceAccount || 'default',
  });
}

/** `namespace/hostname`, the name of a service on the wire and in the store. */
export function serviceKey(service: Pick<Service, 'namespace' | 'hostname'>): string {
  return `${service.namespace}/${service.hostname}`;
}

/** Virtual addresses with their network; malformed ones are left out. */
export function vipsOf(service: Pick<Service, 'addresses'>): { network: string; prefix: Prefix }[] {
  return service.addresses.flatMap(({ network, address, length }) => {
    const ip = ipFromBytes(address);
    const prefix = ip === undefined ? undefined : makePrefix(ip, length ?? address.length * 8);
    return prefix === undefined ? [] : [{ network, prefix }];
  });
}

/** `cluster//Pod/namespace/name`, the uid of a pod's workload. */
export function podUid(cluster: string, namespace: string, name: string): string {
  return `${cluster}//Pod/${namespace}/${name}`;
}

/** What Istio calls a workload whose object is not at hand: from its labels, else its name. */
export function canonicalNames(
  name: string,
  labels: Readonly<Record<string, string>>,
): { readonly canonicalName: string; readonly canonicalRevision: string } {
  const label = (...names: string[]): string => names.map((each) => labels[each]).find(Boolean) ?? '';
  return {
    canonicalName: label('service.istio.io/canonical-name', 'app.kubernetes.io/name', 'app') || name,
    canonicalRevision: label('service.istio.io/canonical-revision', 'app.kubernetes.io/version', 'version') || 'latest',
  };
}
