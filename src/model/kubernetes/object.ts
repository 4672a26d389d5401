import { err, ok, type Result } from '../../lib/result.js';
import { closedPolicy } from './closed-policy.js';
import { type Namespace, type Node, type Pod, readNamespace, readNode, readPod } from './core.js';
import { Fields, isRecord } from './fields.js';
import { keyOf } from './metadata.js';
import { readServiceEntry, readWorkloadEntry, type ServiceEntry, type WorkloadEntry } from './networking.js';
import {
  type AuthorizationPolicy,
  type PeerAuthentication,
  readAuthorizationPolicy,
  readPeerAuthentication,
} from './security.js';
import { type EndpointSlice, readEndpointSlice, readService, type Service } from './service.js';

/** Everything the mesh is made from. */
export type KubernetesObject =
  | Namespace
  | Node
  | Pod
  | Service
  | EndpointSlice
  | ServiceEntry
  | WorkloadEntry
  | AuthorizationPolicy
  | PeerAuthentication;

export type Kind = KubernetesObject['kind'];

export interface ParseError {
  /** `Pod shop/web`, or what is known of it. */
  readonly object: string;
  /** Sentences that start with a field's path, all there are. */
  readonly problems: readonly string[];
  /** What is to be enforced in its place when it never was good: policies fail closed. */
  readonly closed?: AuthorizationPolicy | PeerAuthentication;
}

/** An object, or that its kind is none of ours. */
export type Parsed = { readonly object: KubernetesObject } | { readonly ignored: string };

/** Unfolds `List` kinds into their items; anything else is a list of itself. */
export function itemsOf(document: unknown): readonly unknown[] {
  if (!isRecord(document) || typeof document.kind !== 'string' || !document.kind.endsWith('List')) return [document];
  return Array.isArray(document.items) ? document.items.flatMap(itemsOf) : [document];
}

/** Parses one Kubernetes object as YAML or JSON gave it. */
export function parseObject(value: unknown): Result<Parsed, ParseError> {
  if (!isRecord(value)) return err({ object: 'something that is no object', problems: ['it has no kind'] });
  const { apiVersion, kind } = value;
  if (typeof kind !== 'string' || typeof apiVersion !== 'string') {
    const what = describe(typeof kind === 'string' ? kind : 'an object', value);
    return err({ object: what, problems: [`${typeof kind === 'string' ? 'apiVersion' : 'kind'} is missing`] });
  }
  const slash = apiVersion.lastIndexOf('/');
  const reader = READERS.get(`${slash < 0 ? '' : `${apiVersion.slice(0, slash)}/`}${kind}`);
  if (reader === undefined)
    return ok({ ignored: `${describe(kind, value)} (${apiVersion}) is of no kind the mesh reads` });
  const problems: string[] = [];
  const object = reader(new Fields(value, '', problems));
  if (problems.length === 0) return ok({ object });
  const all = [...new Set(problems)];
  const closed = closedPolicy(object.kind, value, all);
  return err({ object: describe(kind, value), problems: all, ...(closed === undefined ? {} : { closed }) });
}

/** `Pod shop/web`: unique over all kinds. */
export function idOf(object: KubernetesObject): string {
  return `${object.kind} ${keyOf(object.metadata)}`;
}

export function formatParseError(error: ParseError): string {
  return `${error.object}: ${error.problems.join('; ')}`;
}

function describe(kind: string, value: Readonly<Record<string, unknown>>): string {
  const metadata = isRecord(value.metadata) ? value.metadata : {};
  const name = typeof metadata.name === 'string' ? metadata.name : '(no name)';
  return typeof metadata.namespace === 'string' ? `${kind} ${metadata.namespace}/${name}` : `${kind} ${name}`;
}

/** By API group and kind; every version of a group has the fields we read. */
const READERS: ReadonlyMap<string, (object: Fields) => KubernetesObject> = new Map<
  string,
  (object: Fields) => KubernetesObject
>([
  ['Namespace', readNamespace],
  ['Node', readNode],
  ['Pod', readPod],
  ['Service', readService],
  ['discovery.k8s.io/EndpointSlice', readEndpointSlice],
  ['networking.istio.io/ServiceEntry', readServiceEntry],
  ['networking.istio.io/WorkloadEntry', readWorkloadEntry],
  ['security.istio.io/AuthorizationPolicy', readAuthorizationPolicy],
  ['security.istio.io/PeerAuthentication', readPeerAuthentication],
]);
