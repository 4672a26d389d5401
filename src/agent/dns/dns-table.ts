/**
 * What the DNS proxy knows of the mesh: flat values, so that they cross to the worker as they are, in maps by host name.
 * The main thread sends changes, never the whole; the worker holds the only copy.
 */

/** A service or ServiceEntry host. `namespace` and `hostname` together name it; a later one replaces the former. */
export interface DnsService {
  readonly namespace: string;
  /** `web.shop.svc.cluster.local`, `api.example.com`, `*.example.com`. Any letter case. */
  readonly hostname: string;
  /** The one that answers for namespaces that have no service of this host name of their own. */
  readonly canonical: boolean;
  /** True when only clients of the same namespace may see it. */
  readonly namespaceOnly: boolean;
  /** Families of which records are given: a single-stack headless service may have dual-stack pods. */
  readonly families: DnsFamilies;
  readonly addresses: readonly DnsAddress[];
  /** Endpoints to publish, for a service without addresses (headless); leave empty for all others. */
  readonly endpoints: readonly DnsEndpoint[];
}

export type DnsFamilies = 'any' | 'ipv4' | 'ipv6';

/** An address on a network (`""` is the default one). Only those of the client's own network are answered. */
export interface DnsAddress {
  readonly network: string;
  readonly ip: string;
}

export interface DnsEndpoint {
  /** The pod's host name, which makes `<name>.<service>.<namespace>.svc.<domain>`; empty when it has none. */
  readonly name: string;
  readonly addresses: readonly DnsAddress[];
}

/** One step from the former table to the next. */
export type DnsChange =
  | { readonly kind: 'put'; readonly service: DnsService }
  | { readonly kind: 'remove'; readonly namespace: string; readonly hostname: string };

/** Services by host name, wildcards included. */
export class DnsTable {
  readonly #byHost = new Map<string, DnsService[]>();
  #wildcards = 0;
  #services = 0;

  /** Applies changes in order. Removing what is not there is no error. */
  apply(changes: Iterable<DnsChange>): void {
    for (const change of changes) {
      if (change.kind === 'put') this.#put(change.service);
      else this.#remove(change.namespace, change.hostname.toLowerCase());
    }
  }

  /** All services of this exact name (lower case), a wildcard's name being `*.example.com`. */
  byHost(hostname: string): readonly DnsService[] {
    return this.#byHost.get(hostname) ?? NONE;
  }

  /** True when there is any wildcard at all: saves the look-ups for all others. */
  get hasWildcards(): boolean {
    return this.#wildcards > 0;
  }

  get size(): number {
    return this.#services;
  }

  #put(service: DnsService): void {
    const hostname = service.hostname.toLowerCase();
    this.#remove(service.namespace, hostname);
    const services = this.#byHost.get(hostname);
    if (services === undefined) this.#byHost.set(hostname, [service]);
    else services.push(service);
    this.#services += 1;
    if (hostname.startsWith('*.')) this.#wildcards += 1;
  }

  #remove(namespace: string, hostname: string): void {
    const services = this.#byHost.get(hostname);
    const at = services?.findIndex((service) => service.namespace === namespace) ?? -1;
    if (services === undefined || at < 0) return;
    services.splice(at, 1);
    if (services.length === 0) this.#byHost.delete(hostname);
    this.#services -= 1;
    if (hostname.startsWith('*.')) this.#wildcards -= 1;
  }
}

const NONE: readonly DnsService[] = [];
