import { err, ok, type Result } from '../lib/result.js';
import { servicePool } from './addresses.js';
import { isRecord, type KubeObject, kindOf, objectKey, objectTitle, recordAt } from './objects.js';
import { planPod } from './pod-plan.js';
import { clusterIps } from './service-table.js';

export type Applied = 'created' | 'configured' | 'unchanged';

/**
 * The objects that a person applied, as an API server keeps them: Services get addresses, Namespaces come into being
 * with what lives in them, and what the lab could not run is refused.
 */
export class ObjectStore {
  readonly #objects = new Map<string, KubeObject>();
  readonly #pool = servicePool();

  constructor(namespaces: readonly string[]) {
    for (const name of namespaces) this.#ensureNamespace(name);
  }

  list(): readonly KubeObject[] {
    return [...this.#objects.values()];
  }

  /** Error: one sentence that names the object; the former one stays. */
  apply(object: KubeObject): Result<Applied> {
    const problem = this.#problem(object);
    if (problem !== undefined) return err(problem);
    const key = objectKey(object);
    const former = this.#objects.get(key);
    const stored = this.#complete(object, former);
    if (!stored.ok) return stored;
    if (object.metadata.namespace !== '') this.#ensureNamespace(object.metadata.namespace);
    if (former !== undefined && JSON.stringify(former) === JSON.stringify(stored.value)) return ok('unchanged');
    this.#objects.set(key, stored.value);
    return ok(former === undefined ? 'created' : 'configured');
  }

  /** True when there was such an object. A Namespace takes with it what lives in it. */
  delete(object: Pick<KubeObject, 'apiVersion' | 'kind' | 'metadata'>): boolean {
    if (object.kind === 'Namespace') {
      for (const each of this.list()) if (each.metadata.namespace === object.metadata.name) this.#remove(each);
    }
    const found = this.#objects.get(objectKey(object));
    if (found !== undefined) this.#remove(found);
    return found !== undefined;
  }

  /** `word` is a kind or its short form. */
  find(word: string, namespace: string, name: string): KubeObject | undefined {
    const kind = kindOf(word);
    return this.list().find(
      (object) =>
        object.kind === kind &&
        object.metadata.name === name &&
        (object.metadata.namespace === '' || object.metadata.namespace === namespace),
    );
  }

  /** Sets labels, or takes them away where the value is null. */
  label(object: KubeObject, changes: Readonly<Record<string, string | null>>): void {
    const labels = changeLabels(object.metadata.labels, changes);
    this.#objects.set(objectKey(object), { ...object, metadata: { ...object.metadata, labels } });
  }

  namespaceLabels(name: string): Readonly<Record<string, string>> {
    return this.#objects.get(`/Namespace//${name}`)?.metadata.labels ?? {};
  }

  #problem(object: KubeObject): string | undefined {
    if (object.kind === 'Pod') {
      const plan = planPod(object);
      return plan.ok ? undefined : plan.error;
    }
    if (!OWNERS.has(object.kind)) return undefined;
    const template = recordAt(object, 'spec', 'template');
    const plan = planPod({ ...object, spec: recordAt(template, 'spec') });
    return plan.ok ? undefined : plan.error;
  }

  #complete(object: KubeObject, former: KubeObject | undefined): Result<KubeObject> {
    if (object.kind === 'Namespace') {
      const labels = { 'kubernetes.io/metadata.name': object.metadata.name, ...object.metadata.labels };
      return ok({ ...object, metadata: { ...object.metadata, labels } });
    }
    return object.kind === 'Service' ? this.#withAddresses(object, former) : ok(object);
  }

  #withAddresses(service: KubeObject, former: KubeObject | undefined): Result<KubeObject> {
    const spec = recordAt(service, 'spec');
    if (spec.clusterIP === 'None' || spec.type === 'ExternalName') {
      if (former !== undefined) this.#release(former);
      return ok(service);
    }
    const kept = former === undefined ? [] : clusterIps(former);
    const chosen = clusterIps(service);
    if (chosen.length > 0) {
      const refused = this.#pool.claim(chosen.filter((ip) => !kept.includes(ip)));
      if (refused !== undefined) return err(`${objectTitle(service)}: clusterIP ${refused} is in use`);
      for (const ip of kept) if (!chosen.includes(ip)) this.#pool.release(ip);
      return ok(withClusterIps(service, chosen));
    }
    if (kept.length > 0) return ok(withClusterIps(service, kept));
    const pair = this.#pool.take();
    if (pair === undefined) return err(`${objectTitle(service)}: no Service address is left`);
    const families = Array.isArray(spec.ipFamilies) ? spec.ipFamilies : [];
    const single = spec.ipFamilyPolicy === 'SingleStack' || families.length === 1;
    const order = families[0] === 'IPv6' ? [pair.ipv6, pair.ipv4] : [pair.ipv4, pair.ipv6];
    return ok(withClusterIps(service, single ? order.slice(0, 1) : order));
  }

  #remove(object: KubeObject): void {
    this.#objects.delete(objectKey(object));
    if (object.kind === 'Service') this.#release(object);
  }

  #release(service: KubeObject): void {
    for (const ip of clusterIps(service)) this.#pool.release(ip);
  }

  #ensureNamespace(name: string): void {
    if (this.#objects.has(`/Namespace//${name}`)) return;
    const labels = { 'kubernetes.io/metadata.name': name };
    const metadata = { name, namespace: '', labels, annotations: {} };
    this.#objects.set(`/Namespace//${name}`, { apiVersion: 'v1', kind: 'Namespace', metadata });
  }
}

export function changeLabels(
  labels: Readonly<Record<string, string>>,
  changes: Readonly<Record<string, string | null>>,
): Readonly<Record<string, string>> {
  const merged = Object.entries({ ...labels, ...changes });
  return Object.fromEntries(merged.filter((entry): entry is [string, string] => entry[1] !== null));
}

function withClusterIps(service: KubeObject, ips: readonly string[]): KubeObject {
  const ipFamilies = ips.map((ip) => (ip.includes(':') ? 'IPv6' : 'IPv4'));
  const spec = isRecord(service.spec) ? service.spec : {};
  const ipFamilyPolicy = ips.length > 1 ? 'PreferDualStack' : 'SingleStack';
  return { ...service, spec: { ...spec, clusterIP: ips[0], clusterIPs: ips, ipFamilies, ipFamilyPolicy } };
}

const OWNERS: ReadonlySet<string> = new Set(['Deployment', 'ReplicaSet', 'StatefulSet', 'DaemonSet', 'Job']);
